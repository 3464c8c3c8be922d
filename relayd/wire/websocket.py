"""WebSocket, the server's side of RFC 6455: the handshake's answer, frames in any cut to messages, frames out.

Laws:
1. Strict: every client frame is masked, no reserved bit or opcode, lengths in their shortest form, control frames whole
   and short, text is UTF-8, close codes are ones that may be sent.
2. Bounded: a message larger than `max_message_bytes` is refused at the head of the frame that would make it so, before
   its bytes are kept.
3. The events do not depend on how the input was cut. The last event is Closed or Broken; what follows is ignored.
4. One call reads at most as many frames as its caller allows; payload is unmasked and checked as it arrives.
5. No extension is negotiated.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import struct
from dataclasses import dataclass

from relayd.wire.http1 import RequestHead

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_CODE, NOT_UTF8, TOO_LARGE = 1000, 1001, 1002, 1005, 1007, 1009
TRY_AGAIN_LATER = 1013
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
    """A whole message; a text is valid UTF-8."""

    data: bytes
    is_text: bool = True


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
    """A client's bytes to events; owned by the connection.

    `has_more` says that the last call stopped at its bound: `feed(b"", most)` goes on.
    """

    __slots__ = (
        "_position", "_buffer", "_content", "_is_final", "_remaining", "_mask", "_max_bytes", "_opcode", "_is_finished", "_text",
        "has_more",
    )

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_message_bytes
        self._buffer = bytearray()
        self._position = 0  # what is before it in the buffer has been read
        self._opcode = 0  # of the message that is being put together; 0 between messages
        self._content = bytearray()
        self._remaining = -1  # bytes of the data frame under way that have not come; -1 between frames
        self._is_final = False
        self._mask = b""
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._is_finished = self.has_more = False

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer) + len(self._content)

    def feed(self, data: bytes, max_frames: int = 1 << 30) -> list[Event]:
        """The events of at most so many frames of what has come. Never raises."""
        events: list[Event] = []
        if self._is_finished:
            return events
        self._buffer += data
        try:
            while max_frames > 0 and self._frame(events):
                max_frames -= 1
        except _Fault as fault:
            self._is_finished = True
            events.append(fault.event)
        if self._is_finished:
            self._buffer.clear()
            self._content.clear()
        else:
            del self._buffer[: self._position]
        self._position = 0
        self.has_more = max_frames <= 0 and bool(self._buffer)
        return events

    def _frame(self, events: list[Event]) -> bool:
        """Read the frame that comes next, or what has come of it; False when it is not whole, or was the last."""
        if self._remaining < 0:
            head = self._head()
            if head is None:
                return False
            opcode, is_final, start, length = head
            if opcode >= _CLOSE:
                if len(self._buffer) < start + length:
                    return False
                self._position = start + length
                mask = bytes(self._buffer[start - 4 : start])
                events.append(self._control(opcode, _unmasked(bytes(self._buffer[start : self._position]), mask)))
                return not self._is_finished
            self._position = start
            self._opcode = opcode or self._opcode
            self._mask, self._remaining, self._is_final = bytes(self._buffer[start - 4 : start]), length, is_final
        self._payload()
        if self._remaining:
            return False
        self._remaining = -1
        if self._is_final:
            events.append(Message(bytes(self._content), self._opcode == _TEXT))
            self._opcode, self._content = 0, bytearray()
        return True

    def _payload(self) -> None:
        """Take what has come of the payload of the frame under way."""
        start = self._position
        size = min(self._remaining, len(self._buffer) - start)
        self._position += size
        self._remaining -= size
        piece = _unmasked(bytes(self._buffer[start : start + size]), self._mask)
        turned = size % 4
        self._mask = self._mask[turned:] + self._mask[:turned]
        if self._opcode == _TEXT:
            try:
                self._text.decode(piece, self._is_final and not self._remaining)
            except UnicodeDecodeError:
                raise _Fault(NOT_UTF8, "text is not UTF-8") from None
        self._content += piece

    def _head(self) -> tuple[int, bool, int, int] | None:
        """Opcode, FIN, begin and length of the payload of the next frame; None while its head is not whole."""
        buffer, position = self._buffer, self._position
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
        if opcode < _CLOSE and len(self._content) + length > self._max_bytes:
            raise _Fault(TOO_LARGE, f"message larger than {self._max_bytes} bytes")
        start += 4
        return None if len(buffer) < start else (opcode, final, start, length)

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

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return Pong(payload)
        closed = _close_event(payload)
        self._is_finished = True
        return closed


def _close_event(payload: bytes) -> Closed:
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
    return _encoded(_TEXT, data)


def binary_frame(data: bytes) -> bytes:
    """A binary message."""
    return _encoded(_BINARY, data)


def ping_frame(data: bytes = b"") -> bytes:
    """A ping of at most 125 bytes."""
    return _encoded(_PING, data[:_LONGEST_CONTROL])


def pong_frame(data: bytes) -> bytes:
    """The answer to a ping."""
    return _encoded(_PONG, data[:_LONGEST_CONTROL])


def close_frame(code: int = NORMAL, reason: str = "") -> bytes:
    """A close with a code that may be sent, else without one; the reason is cut to what fits."""
    if not is_sendable(code):
        return _encoded(_CLOSE, b"")
    truncated = reason.encode("utf-8", "replace")[: _LONGEST_CONTROL - 2].decode("utf-8", "ignore").encode("utf-8")
    return _encoded(_CLOSE, code.to_bytes(2, "big") + truncated)


def _encoded(opcode: int, data: bytes) -> bytes:
    length = len(data)
    if length < 126:
        return bytes((0x80 | opcode, length)) + data
    if length < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + data
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + data
