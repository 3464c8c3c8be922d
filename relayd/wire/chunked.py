"""Chunked bodies: an incremental, strict decoder, and the framing of what relayd sends.

Laws:
1. The verdict, the payload and the bytes consumed do not depend on how the input was cut into pieces.
2. What one feed costs is bounded in bytes (by the input) and in pieces (`max_pieces`); what is left waits in `pending`.
3. Extensions must be well-formed, are bounded, and never go on. Trailers are checked like fields; those that could
   change framing, routing or rights are dropped (RFC 9110 6.5.1), the rest is offered and never merged into the head.
4. After a fault the decoder answers nothing but that fault.

The grammar is RFC 9112 7.1 without its optional blanks: a bare CR or LF, a sign, `0x` or `_` in a size is where two
parsers begin to disagree, and no client needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum

from relayd.wire.headers import HOP_BY_HOP, PROTECTED

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# No possessive groups: before Python 3.11.5 they match what they should not when a group can backtrack.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION = rb"(?:;" + _TOKEN + rb"++(?:=(?:" + _TOKEN + rb"++|" + _QUOTED + rb"))?)*"

_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(" + _EXTENSION + rb")\r\n")
# What may still become a size line; whether the extension is well-formed is asked when the line is whole.
_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;[^\r\n]*+)?\r?\Z|\Z")
_DIGITS = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[;\r]|\Z)")
_TRAILER_LINE = re.compile(rb"(" + _TOKEN + rb"++):[\t\x20-\x7e\x80-\xff]*+\r\n")
_LINE_BEGUN = re.compile(rb"[^\r\n]*+\r?\Z")

# Fields that mean something before the body and therefore nothing behind it (RFC 9110 6.5.1).
FORBIDDEN_TRAILERS = HOP_BY_HOP | PROTECTED | frozenset(
    b"age cache-control content-range date expect expires location max-forwards range retry-after set-cookie vary "
    b"www-authenticate".split()
)
_FORBIDDEN_PREFIXES = (b"x-forwarded-", b"if-", b"proxy-")

LAST_CHUNK = b"0\r\n\r\n"


class ChunkedError(ValueError):
    """A chunked body is not valid. `rule` is a stable word that may be logged; the bytes may not."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class State(IntEnum):
    """Where the decoder stands; EXT of the grammar is a part of the size line and is checked with it."""

    SIZE = 0
    DATA = 1
    CRLF = 2
    TRAILER = 3
    DONE = 4


