"""Queueing, attempts, retries and fallbacks of an exchange, and the final response."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.proxy.sweep import enforce_timeouts
from relayd.usage import Usage
from tests.unit.proxy.harness import OK, Harness, Side, get, post, running, soon, status_of, until
from tests.unit.proxy.scripted_endpoints import (
    DONE,
    STREAM,
    ScriptedEndpoints,
    completion,
    delta,
    http,
    in_turn,
    silent,
)

TWO = """
upstreams:
  a: {endpoints: ["http://127.0.0.1:PORT/a"], A}
  b: {endpoints: ["http://127.0.0.1:PORT/b"]}
routes: [{name: all, upstream: a, ROUTE}]
"""
CHAT = """
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"], A}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b"]}
models: {m: {upstream: a, MODEL}, other: {upstream: b, model: there}}
routes: [{name: all, protocol: FRONT, upstream: by_model, ROUTE}]
"""


def two(a: str = "", route: str = "") -> str:
    return TWO.replace("A}", f"{a}}}").replace("ROUTE", route)


def chat(a: str = "", model: str = "", route: str = "", front: str = "openai_chat") -> str:
    return CHAT.replace("A}", f"{a}}}").replace("MODEL", model).replace("ROUTE", route).replace("FRONT", front)


def asking(model: str = "m", stream: bool = False, **members: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **members}
    return post(json.dumps(body).encode(), "Content-Type: application/json", path="/v1/chat/completions")


# ---- retries


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("POST", False)])
async def test_only_what_may_be_sent_twice_is_tried_again(tmp_path: Path, method: str, again: bool) -> None:
    endpoints = ScriptedEndpoints(a=[http(502), OK])
    retries = "retries: {attempts: 3, backoff: 1ms, on: [5xx]}"
    async with running(tmp_path, endpoints, whole=two(retries)) as harness:
        request = get() if method == "GET" else post(b"x")
        head, _ = await harness.ask(request)
        assert status_of(head) == (200 if again else 502)
        assert len(endpoints.asked) == (2 if again else 1)
        (record,) = await harness.accounted(1)
        assert record.attempts == len(endpoints.asked)


async def test_a_post_is_sent_again_where_the_operator_calls_it_idempotent(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[http(503), http(503), OK])
    retries = "retries: {attempts: 3, backoff: 1ms, on: ['503'], idempotent: true}"
    async with running(tmp_path, endpoints, whole=two(retries)) as harness:
        head, _ = await harness.ask(post(b"the same body"))
        assert status_of(head) == 200 and [body for _, _, body in endpoints.asked] == [b"the same body"] * 3


async def test_after_the_last_attempt_the_client_gets_the_endpoints_own_answer(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(502, b"its own words", content_type="text/plain"))
    async with running(tmp_path, endpoints, whole=two("retries: {attempts: 2, backoff: 1ms, on: [5xx]}")) as harness:
        head, body = await harness.ask(get())
        assert status_of(head) == 502 and body == b"its own words" and len(endpoints.asked) == 2


async def test_the_client_leaving_ends_the_wait_before_the_next_attempt(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(502))
    retries = "retries: {attempts: 3, backoff: 10s, max_backoff: 20s, on: [5xx]}"
    async with running(tmp_path, endpoints, whole=two(retries)) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: endpoints.asked and harness.gateway.exchanges and next(iter(harness.gateway.exchanges)).cancel_timer)
        side.close()
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone" and len(endpoints.asked) == 1


async def test_the_attempts_are_in_a_field_where_the_route_enables_it(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[http(502), OK])
    whole = two("retries: {attempts: 2, backoff: 1ms, on: [5xx]}", "tells_attempts: true")
    async with running(tmp_path, endpoints, whole=whole) as harness:
        head, _ = await harness.ask(get())
        (record,) = await harness.accounted(1)
        line = next(line for line in head.split(b"\r\n") if line.startswith(b"X-Relayd-Attempts: "))
        assert line.endswith(b" 200") and b" 502, " in line
        assert record.more is not None and str(record.more["trail"]).endswith(" 502")


# ---- fallbacks


async def test_an_upstream_that_cannot_do_it_gives_way_to_the_next_one(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(500), b=OK)
    async with running(tmp_path, endpoints, whole=two(route="fallbacks: [b]")) as harness:
        assert status_of((await harness.ask(post(b"x")))[0]) == 200
        assert endpoints.names() == ["a", "b"] and endpoints.asked[1][2] == b"x"
        (record,) = await harness.accounted(1)
        assert record.upstream == "b"


async def test_a_clients_own_mistake_is_nobody_elses_business(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(404, b"no"), b=OK)
    async with running(tmp_path, endpoints, whole=two(route="fallbacks: [b]")) as harness:
        assert status_of((await harness.ask(post(b"x")))[0]) == 404 and endpoints.names() == ["a"]


async def test_a_fallback_of_a_model_has_its_own_model_name(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(529, {"error": {"message": "busy"}}), b=http(200, completion("hello")))
    whole = chat(model="fallbacks: [{upstream: b, model: spare}]")
    async with running(tmp_path, endpoints, whole=whole) as harness:
        head, body = await harness.ask(asking())
        assert status_of(head) == 200 and json.loads(body)["choices"][0]["message"]["content"] == "hello"
        assert [json.loads(body)["model"] for _, _, body in endpoints.asked] == ["m", "spare"]


@pytest.mark.parametrize("broken", [
    STREAM + delta(role="assistant", content=""), STREAM + b": keep-alive\n\n",
    STREAM + b'data: {"error": {"message": "overloaded", "code": 503}}\n\n',
])
async def test_a_stream_that_fails_before_its_first_content_is_replaced(tmp_path: Path, broken: bytes) -> None:
    endpoints = ScriptedEndpoints(a=broken, b=STREAM + delta(content="yes") + delta("stop") + DONE)
    async with running(tmp_path, endpoints, whole=chat(model="fallbacks: [{upstream: b, on: [any]}]")) as harness:
        head, body = await harness.ask(asking(stream=True))
        assert status_of(head) == 200 and b"yes" in body and b"overloaded" not in body
        assert endpoints.names() == ["a", "b"]


async def test_a_stream_that_has_shown_content_is_never_replaced(tmp_path: Path) -> None:
    events, half = in_turn(STREAM + delta(content="half"), b"")
    endpoints = ScriptedEndpoints(a=half, b=STREAM + delta(content="yes") + DONE)
    async with running(tmp_path, endpoints, whole=chat(model="fallbacks: [{upstream: b, on: [any]}]")) as harness:
        side = await harness.connect()
        side.write(asking(stream=True))
        events[0].set()
        assert status_of(await side.head()) == 200 and b"half" in await side.chunk()
        events[1].set()
        rest = await side.rest()
        assert b"yes" not in rest and endpoints.names() == ["a"]
        assert not rest.endswith(b"0\r\n\r\n")


# ---- capacity


LIMITED = "limits: {requests: 1, queue: 1, queue_timeout: 5s}"


async def queued(harness: Harness, endpoints: ScriptedEndpoints, request: bytes = b"") -> tuple[Side, Side]:
    """Two clients: the request of one is at the endpoint, the request of the other waits in the queue."""
    busy, waiting = await harness.connect(), await harness.connect()
    busy.write(get())
    await until(lambda: len(endpoints.asked) == 1)
    waiting.write(request or get())
    await until(lambda: any(one.phase == "queue" for one in harness.gateway.exchanges))
    return busy, waiting


async def test_who_finds_no_room_waits_and_goes_on_when_there_is(tmp_path: Path) -> None:
    events, first = in_turn(OK)
    endpoints = ScriptedEndpoints(a=[first, OK])
    async with running(tmp_path, endpoints, whole=two(LIMITED)) as harness:
        sides = await queued(harness, endpoints)
        late = await harness.connect()
        late.write(get())
        head, body = await late.message()
        assert status_of(head) == 503 and b"Retry-After: " in head and b"queue_full" in body
        assert queue_of(head) == ("", -1.0), "it is told where the route says so"
        events[0].set()
        for side in sides:
            head, _ = await side.message()
            assert status_of(head) == 200 and queue_of(head) == ("", -1.0)
        records = await harness.accounted(3)
        assert sum(record.queue_s > 0 for record in records) == 1


def queue_of(head: bytes) -> tuple[str, float]:
    """The parts of X-Relayd-Queue: the text before the seconds, and the seconds; empty and -1 without the field."""
    for line in head.split(b"\r\n"):
        if line.startswith(b"X-Relayd-Queue: "):
            position, seconds = line.decode().removeprefix("X-Relayd-Queue: ").split("waited=")
            return position.rstrip(", "), float(seconds)
    return "", -1.0


async def test_position_depth_and_wait_are_in_a_field_where_the_route_enables_it(tmp_path: Path) -> None:
    events, first = in_turn(OK)
    endpoints = ScriptedEndpoints(a=[first, OK, OK])
    whole = two("limits: {requests: 1, queue: 2, queue_timeout: 5s}", "tells_queue: true")
    async with running(tmp_path, endpoints, whole=whole) as harness:
        sides = [await harness.connect() for _ in range(4)]
        sides[0].write(get())
        await until(lambda: len(endpoints.asked) == 1)
        (gate,) = harness.gateway.gates.limited()
        sides[1].write(get())
        await until(lambda: gate.depth == 1)
        sides[2].write(get())
        await until(lambda: gate.depth == 2)
        sides[3].write(get())
        refused, _ = await sides[3].message()
        assert status_of(refused) == 503 and queue_of(refused) == ("depth=2", 0.0)
        await until(lambda: clock.monotonic() - min(one.record.started for one in harness.gateway.exchanges) > 0.01)
        events[0].set()
        assert queue_of((await sides[0].message())[0]) == ("", -1.0)
        second, third = [(await side.message())[0] for side in sides[1:3]]
        assert queue_of(second)[0] == "place=1, depth=1" and queue_of(third)[0] == "place=2, depth=2"
        waits_s = sorted(record.queue_s for record in await harness.accounted(4))
        reported_s = sorted(queue_of(head)[1] for head in (second, third))
        assert reported_s == [pytest.approx(wait_s, abs=0.0006) for wait_s in waits_s[2:]] and reported_s[0] > 0


async def test_the_queue_position_of_a_client_that_leaves_is_free_at_once(tmp_path: Path) -> None:
    events, first = in_turn(OK)
    endpoints = ScriptedEndpoints(a=[first, OK])
    async with running(tmp_path, endpoints, whole=two(LIMITED)) as harness:
        sides = [await harness.connect() for _ in range(3)]
        sides[0].write(get())
        await until(lambda: len(endpoints.asked) == 1)
        for position in (1, 2):
            sides[position].write(get())
            await until(lambda: [one.phase for one in harness.gateway.exchanges].count("queue") == 1)
            if position == 1:
                sides[1].close()
                await until(lambda: len(harness.accounts) == 1)
        events[0].set()
        assert status_of((await sides[2].message())[0]) == 200
        assert {record.code for record in await harness.accounted(3)} == {"", "client_gone"}


async def test_who_waits_too_long_is_refused_with_an_honest_time(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=silent)
    async with running(tmp_path, endpoints, whole=two(LIMITED, "tells_queue: true")) as harness:
        _, waiting = await queued(harness, endpoints)
        harness.gateway.gates.sweep(clock.monotonic() + 6)
        head, body = await waiting.message()
        assert status_of(head) == 503 and b"queue_timeout" in body and b"Retry-After: " in head
        assert queue_of(head)[0] == "place=1, depth=1" and queue_of(head)[1] >= 0


async def test_a_body_that_streams_in_while_its_request_waits_arrives_whole(tmp_path: Path) -> None:
    events, first = in_turn(http(200, b"ok", "Connection: close"))
    endpoints = ScriptedEndpoints(a=[first, OK])
    body = bytes(range(256)) * 800
    async with running(tmp_path, endpoints, whole=two(LIMITED)) as harness:
        request = get("/x", f"Content-Length: {len(body)}", method="PUT") + body[:1000]
        _, waiting = await queued(harness, endpoints, request)
        waiting.write(body[1000:])
        events[0].set()
        assert status_of((await waiting.message())[0]) == 200
        assert endpoints.asked[1][2] == body


async def test_a_consumers_own_limit_is_429_and_holds_on_every_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    whole = two(route="allow: [one], tells_queue: true") + "consumers: {one: {bearer: {env: ONE}, limits: 1}}\n"
    events, first = in_turn(OK)
    async with running(tmp_path, ScriptedEndpoints(a=[first, OK]), whole=whole) as harness:
        sides = [await harness.connect() for _ in range(2)]
        sides[0].write(get("/x", "Authorization: Bearer sk-one"))
        await until(lambda: harness.gateway.exchanges and next(iter(harness.gateway.exchanges)).phase == "attempt")
        sides[1].write(get("/x", "Authorization: Bearer sk-one"))
        head, _ = await sides[1].message()
        assert status_of(head) == 429 and b"Retry-After: " in head and queue_of(head) == ("depth=0", 0.0)
        events[0].set()
        assert status_of((await sides[0].message())[0]) == 200


async def test_a_client_that_waits_in_a_queue_gets_keepalive_comments(tmp_path: Path) -> None:
    _, first = in_turn(http(200, completion("x")))
    whole = chat(a=LIMITED, route="keepalive: 10s, tells_queue: true", front="openai_chat")
    async with running(tmp_path, ScriptedEndpoints(a=[first, OK]), whole=whole) as harness:
        sides = [await harness.connect() for _ in range(2)]
        sides[0].write(asking())
        await until(lambda: any(one.phase == "attempt" for one in harness.gateway.exchanges))
        sides[1].write(asking(stream=True))
        await until(lambda: any(one.phase == "queue" for one in harness.gateway.exchanges))
        waiting = next(one for one in harness.gateway.exchanges if one.phase == "queue")
        enforce_timeouts(waiting, clock.monotonic() + 11)
        head = await sides[1].head()
        assert status_of(head) == 200 and b"text/event-stream" in head and queue_of(head)[0] == "place=1, depth=1"
        assert await sides[1].chunk() == b": keep-alive\n\n"


# ---- the final error


async def test_a_wrong_key_of_relayds_own_is_not_shown_as_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UP", "sk-up")
    endpoints = ScriptedEndpoints(a=http(401, {"error": {"message": "bad key sk-up"}}))
    async with running(tmp_path, endpoints, whole=chat(a="auth: {bearer: {env: UP}}")) as harness:
        head, body = await harness.ask(asking())
        assert status_of(head) == 502 and json.loads(body)["error"]["code"] == "upstream_key_refused"
        assert b"sk-up" not in body
        assert b"Authorization: Bearer sk-up\r\n" in endpoints.asked[0][1]


@pytest.mark.parametrize("answer", [http(200, b"<html>", content_type="text/html"), http(200, b"")])
async def test_an_answer_that_no_api_gives_is_a_502_in_the_clients_dialect(tmp_path: Path, answer: bytes) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=answer), whole=chat()) as harness:
        head, body = await harness.ask(asking())
        assert status_of(head) == 502 and json.loads(body)["error"]["code"] == "upstream_unreadable"


async def test_an_error_of_the_endpoint_passes_in_its_own_bytes(tmp_path: Path) -> None:
    error = b'{"error": {"message":  "context too long", "code": "context_length_exceeded", "n": 12345678901234567890}}'
    async with running(tmp_path, ScriptedEndpoints(a=http(400, error, "Retry-After: 7")), whole=chat()) as harness:
        head, body = await harness.ask(asking())
        assert status_of(head) == 400 and body == error and b"Retry-After: 7\r\n" in head


@pytest.mark.parametrize(("front", "path", "error", "clean"), [
    ("openai_chat", "/v1/chat/completions", b'"code":"upstream_cut"', False),
    ("openai_responses", "/v1/responses", b"event: response.failed", True),
    ("anthropic_messages", "/v1/messages", b"event: error", True),
])
async def test_an_incomplete_stream_ends_with_an_error_in_the_clients_dialect(
    tmp_path: Path, front: str, path: str, error: bytes, clean: bool
) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n"
    body: dict[str, Any] = {"model": "m", "stream": True, "max_tokens": 9, "input": "hi"}
    if front != "openai_responses":
        body["messages"] = [{"role": "user", "content": "hi"}]
        del body["input"]
    events, half = in_turn(cut + delta(content="half"), b"")
    async with running(tmp_path, ScriptedEndpoints(a=half), whole=chat(front=front)) as harness:
        side = await harness.connect()
        side.write(post(json.dumps(body).encode(), path=path))
        events[0].set()
        head = await side.head()
        assert status_of(head) == 200
        received = await soon(side.reader.readuntil(b"half"))
        events[1].set()
        received += await soon(side.reader.readuntil(error))
        assert b"[DONE]" not in received
        if not clean:
            assert not (await side.rest()).endswith(b"0\r\n\r\n")
        (record,) = await harness.accounted(1)
        assert record.code == "upstream_cut" and record.status == 200


async def test_tokens_model_and_finish_are_in_the_account(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(b=http(200, completion("hello"))), whole=chat()) as harness:
        await harness.ask(asking("other"))
        (record,) = await harness.accounted(1)
        assert record.usage == Usage(3, 2) and record.more == {
            "finish": "stop", "model": "other", "model_there": "there",
            "model_served": "m"}


async def test_permits_come_back_whatever_happens(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[b"", http(500), STREAM + delta(content="x"), OK])
    async with running(tmp_path, endpoints, whole=two("limits: {requests: 1, queue: 9}")) as harness:
        for _ in range(4):
            side = await harness.connect()
            side.write(post(b"x", "Connection: close"))
            await side.rest()
        await harness.accounted(4)
        (gate,) = harness.gateway.gates.limited()
        assert gate.in_flight == 0 and gate.depth == 0


async def test_a_reload_that_raises_the_limit_lets_waiting_requests_go_on(tmp_path: Path) -> None:
    _, first = in_turn(OK)
    endpoints = ScriptedEndpoints(a=[first, OK])
    async with running(tmp_path, endpoints, whole=two(LIMITED)) as harness:
        _, waiting = await queued(harness, endpoints)
        (gate,) = harness.gateway.gates.limited()
        harness.gateway.gates.apply({gate.name: type(gate.limits)(2, 1)})
        assert status_of((await asyncio.wait_for(waiting.message(), 60))[0]) == 200


async def test_an_attempt_that_takes_too_long_gives_way_to_the_next_one(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[silent, OK])
    retries = "retries: {attempts: 2, backoff: 1ms, per_attempt: 5s}"
    async with running(tmp_path, endpoints, whole=two(retries)) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: len(endpoints.asked) == 1)
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 4)
        assert len(endpoints.asked) == 1
        enforce_timeouts(exchange, clock.monotonic() + 6)
        assert status_of((await side.message())[0]) == 200
        (record,) = await harness.accounted(1)
        assert record.more is not None and str(record.more["trail"]).endswith(" first_byte_timeout")


@pytest.mark.parametrize(("status", "keys", "again"), [(401, 2, True), (429, 2, True), (429, 0, False), (500, 2, False)])
async def test_a_post_that_was_refused_for_relayds_key_goes_out_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, keys: int, again: bool
) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    monkeypatch.setenv("TWO", "sk-two")
    auth = "auth: {bearer: [{env: ONE}, {env: TWO}]}, " if keys else ""
    endpoints = ScriptedEndpoints(a=[http(status, b"{}"), OK])
    async with running(tmp_path, endpoints, whole=two(f"{auth}retries: {{attempts: 2, backoff: 1ms}}")) as harness:
        head, _ = await harness.ask(post(b"x"))
        assert status_of(head) == (200 if again else status)
        used = [b"sk-one" in fields for _, fields, _ in endpoints.asked]
        assert used == ([True, False] if again else [keys > 0])


async def test_where_nobody_is_left_to_ask_the_last_error_is_the_answer(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(500, b"ill", content_type="text/plain"))
    whole = two("breaker: {failures: 1, open_for: 1h}, retries: {attempts: 3, backoff: 1ms}")
    async with running(tmp_path, endpoints, whole=whole) as harness:
        head, body = await harness.ask(get())
        assert (status_of(head), body) == (500, b"ill")
        assert len(endpoints.asked) == 1


# ---- bodies that are read to find a route


BY_BODY = """
upstreams:
  a: {endpoints: ["http://127.0.0.1:PORT/a"]}
  b: {endpoints: ["http://127.0.0.1:PORT/b"]}
