"""Permits: acquired at once if free, held to the last byte, else queued for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.proxy.sweep import enforce_timeouts
from tests.unit.proxy.harness import OK, get, post, running, status_of, until
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, http, in_turn, silent
from tests.unit.proxy.test_forward import two

ALL = "limits: {requests: 2, queue: 2}, breaker: {failures: 9}, retries: {attempts: 3, backoff: 1ms, on: [5xx, closed, timeout]}"


def only(harness: Any) -> Any:
    (exchange,) = harness.gateway.exchanges
    return exchange


async def test_a_successful_request_holds_its_permit_to_the_last_byte(tmp_path: Path) -> None:
    events, slow = in_turn(http(200, b"x" * 10)[:-5], b"x" * 5)
    async with running(tmp_path, ScriptedEndpoints(a=slow), whole=two(ALL)) as harness:
        side = await harness.connect()
        side.write(get())
        events[0].set()
        await side.head()
        (gate,) = harness.gateway.gates.limited()
        assert (gate.in_flight, gate.counts.granted_at_once) == (1, 1)
        events[1].set()
        await side.exactly(10)
        (record,) = await harness.accounted(1)
        assert (record.attempts, record.more, gate.in_flight) == (1, None, 0)


@pytest.mark.parametrize("first", [http(500), b"", http(503)], ids=["500", "closed", "503"])
async def test_a_failed_attempt_is_retried(tmp_path: Path, first: bytes) -> None:
    endpoints = ScriptedEndpoints(a=[first, first, OK])
    async with running(tmp_path, endpoints, whole=two(ALL)) as harness:
        assert status_of((await harness.ask(get()))[0]) == 200
        (record,) = await harness.accounted(1)
        assert record.attempts == 3
        assert record.more is not None and str(record.more["trail"]).count(",") == 1
        (gate,) = harness.gateway.gates.limited()
        assert (gate.in_flight, harness.plan.upstreams["a"].in_flight) == (0, 0)


async def test_a_body_is_sent_again_whole_where_it_may_be(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[http(500), OK])
    async with running(tmp_path, endpoints, whole=two(ALL.replace("on:", "idempotent: true, on:"))) as harness:
        assert status_of((await harness.ask(post(b"the body")))[0]) == 200
        assert [body for _, _, body in endpoints.asked] == [b"the body"] * 2


async def test_a_post_that_failed_gets_the_endpoints_own_answer(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(500, b"its own", content_type="text/plain"))
    async with running(tmp_path, endpoints, whole=two(ALL)) as harness:
        head, body = await harness.ask(post(b"x"))
        assert (status_of(head), body, len(endpoints.asked)) == (500, b"its own", 1)


async def test_a_silence_is_given_up_for_another_attempt(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[silent, OK])
    async with running(tmp_path, endpoints, whole=two(ALL)) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: len(endpoints.asked) == 1)
        enforce_timeouts(only(harness), clock.monotonic() + 301)
        assert status_of((await side.message())[0]) == 200


async def test_a_request_without_a_permit_waits_and_holds_its_other_permits(tmp_path: Path) -> None:
    events, first = in_turn(OK)
    whole = two("limits: {requests: 1, queue: 2}", "limits: {requests: 5}")
    async with running(tmp_path, ScriptedEndpoints(a=[first, OK]), whole=whole) as harness:
        sides = [await harness.connect() for _ in range(2)]
        sides[0].write(get())
        await until(lambda: harness.gateway.exchanges and only(harness).phase == "attempt")
        sides[1].write(get())
        await until(lambda: any(one.phase == "queue" for one in harness.gateway.exchanges))
        gates = {gate.name: gate for gate in harness.gateway.gates.limited()}
        assert {name: gate.in_flight for name, gate in gates.items()} == {"upstream a": 1, "route all": 2}
        events[0].set()
        for side in sides:
            assert status_of((await asyncio.wait_for(side.message(), 60))[0]) == 200
        await harness.accounted(2)
        assert {gate.in_flight for gate in gates.values()} == {0}


async def test_a_client_that_leaves_gives_its_permits_back(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=silent), whole=two(ALL, "limits: 3")) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.gateway.exchanges and only(harness).phase == "attempt")
        side.close()
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone"
        assert {gate.in_flight for gate in harness.gateway.gates.limited()} == {0}


async def test_a_consumers_limit_alone_refuses_without_a_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    whole = two(route="allow: [one]") + "consumers: {one: {bearer: {env: ONE}, limits: 1}}\n"
    events, first = in_turn(OK)
    async with running(tmp_path, ScriptedEndpoints(a=[first, OK]), whole=whole) as harness:
        sides = [await harness.connect() for _ in range(2)]
        sides[0].write(get("/x", "Authorization: Bearer sk-one"))
        await until(lambda: harness.gateway.exchanges and only(harness).phase == "attempt")
        sides[1].write(get("/x", "Authorization: Bearer sk-one"))
        assert status_of((await sides[1].message())[0]) == 429
        events[0].set()
        assert status_of((await sides[0].message())[0]) == 200


async def test_a_probe_that_fails_opens_the_breaker_again_and_its_permit_is_not_lost(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[http(500), http(500), OK, OK])
    whole = two("breaker: {failures: 1, open_for: 1ms}, retries: {attempts: 2, backoff: 1ms, on: [connect]}")
    async with running(tmp_path, endpoints, whole=whole) as harness:
        (endpoint,) = harness.plan.upstreams["a"].endpoints
        breaker = endpoint.breaker
        assert breaker is not None
        for wanted in (500, 500, 200, 200):
            await until(lambda: breaker.state != "open" or clock.monotonic() > breaker.until_s)
            assert status_of((await harness.ask(get("/x", "Connection: close")))[0]) == wanted
        assert (breaker.state, breaker.openings) == ("closed", 2)
        assert endpoint.in_flight == 0 and breaker.has_permit()
