"""The WebSocket transport of the Responses API: turns, their order, and their end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest

from relayd import clock, work_queue
from relayd.protocols.canon import Failure
from relayd.proxy import websocket_session as module
from relayd.proxy.exchange import Exchange
from relayd.proxy.sweep import enforce_timeouts
from relayd.proxy.websocket_session import (
    MAX_FRAMES,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    ResponsesSession,
    TurnWriter,
    failure_in,
    message_of,
    turn_head,
)
from relayd.upstream.spec import Timeouts
from relayd.wire.chunked import ChunkedDecoder
from tests.aids.turns import turned
from tests.unit.proxy.fakes import head_for
from tests.unit.proxy.harness import Harness, Side, Turns, get, running, soon, status_of, until
from tests.unit.proxy.scripted_endpoints import DONE, STREAM, ScriptedEndpoints, delta, http, in_turn, silent

CHAT = """
upstreams: {a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"], LIMITS}}
routes: [{name: all, protocol: openai_responses, upstream: a}]
"""
HANDSHAKE = get(
    "/v1/responses", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "X-Team: blue",
)
ANSWER = STREAM + delta(content="hello") + delta("stop") + DONE


def frame(document: dict[str, Any] | bytes, opcode: int = 1) -> bytes:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    mask = os.urandom(4)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def asking(text: str = "hi", **members: Any) -> bytes:
    return frame({"type": "response.create", "model": "m", "input": text, **members})


class Socket:
    def __init__(self, side: Side) -> None:
        self.side = side

    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.side.exactly(2)
        size = second
        if second == 126:
            size = int.from_bytes(await self.side.exactly(2), "big")
        elif second == 127:
            size = int.from_bytes(await self.side.exactly(8), "big")
        return first & 15, await self.side.exactly(size)

    async def event(self) -> dict[str, Any]:
        opcode, data = await self.frame()
        assert opcode == 1, (opcode, data)
        found: dict[str, Any] = json.loads(data)
        return found

    async def turn(self) -> list[dict[str, Any]]:
        """The events of one turn."""
        events = [await self.event()]
        while events[-1]["type"] not in ("response.completed", "response.failed", "response.incomplete", "error"):
            events.append(await self.event())
        return events


def inside(harness: Harness) -> ResponsesSession:
    """relayd's side of the only socket."""
    found = harness.connection.exchange
    assert found is not None and isinstance(found.tunnel, ResponsesSession)
    return found.tunnel


async def opened(harness: Harness) -> Socket:
    side = await harness.connect()
    side.write(HANDSHAKE)
    assert status_of(await side.head()) == 101
    return Socket(side)


def whole(limits: str = "") -> str:
    return CHAT.replace("LIMITS", limits)


async def test_a_turn_goes_the_path_of_a_request_and_its_events_come_as_frames(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER)
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(asking())
        events = await socket.turn()
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "hello"
        assert json.loads(endpoints.asked[0][2])["stream"] is True
        assert len(harness.accounts) == 1 and harness.accounts[0].method == "POST" and harness.accounts[0].status == 200
        socket.side.close()
        await until(lambda: len(harness.accounts) == 2)


async def test_turns_come_one_after_another_in_their_order(tmp_path: Path) -> None:
    events, first = in_turn(ANSWER)
    endpoints = ScriptedEndpoints(a=[first, ANSWER])
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(asking("one") + asking("two"))
        await until(lambda: len(endpoints.asked) == 1)
        await turned()
        assert len(endpoints.asked) == 1
        events[0].set()
        for _ in range(2):
            assert (await socket.turn())[-1]["type"] == "response.completed"
        asked = [json.loads(body)["messages"][0]["content"] for _, _, body in endpoints.asked]
        assert asked == ["one", "two"]


async def test_a_conversation_goes_on_from_the_last_response_though_it_was_not_stored(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=ANSWER)
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket, other = await opened(harness), await opened(harness)
        socket.side.write(asking("one", store=False))
        response = (await socket.turn())[-1]["response"]
        socket.side.write(asking("two", store=False, previous_response_id=response["id"]))
        assert (await socket.turn())[-1]["type"] == "response.completed"
        assert [one["content"] for one in json.loads(endpoints.asked[1][2])["messages"]] == ["one", "hello", "two"]
        other.side.write(asking("x", previous_response_id=response["id"]))
        (error,) = await other.turn()
        assert error["error"]["code"] == "previous_response_not_found" and error["status"] in (400, 404)


async def test_a_turn_that_fails_forgets_what_it_continued_and_ends_nothing_else(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=[ANSWER, http(500, {"error": {"message": "boom"}}), ANSWER])
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(asking("one", store=False))
        first = (await socket.turn())[-1]["response"]["id"]
        socket.side.write(asking("two", store=False, previous_response_id=first))
        (error,) = await socket.turn()
        assert error["type"] == "error" and error["status"] == 500 and error["error"]["message"] == "boom"
        socket.side.write(asking("again", store=False, previous_response_id=first))
        (error,) = await socket.turn()
        assert error["error"]["code"] == "previous_response_not_found"
        socket.side.write(asking("fresh"))
        assert (await socket.turn())[-1]["type"] == "response.completed"


@pytest.mark.parametrize("wrong", [b"no json", b"[]", b'{"type": "session.update"}', b'{"type": "response.create"}'])
async def test_an_invalid_message_gets_an_error_and_the_socket_stays_open(tmp_path: Path, wrong: bytes) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(frame(wrong))
        (error,) = await socket.turn()
        assert error["type"] == "error" and error["status"] == 400
        socket.side.write(asking())
        assert (await socket.turn())[-1]["type"] == "response.completed"


async def test_the_client_leaving_cancels_the_turn_under_way(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def waiting(side: Side) -> None:
        await side.gone()
        gone.set()

    endpoints = ScriptedEndpoints(a=waiting)
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(asking() + asking())
        await until(lambda: len(endpoints.asked) == 1)
        socket.side.close()
        await soon(gone.wait())
        await until(lambda: len(harness.accounts) == 2)
        assert {record.code for record in harness.accounts} == {"client_gone"} and len(endpoints.asked) == 1


async def test_a_ping_is_answered_and_a_close_ends_it_cleanly(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(frame(b"are you there", opcode=9))
        assert await socket.frame() == (10, b"are you there")
        socket.side.write(frame((1000).to_bytes(2, "big"), opcode=8))
        opcode, data = await socket.frame()
        assert opcode == 8 and data[:2] == (1000).to_bytes(2, "big")
        (record,) = await harness.accounted(1)
        assert record.outcome == "complete" and record.status == 101


async def test_more_turns_than_may_wait_are_not_even_read(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=silent)
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(b"".join(asking(str(number)) for number in range(MAX_WAITING + 2)))
        await until(lambda: not harness.connection._stream.reading_enabled and len(endpoints.asked) == 1)
        await turned()
        assert len(endpoints.asked) == 1


async def test_turns_that_waited_are_all_answered_in_their_order(tmp_path: Path) -> None:
    events, first = in_turn(ANSWER)
    endpoints = ScriptedEndpoints(a=[first, ANSWER])
    async with running(tmp_path, endpoints, whole=whole()) as harness:
        socket = await opened(harness)
        count = 2 * MAX_WAITING + 3
        socket.side.write(b"".join(asking(str(number)) for number in range(count)))
        await until(lambda: not harness.connection._stream.reading_enabled)
        events[0].set()
        for _ in range(count):
            assert (await socket.turn())[-1]["type"] == "response.completed"
        asked = [json.loads(body)["messages"][0]["content"] for _, _, body in endpoints.asked]
        assert asked == [str(number) for number in range(count)]
        assert harness.connection._stream.reading_enabled


async def test_messages_that_wait_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=silent), whole=whole()) as harness:
        socket = await opened(harness)
        large = asking("x" * 60_000)
        socket.side.write(asking())
        for _ in range(100):
            socket.side.write(large)
        await until(lambda: not harness.connection._stream.reading_enabled)
        assert inside(harness)._waiting_bytes <= MAX_WAITING_BYTES + len(large)


async def test_many_messages_in_one_segment_begin_one_turn_per_turn_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "SHARE_S", 0.0)
    turns = Turns()
    start = ResponsesSession._begin_turn

    def noted(self: ResponsesSession) -> bool:
        began = start(self)
        if began:
            turns.note()
        return began

    monkeypatch.setattr(ResponsesSession, "_begin_turn", noted)
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        with turns:
            socket.side.write(frame(b"{}") * 100)
            for _ in range(100):
                assert (await socket.turn())[0]["status"] == 400
        assert turns.total == 100 and turns.most == 1