consumers:
  one: {bearer: {env: ONE}}
  two: {bearer: {env: TWO}}
routes:
  - {name: small, match: {prefix: /v1/, model: ["small-*"]}, upstream: a, allow: [one], body_limit: 100}
  - {name: rest, match: {prefix: /v1/}, upstream: b, allow: [one], body_limit: 1000}
"""


def begun(length: int, *lines: str) -> bytes:
    """A request without its body, which follows later."""
    return get("/v1/x", f"Content-Length: {length}", "Content-Type: application/json", *lines, method="POST")


@pytest.mark.parametrize(("lines", "length", "status"), [
    ((), 500, 401), (("Authorization: Bearer sk-two",), 500, 403), (("Authorization: Bearer sk-one",), 1001, 413),
])
async def test_a_body_is_read_for_its_model_only_of_who_could_be_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...], length: int, status: int
) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    monkeypatch.setenv("TWO", "sk-two")
    async with running(tmp_path, ScriptedEndpoints(), whole=BY_BODY) as harness:
        side = await harness.connect()
        side.write(begun(length, *lines))
        head, _ = await side.message()
        assert status_of(head) == status
        (record,) = await harness.accounted(1)
        assert record.bytes_in == 0 and record.route == ""


async def test_a_path_that_only_its_normal_form_leads_to_a_rule_on_models_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    monkeypatch.setenv("TWO", "sk-two")
    async with running(tmp_path, ScriptedEndpoints(), whole=BY_BODY) as harness:
        side = await harness.connect()
        side.write(begun(50, "Authorization: Bearer sk-one").replace(b"/v1/x", b"//v1/x"))
        head, body = await side.message()
        assert status_of(head) == 400 and b"ambiguous_path" in body


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("model", "size", "status", "endpoints"), [
    ("small-1", 90, 200, ["a"]), ("small-1", 200, 413, []), ("large", 900, 200, ["b"]),
])
async def test_a_body_read_for_its_model_is_held_to_the_limit_of_the_route_that_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, size: int, status: int, endpoints: list[str], chunked: bool
) -> None:
    monkeypatch.setenv("ONE", "sk-one")
    monkeypatch.setenv("TWO", "sk-two")
    body = json.dumps({"model": model, "x": ""}).encode()
    body = body[:-2] + b"x" * (size - len(body)) + b'"}'
    asked = ScriptedEndpoints(a=OK, b=OK)
    async with running(tmp_path, asked, whole=BY_BODY) as harness:
        side = await harness.connect()
        request = begun(len(body), "Authorization: Bearer sk-one")
        if chunked:
            request = request.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        side.write(request)
        if chunked or status == 200:
            await until(lambda: any(one.body.is_buffering for one in harness.gateway.exchanges))
        side.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        head, _ = await side.message()
        assert status_of(head) == status and asked.names() == endpoints


# ---- classification


FREE = """
upstreams:
  up: {protocol: PROTOCOL, endpoints: ["http://127.0.0.1:PORT/a", "http://127.0.0.1:PORT/b"], balance: priority, WORDS}
