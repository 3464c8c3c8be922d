"""Copies of requests: they arrive, and do not affect the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.proxy import mirror
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.attempt import Attempt
from tests.unit.proxy.harness import OK, Harness, Side, get, post, running, status_of, until
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, completion, http, silent

WHOLE = """
upstreams:
  a: {endpoints: ["http://127.0.0.1:PORT/a"]}
  b: {endpoints: ["http://127.0.0.1:PORT/b"], LIMITS}
routes: [{name: all, upstream: a, mirror: MIRROR}]
"""


def whole(mirror: str = "b", limits: str = "") -> str:
    return WHOLE.replace("MIRROR", mirror).replace("LIMITS", limits)


async def nothing_under_way(harness: Harness) -> None:
    """The silent endpoint resets its connections: the copy ends and releases its resources."""
    for side in harness.endpoint_sides:
        if not side.writer.is_closing():
            side.reset()
    await until(lambda: not harness.plan.upstreams["b"].in_flight)


async def test_a_copy_arrives_with_the_same_body(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=OK, b=OK)
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        assert status_of((await harness.ask(post(b"the body", "X-A: 1")))[0]) == 200
        await until(lambda: sorted(endpoints.names()) == ["a", "b"])
        await until(lambda: not harness.plan.upstreams["b"].in_flight)
        assert {body for _, _, body in endpoints.asked} == {b"the body"}
        assert all(b"X-A: 1\r\n" in head for _, head, _ in endpoints.asked)
        (record,) = await harness.accounted(1)
        assert record.upstream == "a" and record.attempts == 1


async def test_a_copy_that_fails_or_hangs_changes_nothing(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=OK, b=[http(500, b"no"), b"", silent])
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        for _ in range(3):
            head, body = await asyncio.wait_for(harness.ask(post(b"x")), 60)
            assert status_of(head) == 200 and body == b"ok"
        await until(lambda: endpoints.names().count("b") == 3)
        assert harness.plan.upstreams["b"].in_flight == 1
        await nothing_under_way(harness)


async def test_a_copy_that_nobody_answers_ends_with_the_upstreams_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "CHECK_S", 0.01)
    endpoints = ScriptedEndpoints(a=OK, b=silent)
    text = whole(limits="timeouts: {first_byte: 50ms}")
    async with running(tmp_path, endpoints, whole=text) as harness:
        assert status_of((await harness.ask(get()))[0]) == 200
        await until(lambda: endpoints.names().count("b") == 1 and not harness.plan.upstreams["b"].in_flight)


async def test_no_copy_is_sent_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=OK, b=silent)
    async with running(tmp_path, endpoints, whole=whole(limits="limits: {requests: 1, queue: 5}")) as harness:
        for _ in range(3):
            assert status_of((await harness.ask(get()))[0]) == 200
        await until(lambda: endpoints.names().count("b") == 1)
        (gate,) = harness.gateway.gates.limited()
        assert gate.in_flight == 1 and gate.depth == 0
        await nothing_under_way(harness)
        assert gate.in_flight == 0


async def test_a_share_of_nothing_copies_nothing(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=OK, b=OK)
    async with running(tmp_path, endpoints, whole=whole("{upstream: b, share: 0}")) as harness:
        for _ in range(20):
            await harness.ask(get())
        assert endpoints.names() == ["a"] * 20


def _raises(*_given: object, **_named: object) -> None:
    raise AttributeError("planted")


async def test_a_fault_in_the_timer_of_a_copy_ends_only_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "CHECK_S", 0.01)
    monkeypatch.setattr(Attempt, "expired", _raises)
    endpoints = ScriptedEndpoints(a=OK, b=silent)
    async with running(tmp_path, endpoints, whole=whole(limits="limits: {requests: 1}")) as harness:
        assert status_of((await harness.ask(get()))[0]) == 200
        (gate,) = harness.gateway.gates.limited()
        await until(lambda: any(record.exc_info for record in caplog.records if record.name == "relayd.mirror"))
        await until(lambda: not harness.plan.upstreams["b"].in_flight and not gate.in_flight)
        assert status_of((await harness.ask(get()))[0]) == 200


async def test_a_fault_in_the_making_of_a_copy_gives_back_its_lease_and_its_permit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "message_for", _raises)
    endpoints = ScriptedEndpoints(a=OK, b=silent)
    async with running(tmp_path, endpoints, whole=whole(limits="limits: {requests: 1}")) as harness:
        for _ in range(3):
            assert status_of((await harness.ask(post(b"x")))[0]) == 200
        assert not harness.plan.upstreams["b"].in_flight
        (gate,) = harness.gateway.gates.limited()
        assert not gate.in_flight
        faults = [record for record in caplog.records if record.name == "relayd.mirror"]
        assert len(faults) == 3 and all(record.exc_info for record in faults)
        assert endpoints.names() == ["a"] * 3


CHAT = """
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"]}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b"]}
routes: [{name: all, upstream: a, protocol: openai_chat, mirror: b}]
"""


async def test_a_copy_counts_with_all_bodies_in_memory_and_is_not_made_without_room(tmp_path: Path) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 300_000)
    asking = post(body, "Content-Type: application/json", path="/v1/chat/completions")
    seen = asyncio.Event()

    async def late(side: Side) -> None:
        await seen.wait()

    endpoints = ScriptedEndpoints(a=http(200, completion("hello")), b=[late])
    async with running(tmp_path, endpoints, whole=CHAT) as harness:
        copies, buffers = harness.plan.upstreams["b"], harness.gateway.buffers
        assert status_of((await harness.ask(asking))[0]) == 200
        await until(lambda: endpoints.names().count("b") == 1)
        await until(lambda: not harness.gateway.exchanges)
        assert buffers.used > 200_000, "the copy keeps what the exchange has let go"
        buffers.configure(500_000, 10.0)
        assert status_of((await harness.ask(asking))[0]) == 200
        assert copies.in_flight == 1
        seen.set()
        await until(lambda: not buffers.used)


async def test_a_fault_in_a_later_turn_of_the_translation_ends_only_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def late() -> Iterator[None]:
        for _ in range(400_000):  # more steps than one turn has time for
            yield
        raise AttributeError("planted")

    def prepared() -> Iterator[None]:
        yield

    asking = post(b'{"model":"m","messages":[{"role":"user","content":"x"}]}', "Content-Type: application/json",
                  path="/v1/chat/completions")  # fmt: skip
    monkeypatch.setattr(AiRequest, "preparation_steps", lambda _, target: late() if target.upstream.name == "b" else prepared())
    endpoints = ScriptedEndpoints(a=http(200, completion("hello")), b=silent)
    async with running(tmp_path, endpoints, whole=CHAT) as harness:
        assert status_of((await harness.ask(asking))[0]) == 200
        await until(lambda: any(record.exc_info for record in caplog.records if record.name == "relayd.mirror"))
        assert not harness.plan.upstreams["b"].in_flight
