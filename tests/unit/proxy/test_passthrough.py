"""Passthrough requests of a dialect: recorded usage, and the handling of failed attempts."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.proxy.attempt import Attempt
from relayd.proxy.exchange import Exchange
from relayd.proxy.request_body import RequestBody
from relayd.proxy.retry_loop import RetryLoop
from relayd.proxy.sweep import enforce_timeouts
from relayd.usage import Usage
from relayd.wire.body import model_of
from tests.unit.proxy.harness import post, running, soon, status_of, until
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

WHOLE = """
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"]A}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b"]}
  other: {protocol: anthropic_messages, endpoints: ["http://127.0.0.1:PORT/c"]}
models: {m: {upstream: a, MODEL}, there: {upstream: other}}
routes: [{name: all, protocol: openai_chat, upstream: UP ROUTE}]
"""


def whole(a: str = "", up: str = "by_model", route: str = "", model: str = "model: served") -> str:
    a, route = (", " + one if one else "" for one in (a, route))
    return WHOLE.replace("A}", f"{a}}}").replace("UP", up).replace(" ROUTE", route).replace("MODEL", model)


def asking(model: str = "m", stream: bool = False, **members: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **members}
    return post(json.dumps(body).encode(), "Content-Type: application/json", path="/v1/chat/completions")


async def test_models_and_tokens_of_a_stream_that_passes_are_in_the_account(tmp_path: Path) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    received = STREAM + delta(content="hel") + delta(content="lo") + delta("stop") + usage + DONE
    endpoints = ScriptedEndpoints(a=received)
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        head, body = await harness.ask(asking(stream=True))
        assert status_of(head) == 200 and b"hel" in body and b"usage" not in body, "nobody had asked for usage"
        sent = json.loads(endpoints.asked[0][2])
        assert sent["model"] == "served" and sent["stream_options"] == {"include_usage": True}
        (record,) = await harness.accounted(1)
        more = dict(record.more or {})
        assert float(more.pop("first_token_ms")) > 0
        more.pop("tokens_per_s", None)
        assert record.usage == Usage(7, 2)
        assert more == {"finish": "stop", "model": "m", "model_there": "served"}


async def test_permits_are_held_to_the_last_byte_and_given_back(tmp_path: Path) -> None:
    events, first = in_turn(http(200, completion("x"), "Connection: close"))
    endpoints = ScriptedEndpoints(a=[first, http(200, completion("y"))])
    async with running(tmp_path, endpoints, whole=whole(a="limits: {requests: 1, queue: 1}")) as harness:
        sides = [await harness.connect() for _ in range(2)]
        sides[0].write(asking())
        await until(lambda: len(endpoints.asked) == 1)
        (gate,) = harness.gateway.gates.limited()
        sides[1].write(asking())
        await until(lambda: gate.depth == 1)
        next(one for one in harness.gateway.exchanges if one.phase == "queue")
        events[0].set()
        for side in sides:
            assert status_of((await side.message())[0]) == 200
        assert gate.in_flight == 0


@pytest.mark.parametrize(("answer", "status", "code"), [
    (http(429, {"error": {"message": "slow", "code": "rate"}}, "Retry-After: 3"), 429, "rate"),
    (http(200, b"<html>", content_type="text/html"), 502, "upstream_unreadable"),
    (b"", 502, None), (b"nonsense\r\n\r\n", 502, None),
])
async def test_an_invalid_or_error_response_becomes_an_error_in_the_dialect(
    tmp_path: Path, answer: bytes, status: int, code: str | None
) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=answer), whole=whole()) as harness:
        side = await harness.connect()
        side.write(asking())
        head, body = await side.message()
        assert status_of(head) == status
        error = json.loads(body)["error"]
        assert error["message"] and (code is None or error["code"] == code)
        (record,) = await harness.accounted(1)
        assert record.more is not None and record.more["model"] == "m" and record.upstream == "a"


async def test_a_failure_before_the_answer_is_tried_again(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[http(503, {"error": {"message": "busy"}}), http(200, completion("yes"))])
    retries = "retries: {attempts: 2, backoff: 1ms, on: ['503'], idempotent: true}"
    async with running(tmp_path, endpoints, whole=whole(a=retries)) as harness:
        head, body = await harness.ask(asking())
        assert status_of(head) == 200 and b"yes" in body and len(endpoints.asked) == 2
        (record,) = await harness.accounted(1)
        assert record.attempts == 2 and record.usage is not None and record.usage.output == 2


@pytest.mark.parametrize("ending", ["cut", "idle", "total"])
async def test_an_incomplete_stream_ends_with_an_error_in_its_dialect_and_is_recorded(tmp_path: Path, ending: str) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n"
    limits = {"cut": "", "idle": "timeouts: {idle: 5s}", "total": "timeouts: {total: 5s}"}[ending]
    events, play = in_turn(cut + delta(content="half"), b"")
    async with running(tmp_path, ScriptedEndpoints(a=play), whole=whole(a=limits)) as harness:
        side = await harness.connect()
        side.write(asking(stream=True))
        events[0].set()
        assert status_of(await side.head()) == 200
        received = await soon(side.reader.readuntil(b"half"))
        if ending == "cut":
            events[1].set()
        else:
            (exchange,) = harness.gateway.exchanges
            enforce_timeouts(exchange, clock.monotonic() + 6)
        received += await side.rest()
        code = {"cut": "upstream_cut", "idle": "idle_timeout", "total": "total_timeout"}[ending]
        assert f'"code":"{code}"'.encode() in received and not received.endswith(b"0\r\n\r\n") and b"[DONE]" not in received
        (record,) = await harness.accounted(1)
        assert record.code == code and record.status == 200 and record.more is not None
        assert record.more["model"] == "m" and float(record.more["first_token_ms"]) > 0


async def test_an_endpoint_that_is_slow_to_answer_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=silent), whole=whole(a="timeouts: {first_byte: 5s}")) as harness:
        side = await harness.connect()
        side.write(asking())
        await until(lambda: any(one.attempt is not None for one in harness.gateway.exchanges))
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 4)
        enforce_timeouts(exchange, clock.monotonic() + 6)
        head, body = await side.message()
        assert status_of(head) == 504 and json.loads(body)["error"]["code"] == "first_byte_timeout"


@pytest.mark.parametrize("ended", [True, False])
async def test_a_stream_that_ends_with_its_connection_must_say_that_it_is_whole(tmp_path: Path, ended: bool) -> None:
    bare = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    last = delta("stop") + DONE if ended else b""
    events, play = in_turn(bare + delta(content="x"), last)
    async with running(tmp_path, ScriptedEndpoints(a=play), whole=whole()) as harness:
        side = await harness.connect()
        side.write(asking(stream=True))
        events[0].set()
        assert status_of(await side.head()) == 200
        events[1].set()
        received = await (soon(side.reader.readuntil(b"0\r\n\r\n")) if ended else side.rest())
        assert (b"[DONE]" in received) is ended and received.endswith(b"0\r\n\r\n") is ended
        (record,) = await harness.accounted(1)
        assert record.code == ("" if ended else "upstream_cut")


async def test_the_client_leaving_cancels_it(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=silent), whole=whole()) as harness:
        side = await harness.connect()
        side.write(asking())
        await until(lambda: any(one.attempt is not None for one in harness.gateway.exchanges))
        side.close()
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone" and record.more is not None and record.more["model"] == "m"


async def test_a_client_that_leaves_may_let_its_answer_be_finished(tmp_path: Path) -> None:
    events, play = in_turn(STREAM + delta(content="half"), delta(content="more"), delta("stop") + DONE)
    async with running(tmp_path, ScriptedEndpoints(a=play), whole=whole(up="a", route="on_disconnect: finish")) as harness:
        side = await harness.connect()
        side.write(asking(stream=True))
        events[0].set()
        await side.head()
        side.close()
        (exchange,) = harness.gateway.exchanges
        await until(lambda: exchange.client_detached)
        assert exchange.attempt is not None
        slot = exchange.attempt.slot
        assert slot is not None
        before = slot.insize
        events[1].set()
        await until(lambda: slot.insize != before or not slot.chunks)
        assert not slot.chunks, "what nobody will get is not kept"
        events[2].set()
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone" and record.more is not None and record.more["finish"] == "stop"


@pytest.mark.parametrize(("config", "model", "answer"), [
    (whole(), "m", http(200, completion("x"))), (whole(route="fallbacks: [b]"), "m", http(200, completion("x"))),
    (whole(), "m", http(400, {"error": {"message": "no"}})), (whole(), "there", http(400, {"error": {"message": "no"}})),
])
async def test_what_an_exchange_held_is_free_when_it_is_over(
    tmp_path: Path, config: str, model: str, answer: bytes
) -> None:
    """Freed without the cycle collector: under load there would be thousands, in cold memory."""
    async with running(tmp_path, ScriptedEndpoints(a=answer, b=answer, c=answer), whole=config) as harness:
        gc.collect()
        gc.disable()
        kinds = Exchange | Attempt | RetryLoop | RequestBody
        before = {id(one) for one in gc.get_objects() if isinstance(one, kinds)}  # of earlier tests' loops
        try:
            side = await harness.connect()
            side.write(asking(model))
            await side.message()
            await harness.accounted(1)
            assert not [one for one in gc.get_objects() if isinstance(one, kinds) and id(one) not in before]
        finally:
            gc.enable()


LASTING = """
upstreams:
  plain: {endpoints: ["http://127.0.0.1:PORT/a"]}
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"]}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b"]}
routes:
  - {name: plain, match: {prefix: /plain/}, upstream: plain}
  - {name: long, match: {prefix: /long/}, upstream: a, fallbacks: [b]}
  - {name: responses, match: {path: /v1/responses}, protocol: openai_responses, upstream: a}
  - {name: messages, match: {path: /v1/messages}, protocol: anthropic_messages, upstream: a}
  - {name: chat, upstream: a}
