"""WebSocket, the server's side of RFC 6455: the handshake's answer, frames in any cut to messages, frames out.

Laws:
1. Strict: every client frame is masked, no reserved bit or opcode, lengths in their shortest form, control frames whole
   and short, text is UTF-8, close codes are ones that may be sent.
2. Bounded: a message larger than `max_message_bytes` is refused at the head of the frame that would make it so, before
   its bytes are kept.
3. The events do not depend on how the input was cut. The last event is Closed or Broken; what follows is ignored.
4. No extension is negotiated.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import struct
from dataclasses import dataclass

from relayd.wire.http1 import RequestHead

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_CODE, NOT_UTF8, TOO_LARGE = 1000, 1001, 1002, 1005, 1007, 1009
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_LONGEST_CONTROL = 125


# ---- the handshake


class HandshakeError(ValueError):
    """A request is no WebSocket handshake that can be accepted; `headers` go with the answer of `status`."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def accept(head: RequestHead) -> bytes:
    """The head of the 101 answer (RFC 6455 4.2). Raises HandshakeError."""
    if head.method != b"GET" or head.version != 11 or head.has_body:
        raise HandshakeError(400, "A WebSocket begins with a GET without a body.")
    if not _tokens(head, b"upgrade") & {b"websocket"} or not _tokens(head, b"connection") & {b"upgrade"}:
        wanted = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
        raise HandshakeError(426, "This is a WebSocket endpoint.", wanted)
    if _values(head, b"sec-websocket-version") != [b"13"]:
        raise HandshakeError(426, "Only version 13 is spoken here.", (("Sec-WebSocket-Version", "13"),))
    keys = _values(head, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HandshakeError(400, "Sec-WebSocket-Key must be one key of 16 bytes.")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept_value(keys[0])
        + b"\r\n\r\n"
    )


def accept_value(key: bytes) -> bytes:
    """The proof that the key was read."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _values(head: RequestHead, name: bytes) -> list[bytes]:
    found = []
    for line in head.lines:
        raw, _, value = line.partition(b":")
        if raw.lower() == name:
            found.append(value.strip(b" \t"))
    return found


def _tokens(head: RequestHead, name: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for value in _values(head, name) for token in value.split(b",")}


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


# ---- events


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message: `str` of a text, `bytes` of a binary one."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with `pong_frame(data)`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, or a sign of life."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The client closes: to be answered with `close_frame(code)`. `code` is 1005 where it gave none."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The client broke a rule: to be told with `close_frame(code, reason)`, then the connection ends."""

    code: int
    reason: str


Event = Message | Ping | Pong | Closed | Broken


class _Fault(Exception):
    def __init__(self, code: int, reason: str) -> None:
        self.event = Broken(code, reason)


# ---- in


