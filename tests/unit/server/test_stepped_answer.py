"""The pages and feeds of the admin application for a large configuration: no turn of the loop is long, and an answer whose
steps fail is an error.

A turn ends with the step during which its time has passed, so the longest step is what others wait for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.access.key_record import KeyRecord
from relayd.config.load import load_text
from relayd.limits.counter import REQUESTS, Rule
from relayd.limits.window import Span
from relayd.plan.compile import compile_plan
from relayd.protocols.dialect import run_steps
from relayd.proxy.respond import Answer, answer
from relayd.server import admin_keys
from relayd.server.api_documents import PATHS, ApiDocuments
from relayd.server.dashboard_state import DashboardState, difference
from relayd.server.stepped_answer import SteppedAnswer
from relayd.telemetry.metrics import BATCH
from relayd.telemetry.sinks import statsd
from relayd.telemetry.trace import Trace
from relayd.wire.json_steps import Steps
from tests.aids.steps import MOST_UNITS, units_of
from tests.unit.server.recording_responder import RecordingResponder, later
from tests.unit.server.test_admin_keys import gateway
from tests.unit.server.test_admin_views import Views, admin_views
from tests.unit.telemetry.record import record

ROUTES, UPSTREAMS, ENDPOINTS, VALUES = 900, 200, 10, 50_000
NAMES = [f"upstream_{number}" for number in range(UPSTREAMS)]


@asynccontextmanager
async def large() -> AsyncIterator[Views]:
    """Many routes, upstreams and endpoints, with traffic on each, and as many values of a rate as are kept."""
    config = {
        "listeners": {"public": {"address": "127.0.0.1:8282"}},
        "upstreams": {
            name: {"protocol": "openai_chat", "limits": {"requests": 8}, "endpoints": [f"http://10.0.{number}.{one}/v1" for one in range(ENDPOINTS)]}
            for number, name in enumerate(NAMES)
        },
        "routes": [
            {"name": f"route_{number}", "match": {"prefix": f"/{number}/v1/"}, "protocol": "openai_chat", "upstream": NAMES[number % UPSTREAMS]}
            for number in range(ROUTES)
        ],
    }
    async with admin_views() as views:
        relayd, metrics = views.gateway, views.telemetry.metrics
        relayd.plan = compile_plan(load_text(json.dumps(config), "relayd.yaml").config, 7, gates=relayd.gates)
        relayd.gates.apply(relayd.plan.gate_limits)
        rule = Rule("route r", REQUESTS, 10, Span.sliding(60), each="client")
        for number in range(VALUES):
            relayd.ledger.counter_of(rule, f"10.{number}")
        trace = Trace("a" * 32, None, "", sampled=True)
        for number in range(ROUTES):
            one = record(
                route=f"route_{number}", upstream=NAMES[number % UPSTREAMS], connect_s=0.1, queue_s=0.1, trace=trace,
            )
            for _ in range(BATCH - 1):
                metrics.count_exchange(one)
        metrics.set_gauges("relayd.upstream.available", {(name, str(one)): 1 for name in NAMES for one in range(5)})
        yield views


def stepped(make: Callable[[], Steps[Any]]) -> None:
    assert units_of(make) < MOST_UNITS, make


async def test_no_page_of_a_large_configuration_takes_a_long_turn() -> None:
    async with large() as views:
        for view in views.views.pages.values():
            stepped(view.steps)
        stepped(lambda: views.views.metrics("application/openmetrics-text"))
        for path in PATHS:
            stepped(lambda: ApiDocuments(views.views, {"/reload": views.reload}).steps(path))  # noqa: B023


async def test_no_feed_of_a_large_configuration_takes_a_long_turn() -> None:
    async with large() as views:
        state = DashboardState(views.gateway, views.telemetry, views.state)
        stepped(state.read)
        rows = {str(number): [number] * 20 for number in range(5000)}
        changed = {key: [*row[:19], "x"] for key, row in rows.items()}
        stepped(lambda: difference({"endpoints": rows}, {"endpoints": changed}))
        sink = statsd.Sink(statsd.Options(address="127.0.0.1:9"), views.telemetry.metrics)
        sink.prepare()
        stepped(sink.flush)
        sink.close()


async def test_the_most_used_keys_and_rates_come_first() -> None:
    async with large() as views:
        used = views.gateway.ledger.counter_of(Rule("route r", REQUESTS, 10, Span.sliding(60), each="client"), "10.25000")
        views.gateway.ledger.reserve([(used, 3)], views.gateway.ledger.now())
        _, data = views.get("/limits")
        assert data["limits"][0]["value"] == "10.25000" and data["limits"][0]["used"] == 3
        assert len(data["limits"]) == 1000 and data["more"] == VALUES - 1000


def test_no_page_of_many_keys_takes_a_long_turn(tmp_path: Path) -> None:
    records = [KeyRecord(f"{number:012x}", f"k{number}", "ab" * 32, revoked_s=float(number % 2)) for number in range(20_000)]
    stored = gateway(tmp_path, *records)
    stepped(lambda: admin_keys.keys(stored))
    page: Any = run_steps(admin_keys.keys(stored))
    assert {one["state"] for one in page["keys"]} == {"valid"} and page["omitted"] == 19_000


def steps_of(*parts: bytes, fault: Exception | None = None) -> Steps[Answer]:
    for _ in parts:
        yield
    if fault is not None:
        raise fault
    return answer(200, "text/plain", b"".join(parts))


async def test_an_answer_whose_steps_are_short_comes_in_the_same_turn() -> None:
    responder = RecordingResponder()
    SteppedAnswer(responder, steps_of(b"a", b"b"), later)
    assert responder.ended and responder.written == b"ab"


@pytest.mark.parametrize("in_turn", [1, 2])
async def test_an_answer_whose_steps_fail_is_an_error(in_turn: int, caplog: pytest.LogCaptureFixture) -> None:
    responder = RecordingResponder()
    waiting: list[Callable[[], None]] = []

    def next_turn(delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        waiting.append(callback)
        return waiting.clear

    def steps() -> Steps[Answer]:
        if in_turn == 2:
            end_s = clock.monotonic() + 0.01  # longer than a turn
            while clock.monotonic() < end_s:
                pass
            yield
        raise RuntimeError("one row")

    SteppedAnswer(responder, steps(), next_turn)
    assert len(waiting) == in_turn - 1
    for callback in waiting:
        callback()
    assert responder.failed and not responder.ended and "one row" in caplog.text


async def test_a_client_that_leaves_ends_the_steps() -> None:
    responder, ended = RecordingResponder(), []
    waiting: list[Callable[[], None]] = []

    def next_turn(delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        waiting.append(callback)
        return waiting.clear

    def steps() -> Steps[Answer]:
        try:
            while True:
                yield
        finally:
            ended.append(True)

    handler = SteppedAnswer(responder, steps(), next_turn)
    assert waiting and not ended
    handler.close()
    assert ended and not waiting and not responder.ended and not responder.failed