routes: [{name: all, upstream: up, ROUTE}]
"""


def free(settings: str, protocol: str = "openai_chat", route: str = "") -> str:
    return FREE.replace("WORDS", settings).replace("PROTOCOL", protocol).replace("ROUTE", route)


@pytest.mark.parametrize("protocol", ["plain", "openai_chat"])
@pytest.mark.parametrize("refusal", [
    http(429, b"{}"), http(429, b"{}", "Retry-After: 60"), http(529, b"{}"), http(503, b"{}", "Retry-After: 60"),
])
async def test_a_post_that_is_refused_before_any_work_goes_to_the_free_endpoint(
    tmp_path: Path, refusal: bytes, protocol: str
) -> None:
    endpoints = ScriptedEndpoints(a=refusal, b=http(200, completion("hello")))
    async with running(tmp_path, endpoints, whole=free("retries: {attempts: 2, backoff: 10s}", protocol)) as harness:
        head, _ = await harness.ask(asking())
        assert status_of(head) == 200 and endpoints.names() == ["a", "b"]


@pytest.mark.parametrize("protocol", ["plain", "openai_chat"])
async def test_a_post_that_no_other_endpoint_can_take_is_answered_at_once(tmp_path: Path, protocol: str) -> None:
    endpoints = ScriptedEndpoints(a=http(429, {"error": {"message": "slow"}}, "Retry-After: 1"), b=http(429, b"{}", "Retry-After: 1"))
    async with running(tmp_path, endpoints, whole=free("retries: {attempts: 5, backoff: 10s}", protocol)) as harness:
        head, _ = await harness.ask(asking())
        assert status_of(head) == 429 and endpoints.names() == ["a", "b"]


@pytest.mark.parametrize("protocol", ["plain", "openai_chat"])
@pytest.mark.parametrize("settings", ["breaker: {failures: 1}", "breaker: {failures: 1}, retries: {attempts: 2, backoff: 1ms}"])
@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_an_error_about_one_clients_key_affects_no_other_client(
    tmp_path: Path, protocol: str, settings: str, status: int
) -> None:
    refusal = http(status, {"error": {"message": "Your API key", "code": "invalid_api_key"}}, "Retry-After: 60")
    endpoints = ScriptedEndpoints(a=[refusal, http(200, completion("hello"))])
    whole = free(settings, protocol, "pass_client_key: true").replace(', "http://127.0.0.1:PORT/b"', "")
    async with running(tmp_path, endpoints, whole=whole) as harness:
        head, body = await harness.ask(asking())
        assert status_of(head) == status and b"invalid_api_key" in body and b"Retry-After: 60" in head
        assert status_of((await harness.ask(asking()))[0]) == 200