class Decoder:
    """A client's bytes to events; owned by the connection."""

    __slots__ = ("_binary", "_buffer", "_max_bytes", "_opcode", "_over", "_pieces", "_size_bytes", "_text")

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_message_bytes
        self._buffer = bytearray()
        self._opcode = 0  # of the message that is being put together; 0 between messages
        self._pieces: list[str] = []
        self._binary: list[bytes] = []
        self._size_bytes = 0
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Never raises."""
        events: list[Event] = []
        if self._over:
            return events
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while (frame := self._frame(position)) is not None:
                opcode, final, start, end = frame
                payload = _unmasked(bytes(buffer[start:end]), bytes(buffer[start - 4 : start]))
                position = end
                event = self._take(opcode, final, payload)
                if event is not None:
                    events.append(event)
                if isinstance(event, Closed):
                    self._over = True
                    break
        except _Fault as fault:
            self._over = True
            events.append(fault.event)
        if self._over:
            buffer.clear()
            self._pieces.clear()
            self._binary.clear()
        elif position:
            del buffer[:position]
        return events

    def _frame(self, position: int) -> tuple[int, bool, int, int] | None:
        """Opcode, FIN, begin and end of the payload of the frame at `position`; None while it is not whole."""
        buffer = self._buffer
        held = len(buffer) - position
        if held < 2:
            return None
        first, second = buffer[position], buffer[position + 1]
        opcode, final, length = first & 0x0F, first >= 0x80, second & 0x7F
        self._check_head(opcode, final, length, first, second)
        start = position + 2
        if length == 126:
            if held < 4:
                return None
            length = int.from_bytes(buffer[start : start + 2], "big")
            if length < 126:
                raise _Fault(PROTOCOL_ERROR, "length not in its shortest form")
            start += 2
        elif length == 127:
            if held < 10:
                return None
            length = int.from_bytes(buffer[start : start + 8], "big")
            if length < 1 << 16 or length >= 1 << 63:
                raise _Fault(PROTOCOL_ERROR, "length not in its shortest form")
            start += 8
        if opcode < _CLOSE and self._size_bytes + length > self._max_bytes:
            raise _Fault(TOO_LARGE, f"message larger than {self._max_bytes} bytes")
        start += 4
        end = start + length
        return None if len(buffer) < end else (opcode, final, start, end)

    def _check_head(self, opcode: int, final: bool, length: int, first: int, second: int) -> None:
        if first & 0x70:
            raise _Fault(PROTOCOL_ERROR, "reserved bits are set")
        if second < 0x80:
            raise _Fault(PROTOCOL_ERROR, "client frames are masked")
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise _Fault(PROTOCOL_ERROR, "unknown opcode")
            if not final or length > _LONGEST_CONTROL:
                raise _Fault(PROTOCOL_ERROR, "control frames are whole and short")
        elif opcode > _BINARY:
            raise _Fault(PROTOCOL_ERROR, "unknown opcode")
        elif opcode == _CONTINUATION and not self._opcode:
            raise _Fault(PROTOCOL_ERROR, "nothing to continue")
        elif opcode and self._opcode:
            raise _Fault(PROTOCOL_ERROR, "a message begins inside of another")

    def _take(self, opcode: int, final: bool, payload: bytes) -> Event | None:
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return Pong(payload)
        if opcode == _CLOSE:
            return _closing(payload)
        self._opcode = opcode or self._opcode
        self._size_bytes += len(payload)
        if self._opcode == _TEXT:
            try:
                piece = self._text.decode(payload, final)
            except UnicodeDecodeError:
                raise _Fault(NOT_UTF8, "text is not UTF-8") from None
            if piece:
                self._pieces.append(piece)
        elif payload:
            self._binary.append(payload)
        if not final:
            return None
        message = Message("".join(self._pieces) if self._opcode == _TEXT else b"".join(self._binary))
        self._opcode, self._size_bytes, self._pieces, self._binary = 0, 0, [], []
        return message


def _closing(payload: bytes) -> Closed:
    if not payload:
        return Closed(NO_CODE, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not is_sendable(code):
        raise _Fault(PROTOCOL_ERROR, "close code that cannot be sent")
    try:
        return Closed(code, payload[2:].decode("utf-8"))
    except UnicodeDecodeError:
        raise _Fault(NOT_UTF8, "close reason is not UTF-8") from None


def is_sendable(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455 7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    """One exclusive-or of two big integers: hundreds of megabytes a second without a loop in Python."""
    length = len(payload)
    if not length:
        return b""
    stream = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(stream, "little")).to_bytes(length, "little")


# ---- out


def text_frame(data: bytes) -> bytes:
    """A text message of UTF-8 bytes."""
    return _written(_TEXT, data)


def binary_frame(data: bytes) -> bytes:
    """A binary message."""
    return _written(_BINARY, data)


def ping_frame(data: bytes = b"") -> bytes:
    """A ping of at most 125 bytes."""
    return _written(_PING, data[:_LONGEST_CONTROL])


def pong_frame(data: bytes) -> bytes:
    """The answer to a ping."""
    return _written(_PONG, data[:_LONGEST_CONTROL])


def close_frame(code: int = NORMAL, reason: str = "") -> bytes:
    """A close with a code that may be sent, else without one; the reason is cut to what fits."""
    if not is_sendable(code):
        return _written(_CLOSE, b"")
    said = reason.encode("utf-8", "replace")[: _LONGEST_CONTROL - 2].decode("utf-8", "ignore").encode("utf-8")
    return _written(_CLOSE, code.to_bytes(2, "big") + said)


def _written(opcode: int, data: bytes) -> bytes:
    length = len(data)
    if length < 126:
        return bytes((0x80 | opcode, length)) + data
    if length < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + data
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + data
