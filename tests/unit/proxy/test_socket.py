"""The WebSocket transport of the Responses API: turns, their order, and what ends them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.protocols.canon import Failure
from relayd.proxy.socket import WAITING, failure_in, message_of, turn_head
from tests.unit.proxy.house import House, Side, get, running, soon, status_of, until
from tests.unit.proxy.places import DONE, STREAM, Places, delta, http, in_turn, silent
from tests.unit.proxy.scene import head_for

CHAT = """
upstreams: {a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/a"], LIMITS}}
routes: [{name: all, protocol: openai_responses, upstream: a}]
"""
HANDSHAKE = get(
    "/v1/responses", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "X-Team: blue",
)
ANSWER = STREAM + delta(content="hello") + delta("stop") + DONE


def frame(told: dict[str, Any] | bytes, opcode: int = 1) -> bytes:
    data = told if isinstance(told, bytes) else json.dumps(told).encode()
    mask = os.urandom(4)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def asking(text: str = "hi", **words: Any) -> bytes:
    return frame({"type": "response.create", "model": "m", "input": text, **words})


class Socket:
    def __init__(self, side: Side) -> None:
        self.side = side

    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.side.exactly(2)
        size = second
        if second == 126:
            size = int.from_bytes(await self.side.exactly(2), "big")
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


async def opened(house: House) -> Socket:
    side = await house.connect()
    side.write(HANDSHAKE)
    assert status_of(await side.head()) == 101
    return Socket(side)


def whole(limits: str = "") -> str:
    return CHAT.replace("LIMITS", limits)


async def test_a_turn_goes_the_path_of_a_request_and_its_events_come_as_frames(tmp_path: Path) -> None:
    places = Places(a=ANSWER)
    async with running(tmp_path, places, whole=whole()) as house:
        socket = await opened(house)
        socket.side.write(asking())
        events = await socket.turn()
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "hello"
        assert json.loads(places.asked[0][2])["stream"] is True
        assert len(house.accounts) == 1 and house.accounts[0].method == "POST" and house.accounts[0].status == 200
        socket.side.close()
        await until(lambda: len(house.accounts) == 2)


async def test_turns_come_one_after_another_in_their_order(tmp_path: Path) -> None:
    events, first = in_turn(ANSWER)
    places = Places(a=[first, ANSWER])
    async with running(tmp_path, places, whole=whole()) as house:
        socket = await opened(house)
        socket.side.write(asking("one") + asking("two"))
        await until(lambda: len(places.asked) == 1)
        await asyncio.sleep(0.02)
        assert len(places.asked) == 1
        events[0].set()
        for _ in range(2):
            assert (await socket.turn())[-1]["type"] == "response.completed"
        asked = [json.loads(body)["messages"][0]["content"] for _, _, body in places.asked]
        assert asked == ["one", "two"]


async def test_a_conversation_goes_on_from_the_last_response_though_it_was_not_stored(tmp_path: Path) -> None:
    places = Places(a=ANSWER)
    async with running(tmp_path, places, whole=whole()) as house:
        socket, other = await opened(house), await opened(house)
        socket.side.write(asking("one", store=False))
        response = (await socket.turn())[-1]["response"]
        socket.side.write(asking("two", store=False, previous_response_id=response["id"]))
        assert (await socket.turn())[-1]["type"] == "response.completed"
        assert [one["content"] for one in json.loads(places.asked[1][2])["messages"]] == ["one", "hello", "two"]
        other.side.write(asking("x", previous_response_id=response["id"]))
        (error,) = await other.turn()
        assert error["error"]["code"] == "previous_response_not_found" and error["status"] in (400, 404)


async def test_a_turn_that_fails_forgets_what_it_continued_and_ends_nothing_else(tmp_path: Path) -> None:
    places = Places(a=[ANSWER, http(500, {"error": {"message": "boom"}}), ANSWER])
    async with running(tmp_path, places, whole=whole()) as house:
        socket = await opened(house)
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
async def test_what_is_no_request_is_said_and_the_socket_stays(tmp_path: Path, wrong: bytes) -> None:
    async with running(tmp_path, Places(a=ANSWER), whole=whole()) as house:
        socket = await opened(house)
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

    places = Places(a=waiting)
    async with running(tmp_path, places, whole=whole()) as house:
        socket = await opened(house)
        socket.side.write(asking() + asking())
        await until(lambda: len(places.asked) == 1)
        socket.side.close()
        await soon(gone.wait())
        await until(lambda: len(house.accounts) == 2)
        assert {record.code for record in house.accounts} == {"client_gone"} and len(places.asked) == 1


async def test_a_ping_is_answered_and_a_close_ends_it_cleanly(tmp_path: Path) -> None:
    async with running(tmp_path, Places(a=ANSWER), whole=whole()) as house:
        socket = await opened(house)
        socket.side.write(frame(b"are you there", opcode=9))
        assert await socket.frame() == (10, b"are you there")
        socket.side.write(frame((1000).to_bytes(2, "big"), opcode=8))
        opcode, data = await socket.frame()
        assert opcode == 8 and data[:2] == (1000).to_bytes(2, "big")
        (record,) = await house.accounted(1)
        assert record.outcome == "complete" and record.status == 101


async def test_more_turns_than_may_wait_are_not_even_read(tmp_path: Path) -> None:
    places = Places(a=silent)
    async with running(tmp_path, places, whole=whole()) as house:
        socket = await opened(house)
        socket.side.write(b"".join(asking(str(number)) for number in range(WAITING + 2)))
        await until(lambda: not house.connection._stream.wanted and len(places.asked) == 1)
        await asyncio.sleep(0.02)
        assert len(places.asked) == 1


async def test_a_draining_gateway_closes_when_the_turn_is_over(tmp_path: Path) -> None:
    events, first = in_turn(ANSWER)
    async with running(tmp_path, Places(a=first), whole=whole()) as house:
        socket = await opened(house)
        socket.side.write(asking())
        await until(lambda: len(house.gateway.exchanges) == 2)
        house.gateway.draining = True
        house.gateway.sweep()
        events[0].set()
        assert (await socket.turn())[-1]["type"] == "response.completed"
        await until(lambda: len(house.gateway.exchanges) == 1)
        house.gateway.sweep()
        opcode, data = await socket.frame()
        assert opcode == 8 and data[:2] == (1001).to_bytes(2, "big")


async def test_a_connection_that_says_nothing_is_pinged_and_then_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, Places(a=ANSWER), whole=whole()) as house:
        socket = await opened(house)
        (exchange,) = house.gateway.exchanges
        exchange.check(clock.monotonic() + 40)
        assert (await socket.frame())[0] == 9
        exchange.check(clock.monotonic() + 200)
        assert (await socket.frame())[0] == 8


async def test_no_handshake_is_no_socket(tmp_path: Path) -> None:
    async with running(tmp_path, Places(a=ANSWER), whole=whole()) as house:
        head, _ = await house.ask(HANDSHAKE.replace(b"Version: 13", b"Version: 8"))
        assert status_of(head) == 426 and b"Sec-WebSocket-Version: 13\r\n" in head
        head, _ = await house.ask(HANDSHAKE.replace(b"websocket", b"something"))
        assert status_of(head) != 101


def test_events_are_found_in_streams_of_either_kind() -> None:
    assert message_of(b'data: {"a": 1}\r') == b'{"a": 1}' and message_of(b'{"a": 1}') == b'{"a": 1}'
    for line in (b"", b": comment", b"event: x", b"data: [DONE]"):
        assert message_of(line) == b""


def test_an_error_answer_becomes_an_event() -> None:
    told = failure_in(429, b'{"error": {"message": "slow", "code": "c", "type": "t", "param": "p"}}')
    assert told == Failure(429, "slow", "c", "t", "p")
    assert failure_in(503, b"<html>").status == 503


def test_a_turn_has_the_fields_of_the_handshake_without_what_made_it_one() -> None:
    head = turn_head(head_for(
        "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k", "Authorization: Bearer a", "Content-Type: x",
        start="GET /v1/responses?a=1 HTTP/1.1"), 7)
    assert head.method == b"POST" and head.path == b"/v1/responses" and head.query == b"?a=1" and head.length == 7
    assert head.upgrade is None and head.get(b"authorization") == b"Bearer a" and head.get(b"sec-websocket-key") is None
    assert head.get(b"content-type") == b"application/json" and head.host == b"relay.example"
