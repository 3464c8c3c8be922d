"""The taps of a captured exchange: they copy what passes in its pieces, and change nothing of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relayd import clock
from relayd.proxy.attempt import Attempt
from relayd.proxy.sweep import enforce_timeouts
from relayd.telemetry.record_filter import RecordFilter
from relayd.upstream.transport.slot import Slot
from tests.unit.proxy.harness import OK, Side, get, post, running, saying, status_of, until
from tests.unit.proxy.scripted_endpoints import DONE, STREAM, ScriptedEndpoints, completion, delta, http, in_turn
from tests.unit.proxy.test_capture import Capturing, body_of
from tests.unit.proxy.test_websocket_session import ANSWER, asking, opened

STREAMED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FORM = (
    b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\nfast\r\n--cut\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"z" * 200_000 + b"\r\n--cut--\r\n"
)
CHAT = """
upstreams: {up: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/up"]}}
models: {fast: {upstream: up, model: gpt-renamed}}
routes:
  - {name: messages, match: {path: /v1/messages}, protocol: anthropic_messages, upstream: up}
  - {name: all, upstream: by_model}
"""


async def test_the_body_of_a_client_is_copied_in_the_pieces_in_which_it_arrives(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        for piece in (b"one", b"three"):
            assert await side.exactly(len(piece)) == piece
            arrived.set()
        side.write(OK)
        await side.gone()

    arrived = asyncio.Event()
    async with running(tmp_path, script) as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 8", method="POST") + b"one")
        await arrived.wait()
        side.write(b"three")
        assert (await side.message())[1] == b"ok"
        found = await capturing.next()
    assert bytes(found.body.head) == b"onethree" and list(found.body.sizes) == [3, 5]
    assert list(found.body.times) == sorted(found.body.times) and found.body.times[0] < found.body.times[1]
    (attempt,) = found.attempts
    assert attempt.request_is_forwarded and not attempt.body.size


async def test_a_response_is_copied_in_its_pieces_on_both_sides(tmp_path: Path) -> None:
    pieces = (b"3\r\none\r\n", b"5\r\nthree\r\n", b"0\r\n\r\n")
    events, answer = in_turn(STREAMED, *pieces)
    async with running(tmp_path, ScriptedEndpoints(a=answer)) as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/a"))
        events[0].set()
        events[1].set()
        await side.head()
        assert await side.chunk() == b"one"
        events[2].set()
        assert await side.chunk() == b"three"
        events[3].set()
        assert await side.chunk() == b""
        found = await capturing.next()
    (attempt,) = found.attempts
    for answered in (found.response, attempt.response):
        assert bytes(answered.body.head) == b"onethree" and list(answered.body.sizes) == [3, 5]
        assert answered.begun_s <= answered.body.times[0] < answered.body.times[1] <= answered.ended_s
        assert b"Transfer-Encoding: chunked" in answered.fields and answered.status == 200


async def test_what_a_client_is_slow_to_take_is_copied_once(tmp_path: Path) -> None:
    size = 24 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(range(256)) * (size // 256)
    async with running(tmp_path, saying(answer)) as harness:
        capturing = Capturing(harness)
        capturing.start(body_bytes=2 * size, bytes=4 * size)
        side = await harness.connect()
        side.write(get())
        await side.head()
        await until(lambda: any(one.attempt is not None and one.attempt.slot is not None and one.attempt.slot.hold
                                for one in harness.gateway.exchanges))
        body = await side.exactly(size)
        found = await capturing.next()
    assert body == answer[-size:] == body_of(found) == bytes(found.attempts[0].response.body.head)


async def test_what_a_transform_makes_of_a_body_is_the_body_of_the_attempt(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(up=http(200, {"text": "said"}))
    async with running(tmp_path, endpoints, whole=CHAT) as harness:
        capturing = Capturing(harness)
        capturing.start(body_bytes=1 << 20)
        request = post(FORM, "Content-Type: multipart/form-data; boundary=cut", path="/v1/audio/transcriptions")
        assert status_of((await harness.ask(request))[0]) == 200
        found = await capturing.next()
    renamed = FORM.replace(b"fast", b"gpt-renamed")
    assert endpoints.asked[0][2] == renamed
    (attempt,) = found.attempts
    assert bytes(found.body.head) == FORM and bytes(attempt.body.head) == renamed and not attempt.request_is_forwarded


async def test_a_translated_exchange_is_copied_in_both_dialects(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(up=STREAM + delta(content="hello") + delta("stop") + DONE)
    asked = b'{"model":"m","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"hi"}]}'
    async with running(tmp_path, endpoints, whole=CHAT) as harness:
        capturing = Capturing(harness)
        capturing.start()
        head, body = await harness.ask(post(asked, "Content-Type: application/json", path="/v1/messages"))
        assert status_of(head) == 200
        found = await capturing.next()
    (attempt,) = found.attempts
    assert attempt.translated and found.dialect == "anthropic_messages" and bytes(found.body.head) == asked
    assert bytes(attempt.body.head) == endpoints.asked[0][2] != asked
    assert b"chat.completion.chunk" in attempt.response.body.head and body_of(found) == body and b"message_start" in body


async def test_trailers_and_interim_responses_are_copied(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + STREAMED + b"2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
    async with running(tmp_path, saying(answer), route="trailers: true") as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/x", "Connection: close"))
        received = await side.rest()
        assert b"103 Early Hints" in received and received.endswith(b"0\r\nX-Sum: 7\r\n\r\n")
        found = await capturing.next()
    (attempt,) = found.attempts
    assert attempt.interim == [103] and attempt.response.trailers == [b"X-Sum: 7"] == found.response.trailers
    assert attempt.response.status == 200 == found.response.status


async def test_comments_that_keep_a_stream_alive_are_part_of_the_response(tmp_path: Path) -> None:
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events, answer = in_turn(stream, b"9\r\ndata: a\n\n\r\n0\r\n\r\n")
    async with running(tmp_path, ScriptedEndpoints(a=answer), route="keepalive: 10s") as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/a"))
        events[0].set()
        await until(lambda: any(one.attempt is not None and one.attempt.response is not None
                                for one in harness.gateway.exchanges))
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 11)
        await side.head()
        comment = await side.chunk()
        assert comment.startswith(b":")
        events[1].set()
        assert await side.chunk() == b"data: a\n\n"
        found = await capturing.next()
    assert body_of(found) == comment + b"data: a\n\n"
    assert bytes(found.attempts[0].response.body.head) == b"data: a\n\n"


async def test_of_a_response_that_is_cut_the_beginning_and_the_fault_are_kept(tmp_path: Path) -> None:
    events, answer = in_turn(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", b"")
    async with running(tmp_path, ScriptedEndpoints(a=answer)) as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/a"))
        events[0].set()
        await side.head()
        assert await side.exactly(4) == b"part"
        events[1].set()
        await side.gone()
        found = await capturing.next()
    (attempt,) = found.attempts
    assert found.record["code"] == attempt.fault == "upstream_cut" and attempt.blame == "endpoint" and attempt.detail
    assert body_of(found) == bytes(attempt.response.body.head) == b"part"
    assert b"Content-Length: 100" in attempt.response.fields


async def test_an_exchange_whose_client_leaves_is_kept(tmp_path: Path) -> None:
    events, answer = in_turn(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", b"")
    async with running(tmp_path, ScriptedEndpoints(a=answer)) as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/a"))
        events[0].set()
        await side.head()
        assert await side.exactly(4) == b"part"
        side.reset()
        found = await capturing.next()
        events[1].set()
    assert found.record["code"] == found.attempts[0].fault == "client_gone"
    assert body_of(found) == b"part" and found.attempts[0].ended_s >= found.attempts[0].started_s


async def test_a_fault_of_relayd_itself_reaches_the_client_as_without_a_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Attempt, slot: Slot) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Attempt, "on_progress", broken)
    monkeypatch.setattr(Attempt, "on_done", lambda self, slot, errno, message: broken(self, slot))
    async with running(tmp_path) as harness:
        capturing = Capturing(harness)
        capturing.start()
        assert status_of((await harness.ask(get()))[0]) == 500
        found = await capturing.next()
    assert found.record["code"] == "internal" == found.attempts[0].fault and found.response.status == 500


async def test_an_exchange_that_is_excluded_on_its_way_passes_unchanged(tmp_path: Path) -> None:
    """The body has been copied in part when the model excludes it: nothing more is copied, and everything arrives."""
    endpoints = ScriptedEndpoints(up=http(200, completion("said")))
    async with running(tmp_path, endpoints, whole=CHAT) as harness:
        capturing = Capturing(harness)
        capturing.start(filter=RecordFilter({"route": ("messages",)}))
        request = post(FORM, "Content-Type: multipart/form-data; boundary=cut", path="/v1/audio/transcriptions")
        assert status_of((await harness.ask(request))[0]) == 200
        await harness.accounted(1)
        assert not capturing.kept and capturing.used_bytes == 0
    assert endpoints.asked[0][2] == FORM.replace(b"fast", b"gpt-renamed")


async def test_a_capture_that_ends_during_an_exchange_leaves_its_bytes_as_they_are(tmp_path: Path) -> None:
    answered = STREAMED + b"3\r\none\r\n"
    events, answer = in_turn(answered, b"5\r\nthree\r\n0\r\nX-Sum: 7\r\n\r\n")
    async with running(tmp_path, ScriptedEndpoints(a=answer), route="trailers: true") as harness:
        capturing = Capturing(harness)
        capturing.start()
        side = await harness.connect()
        side.write(get("/a", "Connection: close"))
        events[0].set()
        await side.head()
        assert await side.chunk() == b"one"
        capturing.captures.stop("client")
        events[1].set()
        assert await side.rest() == b"5\r\nthree\r\n0\r\nX-Sum: 7\r\n\r\n"
        (record,) = await harness.accounted(1)
        assert record.code == "" and capturing.used_bytes == 0


async def test_a_turn_of_a_websocket_session_is_an_exchange(tmp_path: Path) -> None:
    whole = """
upstreams: {a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"]}}
routes: [{name: all, protocol: openai_responses, upstream: a}]
"""
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole) as harness:
        capturing = Capturing(harness)
        socket = await opened(harness)  # before the capture
        capturing.start()
        for count in (1, 2):
            socket.side.write(asking("the question"))
            await socket.turn()
            found = await capturing.next(count)
            assert b"the question" in found.body.head and b"hello" in body_of(found) and found.response.status == 200
            assert b"hello" in found.attempts[0].response.body.head
