"""Exchanges whose rates and budgets are decided in a real Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.shared_scripts import Script
from relayd.protocols.dialect import run_steps
from tests.aids.redis_connection import RedisConnection
from tests.functional.harness.redis import PROGRAM, Redis
from tests.unit.limits.shared_rig import Line
from tests.unit.proxy.harness import Harness, status_of, until
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, completion, http
from tests.unit.proxy.test_reserve import chat, fields, serving

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server")

ANSWER = http(200, completion("four"))


class LoopLine(Line):
    """Answers in a later turn of the loop, unless it is held."""

    is_held = False

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any], on_answer: Callable[[Any], None]) -> None:
        super().call(script, keys, args, on_answer)
        if not self.is_held:
            asyncio.get_running_loop().call_soon(self.turn)

    def release(self) -> None:
        self.is_held = False
        while self.waiting:
            self.turn()


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisConnection]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        made = RedisConnection(server.port)
        yield made
        made.close()


@contextlib.asynccontextmanager
async def sharing(
    folder: Path, connection: RedisConnection, route: str, a: str = "", endpoints: ScriptedEndpoints | None = None
) -> AsyncIterator[tuple[Harness, LoopLine]]:
    connection("FLUSHALL")
    async with serving(folder, route, a, endpoints or ScriptedEndpoints(a=ANSWER, b=ANSWER)) as harness:
        line, gateway = LoopLine(connection), harness.gateway
        gateway.shared = SharedLedger(gateway.ledger, line, gateway.call_later)
        gateway.shared.sync()
        await until(lambda: gateway.shared is not None and gateway.shared.is_shared)
        line.calls.clear()
        yield harness, line


async def settled(harness: Harness) -> dict[str, tuple[int, int]]:
    """What is used and held, once the server has everything."""
    shared = harness.gateway.shared
    assert shared is not None
    await until(lambda: shared.is_settled)
    return {one.rule.measure: (one.window.used, one.window.held) for one in run_steps(harness.gateway.ledger.counters())}


async def test_a_request_is_decided_by_one_call_and_settled_after_its_response(
    tmp_path: Path, connection: RedisConnection
) -> None:
    async with sharing(tmp_path, connection, "rates: [{requests: 2, per: 1m}, {tokens: 1000, per: 1h}]") as (harness, line):
        head, _ = await harness.ask(chat())
        assert status_of(head) == 200 and fields(head)["x-ratelimit-remaining-requests"] == "1"
        assert await settled(harness) == {"requests": (1, 0), "total": (5, 0)}
        assert line.calls == ["reserve", "settle"]
        assert status_of((await harness.ask(chat()))[0]) == 200
        await settled(harness)
        head, body = await harness.ask(chat())
        assert status_of(head) == 429 and 1 <= int(fields(head)["retry-after"]) <= 61
        assert json.loads(body)["error"]["code"] == "rate_limited"


async def test_an_exchange_that_ends_before_the_decision_uses_nothing(tmp_path: Path, connection: RedisConnection) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER)
    async with sharing(tmp_path, connection, "rates: [{requests: 2, per: 1m}]", "", endpoints) as (harness, line):
        line.is_held = True
        side = await harness.connect()
        side.write(chat())
        await until(lambda: len(line.waiting) == 1)
        side.close()
        await until(lambda: not harness.gateway.exchanges)
        line.release()
        assert await settled(harness) == {"requests": (0, 0)}
        assert endpoints.asked == []


@pytest.mark.parametrize(("policy", "status"), [("closed", 503), ("open", 200)])
async def test_without_the_server_a_rate_follows_on_failure(
    tmp_path: Path, connection: RedisConnection, policy: str, status: int
) -> None:
    route = f"rates: [{{requests: 1, per: 1m, on_failure: {policy}}}]"
    async with sharing(tmp_path, connection, route) as (harness, line):
        assert status_of((await harness.ask(chat()))[0]) == 200
        await settled(harness)
        line.available = False
        head, body = await harness.ask(chat())
        assert status_of(head) == status
        if status == 503:
            assert json.loads(body)["error"]["code"] == "limits_unavailable" and fields(head)["retry-after"] == "1"


async def test_a_call_that_fails_is_decided_locally(tmp_path: Path, connection: RedisConnection) -> None:
    async with sharing(tmp_path, connection, "rates: [{requests: 1, per: 1m}]") as (harness, line):
        line.lose_call = True
        assert [status_of((await harness.ask(chat()))[0]) for _ in range(2)] == [200, 429]


async def test_an_upstream_without_room_falls_back_after_the_decision(tmp_path: Path, connection: RedisConnection) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER, b=ANSWER)
    route = "rates: [{requests: 9, per: 1m}], fallbacks: [{upstream: b, on: [overloaded]}]"
    async with sharing(tmp_path, connection, route, ", rates: [{requests: 1, per: 1m}]", endpoints) as (harness, line):
        assert [status_of((await harness.ask(chat()))[0]) for _ in range(2)] == [200, 200]
        assert endpoints.names() == ["a", "b"]
        assert line.calls.count("reserve") == 4


async def test_requests_wait_for_room_that_a_settlement_frees(tmp_path: Path, connection: RedisConnection) -> None:
    route = "rates: [{tokens: 60, per: 1m, wait: 1h}]"
    async with sharing(tmp_path, connection, route) as (harness, _):
        statuses = [status_of(head) for head, _ in await asyncio.gather(*[harness.ask(chat(max_tokens=20)) for _ in range(4)])]
        assert statuses == [200] * 4
        assert await settled(harness) == {"total": (20, 0)}
