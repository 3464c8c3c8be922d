"""The ClientHello of real TLS libraries, cut at every byte, and bytes that are none."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.client_hello import ClientHello, ClientHelloError, parse


def hello(name: str | None, *protocols: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_name_and_protocols_are_read_once_all_is_there() -> None:
    whole = hello("AI.example.org", "acme-tls/1")
    assert all(parse(whole[:size]) is None for size in range(len(whole)))
    assert parse(whole) == parse(whole + b"more") == ClientHello("ai.example.org", (b"acme-tls/1",))
    assert parse(hello(None, "h2", "http/1.1")) == ClientHello("", (b"h2", b"http/1.1"))
    assert parse(hello("a.example")) == ClientHello("a.example", ())


def test_a_hello_in_several_records_is_read() -> None:
    whole = hello("a.example", "acme-tls/1")
    message = whole[5:]
    pieces = b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in (message[:3], message[3:100], message[100:]))
    assert all(parse(pieces[:size]) is None for size in range(len(pieces)))
    assert parse(pieces) == ClientHello("a.example", (b"acme-tls/1",))


def test_a_hello_without_extensions_is_read() -> None:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    assert parse(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message) == ClientHello("", ())


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ClientHelloError):
        parse(data)


@given(st.data())
def test_a_damaged_hello_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(hello("a.example", "acme-tls/1"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(whole))
    except ClientHelloError:
        pass
