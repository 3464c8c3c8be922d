"""WebSocket frames: what another implementation sends and reads, in any cut; and every rule that a client may break."""

from __future__ import annotations

import itertools
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.http1 import RequestHead, parse_head
from relayd.wire.websocket import (
    Broken,
    Closed,
    Decoder,
    Event,
    HandshakeError,
    Message,
    Ping,
    Pong,
    accept,
    accept_value,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from tests.aids.growth import linear

FIELDS = {
    "Host": "relay.example", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def asked(start: str = "GET /v1/responses HTTP/1.1", **changes: str | None) -> RequestHead:
    fields = FIELDS | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return parse_head("\r\n".join([start, *lines, "", ""]).encode())


class Opcode:
    CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def sent(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """A client's frame, byte for byte by the picture in RFC 6455 5.2."""
    mask = os.urandom(4)
    size = len(data)
    length = bytes((0x80 | size,)) if size < 126 else struct.pack("!BH", 0xFE, size) if size < 65536 else struct.pack("!BQ", 0xFF, size)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data)) if size < 100_000 else data
    return bytes((0x80 * fin | opcode,)) + length + (mask if masked is not data else bytes(4)) + masked


def client() -> Any:
    """Another implementation's client, whose handshake relayd has answered."""
    module = pytest.importorskip("websockets.client")
    if not hasattr(module, "ClientProtocol"):
        pytest.skip("this version has another name for it")
    protocol = module.ClientProtocol(pytest.importorskip("websockets.uri").parse_uri("ws://relay.example/v1/responses"))
    protocol.send_request(protocol.connect())
    [request] = protocol.data_to_send()
    protocol.receive_data(accept(parse_head(request)))
    [answer] = protocol.events_received()
    assert answer.status_code == 101 and protocol.handshake_exc is None
    assert protocol.state.name == "OPEN"
    return protocol


# ---- the handshake


def test_the_example_of_the_standard_gives_its_value() -> None:
    assert accept_value(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in accept(asked())


def test_another_implementation_accepts_the_answer() -> None:
    client()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Upgrade": None}, 426), ({"Upgrade": "h2c"}, 426), ({"Connection": "keep-alive"}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426), ({"Sec_WebSocket_Version": None}, 426),
        ({"Sec_WebSocket_Key": None}, 400), ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400),
        ({"Sec_WebSocket_Key": "!!!!!!!!!!!!!!!!!!!!!!=="}, 400),
        ({"start": "POST /v1/responses HTTP/1.1"}, 400), ({"Content_Length": "3"}, 400),
    ],
)  # fmt: skip
def test_what_is_no_handshake_is_refused(changes: dict[str, Any], status: int) -> None:
    with pytest.raises(HandshakeError) as refused:
        accept(asked(**changes))
    assert refused.value.status == status


def test_an_old_version_gets_the_supported_one() -> None:
    with pytest.raises(HandshakeError) as refused:
        accept(asked(Sec_WebSocket_Version="8"))
    assert refused.value.headers == (("Sec-WebSocket-Version", "13"),)


def test_two_keys_are_no_key() -> None:
    head = parse_head(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with pytest.raises(HandshakeError):
        accept(head)


# ---- in


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A client's frames, and what they mean."""
    stream, meant = b"", list[Event]()
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["text", "binary", "ping", "pong"]))
        if kind in ("ping", "pong"):
            data = draw(st.binary(max_size=125))
            stream += sent(Opcode.PING if kind == "ping" else Opcode.PONG, data)
            meant.append(Ping(data) if kind == "ping" else Pong(data))
            continue
        text = draw(st.text(max_size=200)) * draw(st.sampled_from([1, 1, 40]))
        data = text.encode()
        cuts = [0, *sorted(draw(st.lists(st.integers(0, len(data)), max_size=3))), len(data)]
        for number, (start, end) in enumerate(itertools.pairwise(cuts)):
            first = Opcode.TEXT if kind == "text" else Opcode.BINARY
            stream += sent(Opcode.CONT if number else first, data[start:end], number == len(cuts) - 2)
            if number < len(cuts) - 2 and draw(st.booleans()):
                stream += sent(Opcode.PING, b"between")
                meant.append(Ping(b"between"))
        meant.append(Message(data, kind == "text"))
    if draw(st.booleans()):
        stream += sent(Opcode.CLOSE, (1000).to_bytes(2, "big") + "fertig ü".encode()) + b"\xff after"
        meant.append(Closed(1000, "fertig ü"))
    return stream, meant