def encode(data: bytes) -> bytes:
    """Frame `data` as one chunk. Nothing becomes nothing: a chunk of size 0 would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def is_forbidden_trailer(name: bytes) -> bool:
    """True if a field of this name must never be taken from a trailer section.

    `_` counts as `-`: CGI-like readers fold both into one variable.
    """
    lower = name.lower().replace(b"_", b"-")
    return lower in FORBIDDEN_TRAILERS or lower.startswith(_FORBIDDEN_PREFIXES)


class ChunkedDecoder:
    """Decodes one chunked body; owned by the connection that reads it.

    `done` says that the body ended; then `rest` holds the bytes behind it and `trailers` the raw lines that may go on.
    `pending` is input that the last feed did not look at because it had handled `max_pieces` chunks: call `feed(b"")`
    in a later turn.
    """

    __slots__ = (
        "_extension_left", "_extension_line", "_fault", "_held", "_remaining", "_state", "_trailer_fields",
        "_trailer_left", "pending", "rest", "trailers",
    )  # fmt: skip

    def __init__(
        self,
        trailer_bytes: int = 8192,
        trailer_fields: int = 32,
        extension_line: int = 4096,
        extension_total: int = 65536,
    ) -> None:
        self.trailers: list[bytes] = []
        self.rest = b""
        self.pending = b""
        self._held = b""  # the begun line that the next feed completes
        self._state = State.SIZE
        self._remaining = 0
        self._extension_line = extension_line
        self._extension_left = extension_total
        self._trailer_left = trailer_bytes
        self._trailer_fields = trailer_fields
        self._fault: str | None = None

    @property
    def done(self) -> bool:
        return self._state is State.DONE

    def feed(self, data: bytes, max_pieces: int = 4096) -> bytes:
        """Take `data`, return the payload that is ready, in one piece."""
        if self._fault is not None:
            raise ChunkedError(self._fault)
        if self._state is State.DONE:
            self.rest += data
            return b""
        if self._state is State.DATA and not self.pending and len(data) <= self._remaining:
            self._remaining -= len(data)  # the whole input is payload: no copy
            if not self._remaining:
                self._state = State.CRLF
            return data
        if self.pending:
            data, self.pending = self.pending + data, b""
        elif self._held:
            data, self._held = self._held + data, b""
        out: list[bytes] = []
        position = self._run(data, out, max_pieces)
        if self.done:
            self.rest = data[position:]
        return b"".join(out) if len(out) != 1 else out[0]

    def _run(self, data: bytes, out: list[bytes], budget: int) -> int:
        position, length = 0, len(data)
        plain = _PLAIN_SIZE.match
        while position < length:
            if self._state is State.SIZE:
                # The common chunk, whole and without an extension, is taken in one step.
                if budget <= 0:
                    self.pending = data[position:]
                    return length
                budget -= 1
                if (match := plain(data, position)) is not None and (size := int(match[1], 16)):
                    start = match.end()
                    end = start + size
                    if data[end : end + 2] == b"\r\n":
                        out.append(data[start:end])
                        position = end + 2
                        continue
            following = _HANDLERS[self._state](self, data, position, out)
            if following < 0:
                self._held = data[position:]
                return length
            position = following
            if self._state is State.DONE:
                break
        return position

    def _fail(self, rule: str) -> ChunkedError:
        self._fault = rule
        return ChunkedError(rule)

    def _size(self, data: bytes, position: int, out: list[bytes]) -> int:
        match = _SIZE_LINE.match(data, position)
        if match is None:
            return self._size_begun(data, position)
        extension = match.end(2) - match.start(2)
        if extension:
            self._spend_extension(extension)
            self._extension_left -= extension
        self._remaining = int(match[1], 16)
        self._state = State.DATA if self._remaining else State.TRAILER
        return match.end()

    def _size_begun(self, data: bytes, position: int) -> int:
        digits = _DIGITS.match(data, position)
        if digits is None:
            raise self._fail("chunk_size")
        if _SIZE_BEGUN.match(data, position) is None:
            # The line is whole or holds a bare CR or LF: too long counts before malformed, whichever way it was cut.
            ends = [at for at in (data.find(b"\r", position), data.find(b"\n", position)) if at >= 0]
            if (semicolon := data.find(b";", position, min(ends))) >= 0:
                self._spend_extension(min(ends) - semicolon)
                raise self._fail("chunk_extension")
            raise self._fail("chunk_size")
        if (semicolon := data.find(b";", position)) >= 0:
            self._spend_extension(len(data) - semicolon - data.endswith(b"\r"))
        return -1

    def _spend_extension(self, size: int) -> None:
        if size > self._extension_line or size > self._extension_left:
            raise self._fail("chunk_extension_size")

    def _data(self, data: bytes, position: int, out: list[bytes]) -> int:
        piece = data[position : position + self._remaining]
        out.append(piece)
        self._remaining -= len(piece)
        if not self._remaining:
            self._state = State.CRLF
        return position + len(piece)

    def _crlf(self, data: bytes, position: int, out: list[bytes]) -> int:
        if data.startswith(b"\r\n", position):
            self._state = State.SIZE
            return position + 2
        if len(data) - position == 1 and data[position] == 0x0D:
            return -1
        raise self._fail("chunk_end")

    def _trailer(self, data: bytes, position: int, out: list[bytes]) -> int:
        if data.startswith(b"\r\n", position):
            self._state = State.DONE
            return position + 2
        match = _TRAILER_LINE.match(data, position)
        if match is None:
            if _LINE_BEGUN.match(data, position) is None:
                end = min(at for at in (data.find(b"\r", position), data.find(b"\n", position)) if at >= 0)
                if end - position > self._trailer_left:
                    raise self._fail("trailer_size")
                raise self._fail("trailer")
            if len(data) - position - data.endswith(b"\r") > self._trailer_left:
                raise self._fail("trailer_size")
            return -1
        self._trailer_left -= match.end() - position
        self._trailer_fields -= 1
        if self._trailer_left < 0:
            raise self._fail("trailer_size")
        if self._trailer_fields < 0:
            raise self._fail("trailer_count")
        if not is_forbidden_trailer(match[1]):
            self.trailers.append(data[position : match.end() - 2])
        return match.end()


# By state. A handler gets the input and a position, and returns the next position, or -1 if it needs more input. They
# are functions, not bound methods: only the garbage collector would free a decoder that held its own methods.
_HANDLERS: tuple[Callable[[ChunkedDecoder, bytes, int, list[bytes]], int], ...] = (
    ChunkedDecoder._size, ChunkedDecoder._data, ChunkedDecoder._crlf, ChunkedDecoder._trailer,
)  # fmt: skip
