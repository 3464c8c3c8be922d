"""The protocol of Redis and Valkey, RESP2: commands to bytes, bytes to replies.

A reply is bytes, an int, a list, None, or an ErrorReply. relayd writes and reads it by itself: with the connections of
python3-redis a call costs three times as much (measured with 10 calls in one pipeline).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relayd.errors import RelaydError

LARGEST_REPLY = 64 * 1024 * 1024
_MOST_DEPTH = 8


class ErrorReply:
    """An error that the server replied: `code` is its first word, `text` the whole line."""

    __slots__ = ("code", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.code = text.split(" ", 1)[0]


class ProtocolFault(RelaydError):
    """The bytes are no reply of RESP2."""


class _Incomplete(Exception):
    """More bytes are needed: at least up to `end`."""

    def __init__(self, end: int) -> None:
        self.end = end


def encode_arguments(arguments: Iterable[str | int | bytes]) -> tuple[int, bytes]:
    """The number of arguments, and the arguments as RESP2 writes them, without the head of a command."""
    pieces: list[bytes] = []
    for argument in arguments:
        if argument.__class__ is int:
            raw = b"%d" % argument
        else:
            raw = argument if isinstance(argument, bytes) else str(argument).encode("utf-8", "surrogatepass")
        pieces.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return len(pieces), b"".join(pieces)


def encode_command(arguments: Iterable[str | int | bytes]) -> bytes:
    """A whole command."""
    count, body = encode_arguments(arguments)
    return b"*%d\r\n%b" % (count, body)


class ReplyParser:
    """Divides received bytes into replies. Owned by a connection."""

    __slots__ = ("_buffer", "_needed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0

    def parse(self, data: bytes) -> list[Any]:
        """The replies that are complete with these bytes. Raises ProtocolFault."""
        buffer = self._buffer
        buffer += data
        replies: list[Any] = []
        if len(buffer) < self._needed:
            return replies
        at = 0
        try:
            while at < len(buffer):
                reply, at = _parse(buffer, at, 0)
                replies.append(reply)
            self._needed = 0
        except _Incomplete as more:
            self._needed = more.end - at
            if self._needed > LARGEST_REPLY:
                raise ProtocolFault(f"a reply is larger than {LARGEST_REPLY} bytes") from None
        except (ValueError, IndexError) as fault:
            raise ProtocolFault(f"the bytes are no reply of Redis: {fault}") from fault
        del buffer[:at]
        return replies


def _parse(data: bytearray, at: int, depth: int) -> tuple[Any, int]:
    """The reply that begins at this byte, and its end."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete(len(data) + 1)
    kind = data[at]
    if kind == 0x24:  # $
        size = int(data[at + 1 : end])
        if size < 0:
            return None, end + 2
        stop = end + 2 + size
        if len(data) < stop + 2:
            raise _Incomplete(stop + 2)
        return bytes(data[end + 2 : stop]), stop + 2
    if kind == 0x3A:  # :
        return int(data[at + 1 : end]), end + 2
    if kind == 0x2B:  # +
        return bytes(data[at + 1 : end]), end + 2
    if kind == 0x2D:  # -
        return ErrorReply(data[at + 1 : end].decode("utf-8", "replace")), end + 2
    if kind != 0x2A or depth >= _MOST_DEPTH:  # *
        raise ValueError("unknown type" if kind != 0x2A else "nested too deeply")
    count = int(data[at + 1 : end])
    at = end + 2
    if count < 0:
        return None, at
    items: list[Any] = []
    for _ in range(count):
        if data[at : at + 1] == b":":  # most items of scripts are integers
            end = data.find(b"\r\n", at)
            if end < 0:
                raise _Incomplete(len(data) + 1)
            items.append(int(data[at + 1 : end]))
            at = end + 2
        else:
            item, at = _parse(data, at, depth + 1)
            items.append(item)
    return items, at