"""
TURN = [{"role": "user", "content": "x" * 1_000_000}]


@pytest.mark.parametrize(("path", "members"), [
    ("/plain/v1/chat/completions", {"messages": TURN}), ("/v1/chat/completions", {"messages": TURN}),
    ("/long/v1/chat/completions", {"messages": TURN}), ("/v1/responses", {"input": TURN, "store": False}),
    ("/v1/messages", {"messages": TURN, "max_tokens": 9}),
])
async def test_a_request_is_let_go_while_its_answer_lasts(tmp_path: Path, path: str, members: dict[str, Any]) -> None:
    """Streams last for minutes, and an agent's requests are large."""
    events, play = in_turn(STREAM + delta(content="half"), delta("stop") + DONE)
    endpoints = ScriptedEndpoints(a=play)
    request = post(json.dumps({"model": "m", "stream": True, **members}).encode(), path=path)
    async with running(tmp_path, endpoints, whole=LASTING) as harness:
        side = await harness.connect()
        tracemalloc.start()
        try:
            side.write(request)
            events[0].set()
            assert status_of(await side.head()) == 200
            await soon(side.reader.readuntil(b"half"))
            assert len(endpoints.asked.pop()[2]) > 1_000_000
            model_of(b"{}")  # the cached body is another one
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 1_600_000, "one copy is the scripted endpoint's own"
        events[1].set()
        await harness.accounted(1)


