"""The PROXY protocol: valid headers, every kind of broken one, and any cut."""

from __future__ import annotations

import socket
import struct

import pytest

from relayd.wire.proxy_protocol import SIGNATURE, ProxyProtocolError, Source, parse


def version_2(command: int, family: int, payload: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack(">H", len(payload) if length is None else length) + payload


TCP4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack(">HH", 4711, 443)
TCP6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack(">HH", 4711, 443)
)
SOURCE4 = Source("192.0.2.1", 4711, "198.51.100.2", 443)
SOURCE6 = Source("2001:db8::1", 4711, "2001:db8::2", 443)

VALID = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n", SOURCE4),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", SOURCE6),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (version_2(0x21, 0x11, TCP4), SOURCE4),
    (version_2(0x21, 0x21, TCP6), SOURCE6),
    (version_2(0x21, 0x11, TCP4 + b"\x04\x00\x03abc\x01\x00\x00"), SOURCE4),
    (version_2(0x21, 0x11, TCP4 + b"\x04\x10\x00" + b"x" * 4096), SOURCE4),
    (version_2(0x21, 0x31, b"/a".ljust(216, b"\x00")), Source("unix", 0, "unix", 0)),
    (version_2(0x20, 0x00, b""), None),
    (version_2(0x20, 0x11, TCP4), None),
    (version_2(0x20, 0x11, b"anything"), None),
    (version_2(0x21, 0x00, b"\x04\x00\x00"), None),
]


@pytest.mark.parametrize(("header", "source"), VALID)
def test_a_valid_header_is_read_and_what_follows_is_not_touched(header: bytes, source: Source | None) -> None:
    assert parse(header) == (source, len(header))
    assert parse(header + b"GET / HTTP/1.1\r\n") == (source, len(header))


@pytest.mark.parametrize(("header", "source"), VALID)
def test_every_shorter_beginning_asks_for_more(header: bytes, source: Source | None) -> None:
    for length in range(len(header)):
        assert parse(header[:length]) is None


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (b"GET / HTTP/1.1\r\n", "signature"),
        (b"PROXY\r\n", "signature"),
        (b"proxy TCP4", "signature"),
        (b"\r\n\r\nGET", "signature"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\rX", "line_end"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\n\r\n", "line"),
        (b"PROXY TCP4  192.0.2.1 198.51.100.2 4711 443\r\n", "line"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n", "line"),
        (b"PROXY TCP5 192.0.2.1 198.51.100.2 4711 443\r\n", "line"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 \r\n", "line"),
        (b"PROXY TCP4 192.0.2.256 198.51.100.2 4711 443\r\n", "address"),
        (b"PROXY TCP4 192.0.2.01 198.51.100.2 4711 443\r\n", "address"),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n", "address"),
        (b"PROXY TCP6 192.0.2.1 198.51.100.2 4711 443\r\n", "address"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 04711 443\r\n", "port"),
        (b"PROXY UNKNOWN " + b"x" * 92, "length"),
        (version_2(0x31, 0x11, TCP4), "version"),
        (version_2(0x11, 0x11, TCP4), "version"),
        (version_2(0x22, 0x11, TCP4), "command"),
        (version_2(0x21, 0x12, TCP4), "family"),
        (version_2(0x21, 0x41, TCP4), "family"),
        (version_2(0x21, 0x11, TCP4[:-1]), "length"),
        (version_2(0x21, 0x21, TCP4), "length"),
        (version_2(0x21, 0x11, b"", 5000), "length"),
        (version_2(0x21, 0x11, TCP4 + b"\x04"), "tlv"),
        (version_2(0x21, 0x11, TCP4 + b"\x04\x00\x05abc"), "tlv"),
    ],
)
def test_a_broken_header_ends_the_connection(header: bytes, rule: str) -> None:
    with pytest.raises(ProxyProtocolError) as refused:
        parse(header)
    assert refused.value.rule == rule


def test_the_longest_line_of_version_1_fits() -> None:
    line = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(line) == 107
    assert parse(line) == (None, 107)
