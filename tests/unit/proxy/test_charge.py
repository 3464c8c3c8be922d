"""What every kind of end costs: nothing stays reserved, and the right amounts are charged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.limits.prices import Prices, price
from relayd.protocols.dialect import run_steps
from relayd.proxy.sweep import enforce_timeouts
from tests.unit.proxy.harness import Harness, Side, post, running, soon, status_of, until
from tests.unit.proxy.scripted_endpoints import DONE, STREAM, ScriptedEndpoints, chunk, completion, delta, http, silent

WHOLE = """
upstreams: {a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"], UPSTREAM}}
consumers: {team: {bearer: {env: TEAM_KEY}, rates: [{tokens: 9000, per: 1h, of: output}]}}
routes:
  - {name: r, protocol: FRONT, upstream: a, allow: [team], rates: [{requests: 100, per: 1h}, {tokens: 10000, per: 1h}],
     budget: [{amount: 1, per: day}]}
"""
MODEL, TEXT = "m", "Twelve words"
MESSAGES = [{"role": "user", "content": "x" * 400}]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai_chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1000}),
    "openai_responses": ("/v1/responses", {"input": "x" * 400, "max_output_tokens": 1000, "store": False}),
    "anthropic_messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 1000}),
}
USAGE = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
MICRO = 1000  # nano-units


@pytest.fixture(params=list(BODIES))
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "team-key-0123456789")


def request_of(front: str, stream: bool, **members: Any) -> bytes:
    path, body = BODIES[front]
    raw = json.dumps({"model": MODEL, "stream": stream, **body, **members}).encode()
    return post(raw, "Content-Type: application/json", "Authorization: Bearer team-key-0123456789", path=path)


def input_estimate(front: str, stream: bool) -> int:
    return -(-len(request_of(front, stream).partition(b"\r\n\r\n")[2]) // 4)


def answered(stream: bool, usage: dict[str, int] | None) -> bytes:
    if not stream:
        body = completion(TEXT)
        body.pop("usage")
        return http(200, body if usage is None else {**body, "usage": usage})
    pieces = delta(role="assistant") + delta(content=TEXT) + delta("stop")
    return STREAM + pieces + (b"" if usage is None else chunk(choices=[], usage=usage)) + DONE


def begun(then: Callable[[Side], Any]) -> Callable[[Side], Any]:
    """A stream that begins, and what happens then."""

    async def script(side: Side) -> None:
        side.write(STREAM + delta(role="assistant") + delta(content=TEXT))
        await then(side)

    return script


async def text_of(side: Side) -> None:
    await soon(side.reader.readuntil(TEXT.encode()))


def counted(harness: Harness) -> dict[str, int]:
    """What is used, by measure. Nothing is reserved any more, and records and spend have the same cost as the budget."""
    counters = run_steps(harness.gateway.ledger.counters())
    assert [(one.window.held, one.window.pending) for one in counters] == [(0, 0)] * len(counters)
    found = {one.rule.measure: one.window.used for one in counters}
    records = harness.accounts
    assert all(one.cost_estimated == (one.cost_nano is not None and one.usage is None) for one in records)
    assert sum(one.cost_nano or 0 for one in records) == found["cost"]
    spent = harness.gateway.spend.pop()
    assert sum(counts.cost_nano for _, counts in spent) == found["cost"]
    assert sum(counts.estimated for _, counts in spent) == sum(one.cost_estimated for one in records)
    return found


def charged(requests: int, tokens: int, output: int, micro: int) -> dict[str, int]:
    return {"requests": requests, "total": tokens, "output": output, "cost": micro * MICRO}


def priced(harness: Harness) -> None:
    """One input token costs one millionth, an output token three, a request ten."""
    prices = Prices("USD", [("*", price(input=10**9, output=3 * 10**9, request=10 * MICRO))])
    harness.gateway.plan = replace(harness.plan, prices=prices)


def running_with(tmp_path: Path, front: str, answer: Any, upstream: str = "") -> Any:
    return running(tmp_path, ScriptedEndpoints(a=answer), whole=WHOLE.replace("FRONT", front).replace(", UPSTREAM", upstream))


async def test_a_complete_response_costs_what_the_endpoint_reports(tmp_path: Path, front: str, stream: bool) -> None:
    async with running_with(tmp_path, front, answered(stream, USAGE)) as harness:
        priced(harness)
        assert status_of((await harness.ask(request_of(front, stream)))[0]) == 200
        await harness.accounted(1)
        assert counted(harness) == charged(1, 107, 7, 10 + 100 + 21)


async def test_a_response_without_a_report_costs_the_estimate_and_its_text(tmp_path: Path, front: str, stream: bool) -> None:
    async with running_with(tmp_path, front, answered(stream, None), ", dialect: {ask_usage: false}") as harness:
        priced(harness)
        assert status_of((await harness.ask(request_of(front, stream)))[0]) == 200
        await harness.accounted(1)
        tokens = input_estimate(front, stream)
        assert counted(harness) == charged(1, tokens + 3, 3, 10 + tokens + 9)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_of_the_endpoint_counts_as_a_request_only(
    tmp_path: Path, front: str, stream: bool, status: int
) -> None:
    async with running_with(tmp_path, front, http(status, {"error": {"message": "no"}})) as harness:
        priced(harness)
        assert status_of((await harness.ask(request_of(front, stream)))[0]) == status
        await harness.accounted(1)
        assert counted(harness) == charged(1, 0, 0, 0)


@pytest.mark.parametrize("answer", [http(500), http(503, {"error": {"message": "no"}}), b"", http(200, b"no JSON")],
                         ids=["500", "503", "closed", "unreadable"])  # fmt: skip
async def test_a_failure_of_the_upstream_costs_nothing(tmp_path: Path, front: str, stream: bool, answer: bytes) -> None:
    is_delivered = front == "openai_chat" and answer.endswith(b"no JSON")  # the same dialect: it passes as it is
    async with running_with(tmp_path, front, answer) as harness:
        priced(harness)
        status = status_of((await harness.ask(request_of(front, stream)))[0])
        await harness.accounted(1)
        tokens = input_estimate(front, stream)
        assert (status == 200, counted(harness)) == (
            is_delivered, charged(1, tokens, 0, 10 + tokens) if is_delivered else charged(0, 0, 0, 0)
        )


async def test_a_timeout_before_the_response_costs_nothing(tmp_path: Path, front: str, stream: bool) -> None:
    endpoints = ScriptedEndpoints(a=silent)
    async with running(tmp_path, endpoints, whole=WHOLE.replace("FRONT", front).replace(", UPSTREAM", "")) as harness:
        priced(harness)
        side = await harness.connect()
        side.write(request_of(front, stream))
        await until(lambda: endpoints.asked)
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 301)
        assert status_of((await side.message())[0]) == 504
        await harness.accounted(1)
        assert counted(harness) == charged(0, 0, 0, 0)


async def test_a_client_that_leaves_before_the_response_pays_its_input(tmp_path: Path, front: str, stream: bool) -> None:
    endpoints = ScriptedEndpoints(a=silent)
    async with running(tmp_path, endpoints, whole=WHOLE.replace("FRONT", front).replace(", UPSTREAM", "")) as harness:
        priced(harness)
        side = await harness.connect()
        side.write(request_of(front, stream))
        await until(lambda: endpoints.asked)
        held = {one.rule.measure: one.window.held for one in run_steps(harness.gateway.ledger.counters())}
        tokens = input_estimate(front, stream)
        assert held == charged(1, tokens + 1000, 1000, 10 + tokens + 3000)
        side.reset()
        await harness.accounted(1)
        assert counted(harness) == charged(1, tokens, 0, 10 + tokens)


async def test_a_client_that_leaves_a_stream_pays_its_input_and_the_text_so_far(tmp_path: Path, front: str) -> None:
    async with running_with(tmp_path, front, begun(silent)) as harness:
        priced(harness)
        side = await harness.connect()
        side.write(request_of(front, True))
        await text_of(side)
        side.reset()
        await harness.accounted(1)
        tokens = input_estimate(front, True)
        assert counted(harness) == charged(1, tokens + 3, 3, 10 + tokens + 9)


async def test_a_stream_that_breaks_costs_its_input_and_the_text_so_far(tmp_path: Path, front: str) -> None:
    arrived = asyncio.Event()

    async def breaks(side: Side) -> None:
        await arrived.wait()
        side.reset()

    async with running_with(tmp_path, front, begun(breaks)) as harness:
        priced(harness)
        side = await harness.connect()
        side.write(request_of(front, True))
        await text_of(side)
        arrived.set()
        await harness.accounted(1)
        tokens = input_estimate(front, True)
        assert counted(harness) == charged(1, tokens + 3, 3, 10 + tokens + 9)


async def test_what_a_broken_stream_has_reported_is_charged(tmp_path: Path, front: str) -> None:
    async def reports(side: Side) -> None:
        side.write(chunk(choices=[], usage=USAGE))
        side.close()

    async with running_with(tmp_path, front, begun(reports)) as harness:
        side = await harness.connect()
        side.write(request_of(front, True))
        await harness.accounted(1)
        assert counted(harness) == charged(1, 107, 7, 0)


async def test_the_estimate_of_a_cut_stream_is_at_most_its_reservation(tmp_path: Path) -> None:
    async def long(side: Side) -> None:
        side.write(delta(content="y" * 4000))
        await silent(side)

    async with running_with(tmp_path, "openai_chat", begun(long)) as harness:
        side = await harness.connect()
        side.write(request_of("openai_chat", True, max_tokens=5))
        await soon(side.reader.readuntil(b"yyyy"))
        side.reset()
        await harness.accounted(1)
        assert counted(harness)["output"] == 5


async def test_retries_and_fallbacks_count_once(tmp_path: Path) -> None:
    retries = ", retries: {attempts: 3, backoff: 1ms, idempotent: true, on: [5xx]}"
    answers = [http(500), http(503), answered(False, USAGE)]
    async with running_with(tmp_path, "openai_chat", answers, retries) as harness:
        assert status_of((await harness.ask(request_of("openai_chat", False)))[0]) == 200
        (record,) = await harness.accounted(1)
        assert record.attempts == 3
        assert counted(harness) == charged(1, 107, 7, 0)


async def test_an_upstream_that_cannot_be_reached_costs_nothing(tmp_path: Path, front: str, stream: bool) -> None:
    whole = WHOLE.replace("FRONT", front).replace(", UPSTREAM", "").replace("127.0.0.1:PORT", "127.0.0.1:1")
    async with running(tmp_path, whole=whole) as harness:
        assert status_of((await harness.ask(request_of(front, stream)))[0]) == 502
        await harness.accounted(1)
        assert counted(harness) == charged(0, 0, 0, 0)


async def test_a_hit_costs_one_request(tmp_path: Path, front: str, stream: bool) -> None:
    whole = WHOLE.replace("FRONT", front).replace(", UPSTREAM", "").replace("allow: [team],", "allow: [team], cache: {when: always},")
    async with running(tmp_path, ScriptedEndpoints(a=answered(stream, USAGE)), whole=whole) as harness:
        priced(harness)
        request = request_of(front, stream)
        there = await harness.ask(request)
        await until(lambda: run_steps(harness.gateway.store.list_steps("cache:", 1)))
        hit = await harness.ask(request)
        assert b"relayd; hit" in hit[0] and hit[1] == there[1]
        await harness.accounted(2)
        assert counted(harness) == charged(2, 107, 7, 10 + 100 + 21)