@given(conversations(), st.data())
def test_every_cut_gives_the_same_events(conversation: tuple[bytes, list[Event]], data: st.DataObject) -> None:
    stream, meant = conversation
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12))), len(stream)]
    decoder = Decoder()
    assert [event for a, b in itertools.pairwise(cuts) for event in decoder.feed(stream[a:b])] == meant
    decoder = Decoder()
    if len(stream) < 2000:
        assert [event for place in range(len(stream)) for event in decoder.feed(stream[place : place + 1])] == meant


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_comes_never_raises_and_nothing_follows_the_last_event(chunks: list[bytes]) -> None:
    decoder = Decoder(1000)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    assert not any(isinstance(event, Closed | Broken) for event in events[:-1])
    if events and isinstance(events[-1], Closed | Broken):
        assert decoder.feed(sent(Opcode.TEXT, b"late")) == []


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x81\x01a", 1002),
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x8b\x80\0\0\0\0", 1002),
        (b"\x09\x80\0\0\0\0", 1002),
        (b"\x89\xfe\0\x7e", 1002),
        (sent(Opcode.CONT, b"a"), 1002),
        (sent(Opcode.TEXT, b"a", False) + sent(Opcode.TEXT, b"b"), 1002),
        (b"\x81\xfe\0\x7d\0\0\0\0", 1002),
        (b"\x81\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 1002),
        (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),
        (sent(Opcode.TEXT, b"\xff"), 1007),
        (sent(Opcode.TEXT, "é".encode()[:1]), 1007),
        (sent(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
        (sent(Opcode.CLOSE, b"\x03"), 1002),
        *((sent(Opcode.CLOSE, code.to_bytes(2, "big")), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)),
        (sent(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
    ],
    ids=map(str, itertools.count()),  # masks are drawn, and workers must agree on the names
)
def test_a_broken_rule_has_its_code(frames: bytes, code: int) -> None:
    [event] = Decoder().feed(frames)
    assert isinstance(event, Broken) and event.code == code and event.reason


def test_a_text_that_is_not_utf8_is_refused_before_it_ends() -> None:
    assert isinstance(Decoder().feed(sent(Opcode.TEXT, b"a\xff", False))[0], Broken)


def test_a_message_that_is_too_large_is_refused_at_its_head() -> None:
    [event] = Decoder(100).feed(sent(Opcode.BINARY, b"x" * 101)[:4])
    assert isinstance(event, Broken) and event.code == 1009
    decoder = Decoder(100)
    assert decoder.feed(sent(Opcode.BINARY, b"x" * 60, False)) == []
    assert [type(event) for event in decoder.feed(sent(Opcode.CONT, b"x" * 41))] == [Broken]
    decoder = Decoder(100)
    assert decoder.feed(sent(Opcode.BINARY, b"x" * 100)) == [Message(b"x" * 100, False)]
    assert decoder.feed(sent(Opcode.BINARY, b"x" * 100)) == [Message(b"x" * 100, False)]


def test_a_close_without_a_code_is_one() -> None:
    assert Decoder().feed(sent(Opcode.CLOSE, b"")) == [Closed(1005, "")]


def test_large_messages_are_unmasked_in_linear_time() -> None:
    data = os.urandom(4 << 20)
    streams = {size: sent(Opcode.BINARY, data[:size]) for size in (1 << 18, 4 << 20)}

    def read(size: int) -> None:
        decoder = Decoder()
        events: list[Event] = []
        for place in range(0, len(streams[size]), 65536):
            events += decoder.feed(streams[size][place : place + 65536])
        assert events == [Message(data[:size], False)]

    assert linear(read, 1 << 18)


# ---- out, and what another implementation makes of it


def test_what_another_implementation_sends_is_read() -> None:
    protocol = client()
    protocol.send_text("héllo".encode())
    protocol.send_binary(b"x" * 70_000)
    protocol.send_text(b"a", fin=False)
    protocol.send_ping(b"p")
    protocol.send_continuation(b"b", fin=True)
    protocol.send_close(1000, "bye")
    assert Decoder().feed(b"".join(protocol.data_to_send())) == [
        Message("héllo".encode()), Message(b"x" * 70_000, False), Ping(b"p"), Message(b"ab"), Closed(1000, "bye")]  # fmt: skip


@given(st.text(max_size=300), st.sampled_from([1, 1, 300]), st.binary(max_size=125))
def test_another_implementation_reads_what_is_written(text: str, times: int, data: bytes) -> None:
    protocol = client()
    message = (text * times).encode()
    protocol.receive_data(text_frame(message) + ping_frame(data) + binary_frame(data) + pong_frame(data))
    read = protocol.events_received()
    assert [(frame.opcode, bytes(frame.data)) for frame in read] == [
        (Opcode.TEXT, message), (Opcode.PING, data), (Opcode.BINARY, data), (Opcode.PONG, data),
    ]  # fmt: skip
    assert Decoder().feed(b"".join(protocol.data_to_send())) == [Pong(data)]


def test_both_sides_close_in_order() -> None:
    protocol = client()
    protocol.receive_data(close_frame(1001, "drain"))
    assert protocol.close_rcvd is not None
    assert (protocol.close_rcvd.code, protocol.close_rcvd.reason) == (1001, "drain")
    [event] = Decoder().feed(b"".join(protocol.data_to_send()))
    assert event == Closed(1001, "drain")


def test_a_reason_is_cut_where_a_character_ends_and_a_code_that_cannot_be_sent_is_left_out() -> None:
    protocol = client()
    protocol.receive_data(close_frame(1000, "ü" * 100))
    assert protocol.close_rcvd is not None and protocol.close_rcvd.reason == "ü" * 61
    assert close_frame(1005) == b"\x88\x00"


def test_what_is_held_of_a_message_is_known() -> None:
    decoder, whole = Decoder(), sent(1, b"x" * 1000)
    decoder.feed(whole[:500])
    assert decoder.held_bytes == 492  # the payload; its head is decoded
    decoder.feed(whole[500:])
    assert decoder.held_bytes == 0
    decoder.feed(sent(1, b"y" * 300, False))  # a fragment, with more to come
    assert decoder.held_bytes == 300
