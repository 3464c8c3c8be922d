"""The list of services: all of them are started, informed and closed, in order."""

from __future__ import annotations

import asyncio

from relayd.config.load import load_text
from relayd.daemon.services import Services
from relayd.daemon.timers import Timers
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan


class Written:
    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def commit(self, plan: Plan) -> None:
        self._log.append(f"{self._name} commit {plan.generation}")

    def start(self, timers: Timers) -> None:
        self._log.append(f"{self._name} start")

    def gauges(self) -> None:
        self._log.append(f"{self._name} gauges")

    def close(self) -> None:
        self._log.append(f"{self._name} close")


async def test_services_start_in_order_and_close_in_reverse_order() -> None:
    log: list[str] = []
    services = Services((Written("a", log), Written("b", log)))
    config = load_text("routes: [{name: all, respond: {body: x}}]\nlisteners: {a: {address: '127.0.0.1:1'}}", "x").config
    services.commit(compile_plan(config, 7))
    services.start(Timers(asyncio.get_running_loop()))
    services.gauges()
    services.close()
    assert log == [
        "a commit 7", "b commit 7", "a start", "b start", "a gauges", "b gauges", "b close", "a close",
    ]
