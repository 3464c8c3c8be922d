"""One attempt: held, forwarded and removed parts of responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relayd.proxy.filters import hold_first_content
from relayd.proxy.filters.translate import forwarded_fields, stream_head
from relayd.usage import Usage
from relayd.wire.response import ResponseHead
from tests.unit.proxy.harness import Side, post, running, status_of
from tests.unit.proxy.scripted_endpoints import DONE, STREAM, ScriptedEndpoints, chunk, completion, delta, http, in_turn

CHAT = """
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"], dialect: {ask_usage: ASK}}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b"]}
routes: [{name: all, protocol: FRONT, upstream: a, ROUTE}]
"""


def chat(front: str = "openai_chat", route: str = "", ask: str = "true") -> str:
    return CHAT.replace("FRONT", front).replace("ROUTE", route).replace("ASK", ask)


def asking(stream: bool = True, **members: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, "max_tokens": 5, **members}
    return post(json.dumps(body).encode(), path="/v1/chat/completions")


USAGE = chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


async def body_of(side: Side) -> bytes:
    received = b""
    while piece := await side.chunk():
        received += piece
    return received


async def test_a_stream_passes_byte_for_byte(tmp_path: Path) -> None:
    odd = b": note\r\n\r\ndata:{\"choices\":[{\"delta\":{\"content\":\"a\"}}],  \"n\": 1e400}\r\n\r\n" + delta("stop") + DONE
    async with running(tmp_path, ScriptedEndpoints(a=STREAM + odd), whole=chat(ask="false")) as harness:
        side = await harness.connect()
        side.write(asking())
        assert status_of(await side.head()) == 200 and await body_of(side) == odd


async def test_usage_that_only_relayd_asked_for_is_counted_and_taken_out(tmp_path: Path) -> None:
    answer = delta(content="a") + delta("stop")
    endpoints = ScriptedEndpoints(a=[STREAM + answer + USAGE + DONE, STREAM + answer + USAGE + DONE])
    async with running(tmp_path, endpoints, whole=chat()) as harness:
        asked: list[tuple[dict[str, Any], bool]] = [({}, True), ({"stream_options": {"include_usage": True}}, False)]
        for members, gone in asked:
            side = await harness.connect()
            side.write(asking(**members))
            assert status_of(await side.head()) == 200
            assert await body_of(side) == answer + (b"" if gone else USAGE) + DONE
        for _, _, body in endpoints.asked:
            assert json.loads(body)["stream_options"] == {"include_usage": True}
        for record in await harness.accounted(2):
            assert record.usage == Usage(3, 2)


async def test_content_is_sent_in_the_turn_it_arrives_in_translated_too(tmp_path: Path) -> None:
    events, answer = in_turn(STREAM + delta(content="one"), delta(content="two"), delta("stop") + DONE)
    async with running(tmp_path, ScriptedEndpoints(a=answer), whole=chat("anthropic_messages")) as harness:
        side = await harness.connect()
        side.write(asking().replace(b"/v1/chat/completions", b"/v1/messages"))
        events[0].set()
        assert status_of(await side.head()) == 200
        received = b""
        while b"one" not in received:
            received += await side.chunk()
        assert b"two" not in received
        events[1].set()
        assert b"two" in await side.chunk()
        events[2].set()
        assert b"event: message_stop" in await body_of(side)


async def test_a_plain_answer_is_translated_whole_with_its_own_length(tmp_path: Path) -> None:
    answer = http(200, completion("hello"), "x-ratelimit-remaining-requests: 9", "X-Other: 1")
    async with running(tmp_path, ScriptedEndpoints(a=answer), whole=chat("anthropic_messages")) as harness:
        head, body = await harness.ask(asking(stream=False).replace(b"/v1/chat/completions", b"/v1/messages"))
        received = json.loads(body)
        assert received["content"] == [{"type": "text", "text": "hello"}] and received["stop_reason"] == "end_turn"
        assert b"x-ratelimit-remaining-requests: 9\r\n" in head and b"X-Other" not in head


async def test_what_is_held_back_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_first_content, "MAX_HELD_BYTES", 1000)
    noise = b": noise\n\n" * 200
    events, answer = in_turn(STREAM + noise, delta(content="late") + delta("stop") + DONE)
    async with running(tmp_path, ScriptedEndpoints(a=answer), whole=chat(route="fallbacks: [{upstream: b, on: [any]}]")) as harness:
        side = await harness.connect()
        side.write(asking())
        events[0].set()
        assert status_of(await side.head()) == 200
        received = await side.chunk()
        while len(received) < len(noise):
            received += await side.chunk()
        events[1].set()
        assert b"late" in await body_of(side)


async def test_an_error_too_large_to_be_one_passes_as_it_is(tmp_path: Path) -> None:
    page = b"x" * 200_000
    async with running(tmp_path, ScriptedEndpoints(a=http(500, page, content_type="text/html")), whole=chat()) as harness:
        head, body = await harness.ask(asking(stream=False))
        assert status_of(head) == 500 and body == page


async def test_a_client_that_reads_slowly_holds_back_a_translated_stream(tmp_path: Path) -> None:
    async def flood(side: Side) -> None:
        side.write(STREAM)
        frame = delta(content="x" * 8000)
        for _ in range(3000):
            side.write(frame)
            await side.writer.drain()

    async with running(tmp_path, ScriptedEndpoints(a=flood), whole=chat("anthropic_messages")) as harness:
        side = await harness.connect()
        side.write(asking().replace(b"/v1/chat/completions", b"/v1/messages"))
        assert status_of(await side.head()) == 200
        (exchange,) = harness.gateway.exchanges
        for _ in range(200):
            await side.exactly(100)
            assert exchange.buffered() < 1024 * 1024
        assert exchange.attempt is not None and exchange.attempt.slot is not None


def test_what_is_true_of_a_translated_answer_too_is_passed_on() -> None:
    response = ResponseHead(200, b"")
    response.keep = [b"Retry-After: 1\r\n", b"Content-Type: x\r\n", b"X-RateLimit-Limit: 2\r\n", b"Set-Cookie: a\r\n"]
    assert forwarded_fields(response) == [b"Retry-After: 1\r\n", b"X-RateLimit-Limit: 2\r\n"] and forwarded_fields(None) == []
    assert b"X-Accel-Buffering: no\r\n" in stream_head(response).keep
