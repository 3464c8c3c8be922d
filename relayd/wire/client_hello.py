"""Reads the server name and the application protocols of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3, RFC 7301 3.1).

A TLS library reports the protocols only after it has chosen the certificate; tls-alpn-01 (RFC 8737) needs them before.
"""

from __future__ import annotations

from typing import NamedTuple

HANDSHAKE_RECORD, CLIENT_HELLO = 22, 1
SERVER_NAME, ALPN = 0, 16


class ClientHelloError(ValueError):
    """The bytes are no ClientHello."""


class ClientHello(NamedTuple):
    """`server_name` in lower case, empty without one."""

    server_name: str
    protocols: tuple[bytes, ...]


def parse(data: bytes) -> ClientHello | None:
    """The ClientHello at the beginning of a connection; None while it is incomplete. Raises ClientHelloError."""
    message, at = b"", 0
    while True:
        if len(data) < at + 5:
            if data[at : at + 1] not in (b"", b"\x16"):
                raise ClientHelloError
            return None
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] != HANDSHAKE_RECORD or not size:
            raise ClientHelloError
        message += data[at + 5 : at + 5 + size]
        if message[0:1] not in (b"", b"\x01"):
            raise ClientHelloError
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            return _fields(_Reader(message[4 : 4 + int.from_bytes(message[1:4], "big")]))
        if len(data) < at + 5 + size:
            return None
        at += 5 + size


class _Reader:
    """Reads length-prefixed values. Raises ClientHelloError beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ClientHelloError
        piece, self._at = self._data[self._at : end], end
        return piece

    def vector(self, length_bytes: int) -> bytes:
        return self.take(int.from_bytes(self.take(length_bytes), "big"))

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def _fields(reader: _Reader) -> ClientHello:
    reader.take(2 + 32)  # version, random
    for length_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
        reader.vector(length_bytes)
    name, protocols = "", []
    extensions = _Reader(reader.vector(2) if reader.more else b"")
    while extensions.more:
        kind, content = extensions.number(2), _Reader(extensions.vector(2))
        if kind == SERVER_NAME:
            names = _Reader(content.vector(2))
            while names.more:
                is_host, value = names.number(1) == 0, names.vector(2)
                name = value.decode("latin-1").lower() if is_host else name
        elif kind == ALPN:
            listed = _Reader(content.vector(2))
            while listed.more:
                protocols.append(listed.vector(1))
    return ClientHello(name, tuple(protocols))