@pytest.mark.parametrize("sent", [frame(b"p", opcode=9), frame(b"", opcode=10), b"\x00\x80\0\0\0\0"], ids=["ping", "pong", "fragment"])
async def test_tiny_frames_are_read_a_bounded_number_at_a_time(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "SHARE_S", 0.0)
    turns = Turns()
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(b"\x01\x80\0\0\0\0")
        await until(lambda: inside(harness)._decoder._opcode == 1)
        feed = inside(harness)._decoder.feed

        class Counted:
            def __getattr__(self, name: str) -> Any:
                return getattr(decoder, name)

            def feed(self, data: bytes, most: int) -> Any:
                turns.note(most)
                return feed(data, most)

        decoder = inside(harness)._decoder
        inside(harness)._decoder = Counted()  # type: ignore[assignment]
        with turns:
            socket.side.write(sent * 5000 + frame(b"last", opcode=9))
            for _ in range(5001 if sent[0] == 0x89 else 1):
                opcode, data = await socket.frame()
            assert (opcode, data) == (10, b"last")
        assert turns.total > 5000 and turns.most <= 2 * MAX_FRAMES


async def test_a_client_that_pings_and_reads_nothing_is_not_read_either_and_then_gets_every_pong(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        ping, count, most = frame(b"x" * 125, opcode=9), 0, 0
        while not inside(harness)._client_behind:
            socket.side.write(ping * 100)
            count += 100
            await asyncio.sleep(0)
            most = max(most, harness.connection.buffered())
        assert most < 256 * 1024
        socket.side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            assert await socket.frame() == (10, b"x" * 125)
        socket.side.write(asking())
        assert (await socket.turn())[-1]["type"] == "response.completed"


async def test_a_close_is_answered_behind_everything_else_that_the_client_has_not_read(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        ping, count = frame(b"x" * 125, opcode=9), 0
        while not inside(harness)._client_behind:
            socket.side.write(ping * 100)
            count += 100
            await asyncio.sleep(0)
        socket.side.write(frame((1000).to_bytes(2, "big"), opcode=8) + ping * 1000)
        socket.side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            assert await socket.frame() == (10, b"x" * 125)
        opcode, data = await socket.frame()
        assert opcode == 8 and data == (1000).to_bytes(2, "big")
        assert await socket.side.rest() == b""


@pytest.mark.parametrize(("wrong", "code"), [
    (b"\x81\x01a", 1002), (frame(b"\xff"), 1007), (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
], ids=["unmasked", "no UTF-8", "too long"])
async def test_a_protocol_error_closes_with_its_code_while_the_client_sends(tmp_path: Path, wrong: bytes, code: int) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(wrong + b"x" * 500_000)
        opcode, data = await socket.frame()
        assert opcode == 8 and data[:2] == code.to_bytes(2, "big")
        assert await socket.side.rest() == b""
        await harness.accounted(1)


async def test_a_long_turn_with_others_waiting_is_no_silence_of_the_client(tmp_path: Path) -> None:
    events, first = in_turn(ANSWER)
    async with running(tmp_path, ScriptedEndpoints(a=[first, ANSWER]), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(b"".join(asking(str(number)) for number in range(MAX_WAITING + 2)))
        await until(lambda: not harness.connection._stream.reading_enabled)
        inside(harness).enforce_timeouts(clock.monotonic() + module.PONG_TIMEOUT_S + 1, Timeouts())
        assert (await socket.frame())[0] == 9
        events[0].set()
        for _ in range(MAX_WAITING + 2):
            assert (await socket.turn())[-1]["type"] == "response.completed"


async def test_an_endless_event_of_an_endpoint_ends_the_turn_and_not_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 100_000)

    async def endless(side: Side) -> None:
        side.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {")
        while not side.writer.is_closing():
            side.write(b"x" * 10_000)
            await side.writer.drain()

    text = CHAT.replace("LIMITS", "").replace("openai_chat", "openai_responses")
    async with running(tmp_path, ScriptedEndpoints(a=[endless, ANSWER]), whole=text) as harness:
        socket = await opened(harness)
        socket.side.write(asking())
        error = (await socket.turn())[-1]
        assert error["type"] in ("error", "response.failed")
        await until(lambda: harness.accounts)
        assert harness.accounts[0].code == "upstream_malformed"


async def test_a_turn_leaves_nothing_for_the_collector(tmp_path: Path) -> None:
    def alive() -> int:
        return sum(isinstance(one, Exchange | TurnWriter | ChunkedDecoder) for one in gc.get_objects())

    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        gc.disable()
        try:
            before = alive()
            for message in (frame(b"{}"), asking()):
                for _ in range(5):
                    socket.side.write(message)
                    await socket.turn()
            await until(lambda: alive() <= before)
        finally:
            gc.enable()


async def test_a_draining_gateway_closes_when_the_turn_is_over(tmp_path: Path) -> None:
    events, first = in_turn(ANSWER)
    async with running(tmp_path, ScriptedEndpoints(a=first), whole=whole()) as harness:
        socket = await opened(harness)
        socket.side.write(asking())
        await until(lambda: len(harness.gateway.exchanges) == 2)
        harness.gateway.draining = True
        harness.gateway.sweep()
        events[0].set()
        assert (await socket.turn())[-1]["type"] == "response.completed"
        await until(lambda: len(harness.gateway.exchanges) == 1)
        harness.gateway.sweep()
        opcode, data = await socket.frame()
        assert opcode == 8 and data[:2] == (1001).to_bytes(2, "big")


async def test_a_silent_connection_is_pinged_and_then_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        socket = await opened(harness)
        (exchange,) = harness.gateway.exchanges
        enforce_timeouts(exchange, clock.monotonic() + 40)
        assert (await socket.frame())[0] == 9
        enforce_timeouts(exchange, clock.monotonic() + 200)
        assert (await socket.frame())[0] == 8


async def test_no_handshake_is_no_socket(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(a=ANSWER), whole=whole()) as harness:
        head, _ = await harness.ask(HANDSHAKE.replace(b"Version: 13", b"Version: 8"))
        assert status_of(head) == 426 and b"Sec-WebSocket-Version: 13\r\n" in head
        head, _ = await harness.ask(HANDSHAKE.replace(b"websocket", b"something"))
        assert status_of(head) != 101


def test_events_are_found_in_streams_of_either_kind() -> None:
    assert message_of(b'data: {"a": 1}\r') == b'{"a": 1}' and message_of(b'{"a": 1}') == b'{"a": 1}'
    for line in (b"", b": comment", b"event: x", b"data: [DONE]"):
        assert message_of(line) == b""


def test_an_error_answer_becomes_an_event() -> None:
    failure = failure_in(429, b'{"error": {"message": "slow", "code": "c", "type": "t", "param": "p"}}')
    assert failure == Failure(429, "slow", "c", "t", "p")
    assert failure_in(503, b"<html>").status == 503


def test_a_turn_has_the_fields_of_the_handshake_without_what_made_it_one() -> None:
    head = turn_head(head_for(
        "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k", "Authorization: Bearer a", "Content-Type: x",
        start="GET /v1/responses?a=1 HTTP/1.1"), 7)
    assert head.method == b"POST" and head.path == b"/v1/responses" and head.query == b"?a=1" and head.length == 7
    assert head.upgrade is None and head.get(b"authorization") == b"Bearer a" and head.get(b"sec-websocket-key") is None
    assert head.get(b"content-type") == b"application/json" and head.host == b"relay.example"


def test_what_connection_named_in_the_handshake_does_not_go_on_with_its_turns() -> None:
    head = turn_head(head_for("Connection: X-Hop, Upgrade", "Upgrade: websocket", "X-Hop: 1", "X-Team: blue"), 7)
    assert b"X-Team: blue" in head.keep and b"X-Hop: 1" not in head.keep


def test_the_places_of_keys_are_those_of_the_turn() -> None:
    handshake = head_for(
        "Sec-WebSocket-Key: k", "Connection: Upgrade", "Upgrade: websocket", "X-A: 1", "Authorization: Bearer a",
        "X-Api-Key: b", "Via: 1.1 x", "X-Forwarded-For: 192.0.2.1")
    head = turn_head(handshake, 7)
    assert [head.keep[index] for index in head.keys] == [b"Authorization: Bearer a", b"X-Api-Key: b"]
    assert (list(head.via), list(head.forwarding)) == ([b"1.1 x"], [b"X-Forwarded-For: 192.0.2.1"])
    head.keep.append(b"X-B: 1")
    head.via = (*head.via, b"1.1 y")
    assert list(turn_head(handshake, 7).via) == [b"1.1 x"] and b"X-B: 1" not in turn_head(handshake, 7).keep


async def test_a_handshake_that_its_listener_took_has_turns_however_many_fields_it_has(tmp_path: Path) -> None:
    listener = "limits: {fields: 300}"
    async with running(tmp_path, ScriptedEndpoints(a=[ANSWER]), whole=CHAT.replace("LIMITS", ""), listener=listener) as harness:
        fields = "".join(f"X-Field-{number}: x\r\n" for number in range(250)).encode()
        side = await harness.connect()
        side.write(HANDSHAKE[:-2] + fields + b"\r\n" + asking())
        assert status_of(await side.head()) == 101
        assert (await Socket(side).turn())[-1]["type"] == "response.completed"