ERROR = {"message": "no slot with sk-key-of-a-0123", "code": 503}
IN_A_CHOICE = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": ERROR}]}


@pytest.mark.parametrize("told", [IN_A_CHOICE, {"error": ERROR}], ids=["in a choice", "alone"])
async def test_an_error_in_a_stream_that_passes_is_a_failure_and_its_bytes_are_the_same(tmp_path: Path, told: Any) -> None:
    frames = delta(content="hel") + b"data: " + json.dumps(told).encode() + b"\n\n" + DONE
    key = tmp_path / "key"
    key.write_text("sk-key-of-a-0123")
    key.chmod(0o600)
    more = f"auth: {{bearer: {{file: {key}}}}}, breaker: {{failures: 1}}"
    async with running(tmp_path, ScriptedEndpoints(a=STREAM + frames), whole=whole(a=more)) as harness:
        head, body = await harness.ask(asking(stream=True))
        assert status_of(head) == 200 and frames in body and body.endswith(DONE)
        (record,) = await harness.accounted(1)
        assert (record.outcome, record.code, record.detail) == ("upstream.transfer", "upstream_failed", "no slot with ***")
        head, body = await harness.ask(asking(stream=True))
        assert status_of(head) == 503, "the failure has opened the breaker"


async def test_an_error_in_a_plain_body_that_passes_is_a_failure(tmp_path: Path) -> None:
    body = json.dumps({"error": ERROR}).encode()
    async with running(tmp_path, ScriptedEndpoints(a=http(200, body)), whole=whole()) as harness:
        head, got = await harness.ask(asking())
        assert status_of(head) == 200 and got == body
        (record,) = await harness.accounted(1)
        assert (record.outcome, record.code) == ("upstream.transfer", "upstream_failed")
