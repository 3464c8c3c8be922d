"""The shared memory for bodies: they wait unread, continue, or are refused; with a real relayd and an endpoint."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.request_buffers import FREE_BYTES, RequestBuffers
from relayd.proxy.body_memory import BodyMemory
from tests.aids.turns import turned
from tests.unit.proxy.harness import Harness, Side, get, running, soon, status_of, until
from tests.unit.proxy.live_objects import marked
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, completion, delta, http, silent
from tests.unit.proxy.test_websocket_session import HANDSHAKE, Socket, frame

MIB = 1024 * 1024
BY_MODEL = """
upstreams: {up: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/v1"], MORE}}
models: {m: up}
routes: [{name: all, upstream: by_model, ROUTE}]
"""
FORM = "Content-Type: multipart/form-data; boundary=cut"
ANSWER = http(200, completion("hello"))


class Client:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pause_body(self) -> None:
        self.calls.append("pause")

    def resume_body(self) -> None:
        self.calls.append("resume")

    def fail(self, fault: ExchangeError) -> None:
        self.calls.append((fault.kind.code, dict(fault.headers)))


def body_of(size: int) -> bytes:
    frame_ = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'
    return frame_ % marked(size - len(frame_) + 2)


def head(length: int, *lines: str) -> bytes:
    return get("/v1/chat/completions", f"Content-Length: {length}", *(lines or ("Content-Type: application/json",)), method="POST")


def whole(more: str = "", route: str = "") -> str:
    return BY_MODEL.replace("MORE", more).replace("ROUTE", route)


async def sent(harness: Harness, data: bytes) -> Side:
    side = await harness.connect()
    side.write(data)
    return side


def waits(harness: Harness, count: int = 1) -> bool:
    return harness.gateway.buffers.waiting == count


# ---- without a connection


def test_a_body_that_waits_is_read_no_further_until_there_is_memory() -> None:
    buffers, first, second = RequestBuffers(MIB), Client(), Client()
    memory = BodyMemory(buffers, first, first, MIB)
    other = BodyMemory(buffers, second, second, MIB)
    other.grow(10)
    assert first.calls == [] and second.calls == ["pause"]
    memory.release()
    assert second.calls == ["pause", "resume"]


def test_a_body_that_is_whole_is_not_paused_any_more() -> None:
    buffers, first, second = RequestBuffers(MIB), Client(), Client()
    BodyMemory(buffers, first, first, MIB).grow(5)
    other = BodyMemory(buffers, second, second, None)
    other.grow(3 * FREE_BYTES)
    other.set_body_bytes(3 * FREE_BYTES)
    assert second.calls == ["pause", "resume"]


def test_a_refusal_has_a_reason_and_retry_after() -> None:
    now = [0.0]
    buffers, first, second, third = RequestBuffers(MIB, 10.0, lambda: now[0]), Client(), Client(), Client()
    held = BodyMemory(buffers, first, first, MIB)
    held.set_body_bytes(MIB)
    BodyMemory(buffers, second, second, MIB)
    now[0] = 11.0
    buffers.sweep(now[0])
    code, headers = second.calls[-1]
    assert code == "request_buffers_full" and int(headers["Retry-After"]) >= 1
    with pytest.raises(ExchangeError) as refused:
        BodyMemory(buffers, third, third, 2 * MIB)
    assert refused.value.kind.code == "body_too_large" and "daemon.request_buffers" in refused.value.detail


# ---- with a connection


async def test_bodies_beyond_the_bound_wait_their_turn_and_are_all_served(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(v1=ANSWER), whole=whole()) as harness:
        harness.gateway.buffers.configure(3 * MIB, 10.0)
        body = body_of(MIB)
        sides = [await sent(harness, head(MIB) + body[:-5000]) for _ in range(8)]
        await until(lambda: waits(harness, 5))
        assert harness.gateway.buffers.used <= 3 * MIB
        for side in sides:
            side.write(body[-5000:])
        for side in sides:
            assert status_of((await side.message())[0]) == 200
        await harness.accounted(8)
        assert not harness.gateway.buffers.used and not harness.gateway.buffers.waiting
        assert harness.gateway.buffers.peak <= 3 * MIB


async def test_small_bodies_pass_while_all_memory_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(v1=ANSWER), whole=whole()) as harness:
        harness.gateway.buffers.configure(MIB, 10.0)
        await sent(harness, head(MIB) + body_of(MIB)[:500_000])
        await until(lambda: harness.gateway.buffers.used)
        body = body_of(20_000)
        for cut in (20_000, 7, 0):  # whole, and in two pieces
            side = await sent(harness, head(20_000) + body[:cut])
            await turned()
            side.write(body[cut:])
            assert status_of((await side.message())[0]) == 200


async def test_a_request_that_waits_too_long_gets_503_with_retry_after(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(v1=[silent]), whole=whole()) as harness:
        harness.gateway.buffers.configure(MIB, 10.0)
        await sent(harness, head(MIB) + body_of(MIB))
        await until(lambda: harness.endpoint_sides)  # the first body is whole
        side = await sent(harness, head(MIB) + body_of(MIB)[:9000])
        await until(lambda: waits(harness))
        harness.gateway.buffers.sweep(clock.monotonic() + 9)
        assert waits(harness)
        harness.gateway.buffers.sweep(clock.monotonic() + 11)
        answer, error = await side.message()
        assert status_of(answer) == 503 and b"Retry-After: " in answer and b"Connection: close" in answer
        assert json.loads(error)["error"]["code"] == "request_buffers_full"


@pytest.mark.parametrize("length", [True, False])
async def test_a_body_that_can_never_fit_is_a_413(tmp_path: Path, length: bool) -> None:
    async with running(tmp_path, ScriptedEndpoints(v1=ANSWER), whole=whole()) as harness:
        harness.gateway.buffers.configure(MIB, 10.0)
        if length:
            side = await sent(harness, head(2 * MIB))
        else:
            side = await sent(harness, get("/v1/x", "Transfer-Encoding: chunked", "Content-Type: application/json", method="POST"))
            side.write(b'6\r\n{"a":"\r\n')
            for _ in range(2 * MIB // 50_000):
                side.write(b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000))
        assert status_of(await side.head()) == 413
        assert not harness.gateway.buffers.used


async def test_a_client_that_asks_before_it_sends_is_told_to_when_there_is_memory(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(v1=ANSWER), whole=whole()) as harness:
        harness.gateway.buffers.configure(MIB, 10.0)
        first = await sent(harness, head(MIB) + body_of(MIB)[:-9])
        await until(lambda: harness.gateway.buffers.used)
        second = await sent(harness, head(MIB, "Content-Type: application/json", "Expect: 100-continue"))
        await until(lambda: waits(harness))
        early = asyncio.ensure_future(second.reader.readuntil(b"\r\n\r\n"))
        await turned()
        assert not early.done()
        first.write(body_of(MIB)[-9:])
        assert status_of((await first.message())[0]) == 200
        assert await soon(early) == b"HTTP/1.1 100 Continue\r\n\r\n"
        second.write(body_of(MIB))
        assert status_of((await second.message())[0]) == 200


async def test_a_pause_for_memory_is_not_the_silence_of_the_client(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(v1=ANSWER), whole=whole(), listener="timeouts: {body: 5s}") as harness:
        harness.gateway.buffers.configure(MIB, 3600.0)
        first = await sent(harness, head(MIB) + body_of(MIB)[:-9])
        await until(lambda: harness.gateway.buffers.used)
        second = await sent(harness, head(MIB) + body_of(MIB))
        await until(lambda: waits(harness))
        paused = next(one for one in harness.listening.connections if one.exchange and one.exchange.record.bytes_in < 500_000)
        paused.enforce_timeouts(clock.monotonic() + 1000)
        paused.enforce_timeouts(clock.monotonic() + 2000)
        assert not harness.accounts
        first.write(body_of(MIB)[-9:])
        assert status_of((await first.message())[0]) == 200
        assert status_of((await second.message())[0]) == 200


OPAQUE = """
upstreams: {up: {endpoints: ["http://127.0.0.1:PORT"]}}
routes: [{name: a, match: {model: m}, upstream: up}, {name: b, respond: 404}]
"""


@pytest.mark.parametrize(
    "text", [whole("limits: 5"), whole("retries: {attempts: 2}"), OPAQUE], ids=["passing", "held for its content", "opaque"]
)
async def test_a_stream_that_lasts_gives_its_prompt_back_when_it_begins(tmp_path: Path, text: str) -> None:
    seen = asyncio.Event()

    async def streaming(side: Side) -> None:
        await seen.wait()
        side.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + delta(content="hello"))
        await side.gone()

    body = body_of(MIB)[:-1] + b',"stream":true}'
    endpoints = ScriptedEndpoints(v1=[streaming])
    async with running(tmp_path, endpoints, whole=text) as harness:
        side = await sent(harness, head(len(body)) + body)
        await until(lambda: endpoints.asked)
        assert harness.gateway.buffers.used > MIB - 2 * FREE_BYTES
        seen.set()
        await side.head()
        await until(lambda: not harness.gateway.buffers.used)
        assert harness.gateway.exchanges


async def test_a_form_counts_what_waits_of_it_and_no_more(tmp_path: Path) -> None:
    """The model comes first: the file is not buffered, whatever its announced size."""
    form = b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--cut\r\nContent-Disposition: form-data; name="f"\r\n\r\n'
    async with running(tmp_path, ScriptedEndpoints(v1=ANSWER), whole=whole()) as harness:
        side = await sent(harness, head(3 * MIB, FORM) + form + marked(MIB))
        await until(lambda: harness.gateway.exchanges and next(iter(harness.gateway.exchanges)).record.bytes_in > MIB)
        assert harness.gateway.buffers.peak == 0
        side.close()


async def test_a_form_is_counted_up_to_its_model_and_given_back_as_it_is_sent(tmp_path: Path) -> None:
    part, named = b'--cut\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n', marked(4 * MIB)
    form = part % (b"f", named) + part % (b"model", b"m") + part % (b"g", marked(MIB)) + b"--cut--\r\n"
    seen = asyncio.Event()

    async def late(side: Side) -> None:
        await seen.wait()
        side.write(ANSWER)

    endpoints = ScriptedEndpoints(v1=[late])
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        side = await sent(harness, head(len(form), FORM) + form)
        await until(lambda: endpoints.asked)
        await until(lambda: not harness.gateway.buffers.used)  # all of it has been sent on
        seen.set()
        assert status_of((await side.message())[0]) == 200
        assert endpoints.asked[0][2] == form and harness.gateway.buffers.peak > 3 * MIB
        await harness.accounted(1)
        assert not harness.gateway.buffers.used


async def test_an_answer_that_is_held_to_be_translated_counts(tmp_path: Path) -> None:
    answer = http(200, completion(marked(500_000).decode()))
    text = whole().replace("routes: [{name: all, upstream: by_model, ", "routes: [{name: all, upstream: up, protocol: openai_responses, ")
    async with running(tmp_path, ScriptedEndpoints(v1=answer), whole=text) as harness:
        body = b'{"model":"m","store":false,"input":"hi"}'
        side = await sent(harness, get("/v1/responses", f"Content-Length: {len(body)}", method="POST") + body)
        assert status_of((await side.message())[0]) == 200
        assert harness.gateway.buffers.peak > 400_000
        await harness.accounted(1)
        assert not harness.gateway.buffers.used


async def test_messages_of_a_websocket_count_and_too_many_end_it(tmp_path: Path) -> None:
    text = whole().replace("routes: [{name: all, upstream: by_model, ", "routes: [{name: all, upstream: up, protocol: openai_responses, ")
    endpoints = ScriptedEndpoints(v1=[silent])
    async with running(tmp_path, endpoints, whole=text) as harness:
        harness.gateway.buffers.configure(MIB, 10.0)
        side = await sent(harness, HANDSHAKE)
        assert status_of(await side.head()) == 101
        message = large({"type": "response.create", "model": "m", "input": marked(600_000).decode()})
        side.write(message)
        await until(endpoints.names)  # its turn has begun
        assert harness.gateway.buffers.used > 500_000
        side.write(message)
        await until(lambda: waits(harness))
        harness.gateway.buffers.sweep(clock.monotonic() + 11)
        socket = Socket(side)
        assert (await socket.event())["error"]["code"] == "request_buffers_full"
        opcode, data = await socket.frame()
        assert (opcode, int.from_bytes(data[:2], "big")) == (8, 1013)
        side.close()
        await until(lambda: not harness.gateway.buffers.used)


def large(members: dict[str, Any]) -> bytes:
    """A message of more than 64 KiB, masked with nothing."""
    data = json.dumps(members).encode()
    return b"\x81\xff" + len(data).to_bytes(8, "big") + bytes(4) + data


async def test_a_message_of_any_size_is_answered_where_there_is_memory(tmp_path: Path) -> None:
    text = whole().replace("routes: [{name: all, upstream: by_model, ", "routes: [{name: all, upstream: up, protocol: openai_responses, ")
    stream = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    async with running(tmp_path, ScriptedEndpoints(v1=stream), whole=text) as harness:
        harness.gateway.buffers.configure(MIB, 10.0)
        side = await sent(harness, HANDSHAKE)
        await side.head()
        socket = Socket64(side)
        for _ in range(3):
            side.write(large({"type": "response.create", "model": "m", "store": False, "input": marked(700_000).decode()}))
            while (await soon(socket.event()))["type"] != "response.completed":
                pass
        side.write(frame(b"", 8))
        await until(lambda: not harness.gateway.buffers.used)


class Socket64(Socket):
    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.side.exactly(2)
        size = second
        if second == 126:
            size = int.from_bytes(await self.side.exactly(2), "big")
        elif second == 127:
            size = int.from_bytes(await self.side.exactly(8), "big")
        return first & 15, await self.side.exactly(size)
