"""Chunked bodies: a strict incremental decoder and an encoder.

Laws:
1. The result, the payload and the bytes consumed do not depend on the segmentation of the input.
2. The cost of one `feed` is bounded in bytes (by the input) and in chunks (`max_pieces`); the rest is in `pending`.
3. Extensions must be well-formed, are bounded, and are never forwarded. Trailers are validated like fields. Trailers
   that could change framing, routing or authorisation are dropped (RFC 9110 6.5.1); the others are in `trailers` and
   are never merged into the head.
4. After a fault every call raises that fault.

The grammar is RFC 9112 7.1 without its optional whitespace. Parsers disagree about a bare CR or LF and about a sign,
`0x` or `_` in a size, and no client needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from relayd.lazy_regex import lazy_regex
from relayd.wire.headers import HOP_BY_HOP, PROTECTED

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# No possessive groups: before Python 3.11.5 they can match too much if a group can backtrack.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION = rb"(?:;" + _TOKEN + rb"++(?:=(?:" + _TOKEN + rb"++|" + _QUOTED + rb"))?)*"

_PLAIN_SIZE = lazy_regex(rb"([0-9A-Fa-f]{1,15})\r\n")
_SIZE_LINE = lazy_regex(rb"([0-9A-Fa-f]{1,15})(" + _EXTENSION + rb")\r\n")
# The beginning of a size line; the extension is validated when the line is complete.
_SIZE_BEGUN = lazy_regex(rb"[0-9A-Fa-f]{1,15}(?:;[^\r\n]*+)?\r?\Z|\Z")
_DIGITS = lazy_regex(rb"[0-9A-Fa-f]{1,15}(?:[;\r]|\Z)")
_TRAILER_LINE = lazy_regex(rb"(" + _TOKEN + rb"++):[\t\x20-\x7e\x80-\xff]*+\r\n")
_LINE_BEGUN = lazy_regex(rb"[^\r\n]*+\r?\Z")

# Fields that must be known before the body and are therefore invalid after it (RFC 9110 6.5.1).
FORBIDDEN_TRAILERS = HOP_BY_HOP | PROTECTED | frozenset(
    b"age cache-control content-range date expect expires location max-forwards range retry-after set-cookie vary "
    b"www-authenticate".split()
)
_FORBIDDEN_PREFIXES = (b"x-forwarded-", b"if-", b"proxy-")

LAST_CHUNK = b"0\r\n\r\n"


class ChunkedError(ValueError):
    """A chunked body is not valid. `rule` is a stable identifier for logs; the bytes must not be logged."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class State(IntEnum):
    """The state of the decoder. An extension is part of the size line and is validated with it."""

    SIZE = 0
    DATA = 1
    CRLF = 2
    TRAILER = 3
    DONE = 4


def encode(data: bytes) -> bytes:
    """Frame `data` as one chunk. Empty data results in no chunk, because a chunk of size 0 ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def is_forbidden_trailer(name: bytes) -> bool:
    """True if a field of this name must never be accepted in a trailer section.

    `_` is equivalent to `-`, because CGI maps both to one variable.
    """
    lower = name.lower().replace(b"_", b"-")
    return lower in FORBIDDEN_TRAILERS or lower.startswith(_FORBIDDEN_PREFIXES)


class ChunkedDecoder:
    """Decodes one chunked body; owned by the connection that reads it.

    `done` is true after the end of the body. Then `rest` contains the bytes after it, and `trailers` the raw lines that
    may be forwarded. `pending` is input that the last `feed` did not process because it reached `max_pieces` chunks:
    call `feed(b"")` in a later turn of the loop.
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
        self._held = b""  # an incomplete line
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
        """Decode `data`. Returns the available payload. Raises ChunkedError."""
        if self._fault is not None:
            raise ChunkedError(self._fault)
        if self._state is State.DONE:
            self.rest += data
            return b""
        if self._state is State.DATA and not self.pending and len(data) <= self._remaining:
            self._remaining -= len(data)  # the whole input is payload: not copied
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
                # Fast path: a complete chunk without an extension.
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
            # The line is complete or contains a bare CR or LF. Its size is checked before its syntax, so that the
            # result does not depend on the segmentation.
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
# are functions, not bound methods, because a decoder that refers to its own methods is a reference cycle.
_HANDLERS: tuple[Callable[[ChunkedDecoder, bytes, int, list[bytes]], int], ...] = (
    ChunkedDecoder._size, ChunkedDecoder._data, ChunkedDecoder._crlf, ChunkedDecoder._trailer,
)  # fmt: skip
