"""Parsing and serialisation of large JSON documents in steps, so that the event loop can do other work in between.

Rules:
1. A step processes at most CHUNK_BYTES of the document, or MOST_WEIGHT of a value, regardless of their structure.
2. The result equals that of Python's own parser and serialiser. A JsonScanner has validated the document before.
3. Text that is not all ASCII uses up to four bytes per character: the length of such strings is bounded.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs
from typing import Any, TypeVar

from relayd.wire.body import JsonBody, scan
from relayd.wire.tool_list_cache import LISTS, LONGEST

T = TypeVar("T")
Steps = Generator[None, None, T]  # a generator that yields between its steps

CHUNK_BYTES = 64 * 1024
MOST_WEIGHT = 512  # values that are serialised at once
LONG_CHARS = 64 * 1024  # a longer string is serialised in parts
MOST_WIDE_CHARS = 4 * 1024 * 1024  # of a string that is not all ASCII; base64 and most source code are all ASCII

_blanks = re.compile(r"[ \t\r\n]*+").match
_inside = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL).match
_high_half = re.compile(rb"\\u[dD][89abAB][0-9A-Fa-f]{2}\Z").search
_decode = codecs.utf_8_decode
_BEHIND = " \t\r\n,:]}"
_quote = json.encoder.encode_basestring
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


class TooWide(ValueError):
    """A string is longer than MOST_WIDE_CHARS and not all ASCII."""


# ---- parsing


def parse_steps(json_body: JsonBody) -> Steps[dict[str, Any]]:
    """Parse a scanned body; the last value of a repeated key is used. Raises ValueError."""
    assert json_body.scanner is not None
    members: dict[str, Any] = {}
    parser = _Parser(json_body.body)
    for key, (start, end) in json_body.scanner.spans.items():
        if end - start <= LONGEST and key == "tools":
            text = json_body.body[start:end].decode("utf-8")
            known = LISTS.find(text, 0)
            value = scan(text, 0)[0] if known is None else known[0]
            if known is None and value.__class__ is list:
                value = LISTS.store(text, 0, len(text), value)
            members[key] = value
        elif end - start <= CHUNK_BYTES:
            members[key] = scan(json_body.body[start:end].decode("utf-8"), 0)[0]
        else:
            members[key] = yield from parser.value(start)
        yield
    return members


def parse_text_steps(text: str) -> Steps[Any]:
    """Parse a JSON text in ASCII that relayd itself has written. Raises ValueError."""
    if len(text) <= CHUNK_BYTES:
        return json.loads(text)
    return (yield from _Parser(text.encode("ascii")).value(0))


class _Parser:
    """Parses one document chunk by chunk; used once."""

    __slots__ = ("_body", "_start", "position", "text")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._start = 0  # the position of the text in the body
        self.text = ""  # the current chunk
        self.position = 0  # the position in the text

    def _load(self, start: int) -> None:
        """Load the chunk that begins at this byte."""
        self._start, self.position = start, 0
        chunk = self._body[start : start + CHUNK_BYTES]
        self.text = chunk.decode("ascii") if chunk.isascii() else _decode(chunk, "strict", False)[0]

    def _byte(self, position: int) -> int:
        """The position in the body of this position in the text."""
        text = self.text
        return self._start + (position if text.isascii() else len(text[:position].encode("utf-8")))

    def value(self, start: int) -> Steps[Any]:
        """Parse the value that begins at this byte and is longer than a chunk; then the text begins after it."""
        code = self._body[start]
        if code == 0x22:
            return (yield from self._string(start))
        if code == 0x5B:
            return (yield from self._list(start))
        if code == 0x7B:
            return (yield from self._object(start))
        raise ValueError("a number is too long")

    def _next(self) -> Steps[str]:
        """The next character that is not whitespace."""
        while True:
            located = _blanks(self.text, self.position)
            assert located is not None
            self.position = located.end()
            if self.position < len(self.text):
                return self.text[self.position]
            yield
            start = self._byte(self.position)
            if start >= len(self._body):
                raise ValueError("it is truncated")
            self._load(start)

    def _item(self) -> Steps[Any]:
        """Parse the value that begins at the current position."""
        yield from self._next()
        while True:
            text, position = self.text, self.position
            try:
                value, end = scan(text, position)
            except (ValueError, StopIteration, RecursionError):
                end = len(text)
            if end < len(text) and text[end] in _BEHIND:  # a truncated number can look like a shorter number
                self.position = end
                return value
            yield
            if position == 0:
                return (yield from self.value(self._start))
            self._load(self._byte(position))

    def _list(self, start: int) -> Steps[list[Any]]:
        found: list[Any] = []
        self._load(start + 1)
        if (yield from self._next()) == "]":
            self.position += 1
            return found
        while True:
            found.append((yield from self._item()))
            mark = yield from self._next()
            self.position += 1
            if mark == "]":
                return found

    def _object(self, start: int) -> Steps[dict[str, Any]]:
        found: dict[str, Any] = {}
        self._load(start + 1)
        if (yield from self._next()) == "}":
            self.position += 1
            return found
        while True:
            key = yield from self._item()
            yield from self._next()
            self.position += 1  # after the colon
            found[key] = yield from self._item()
            mark = yield from self._next()
            self.position += 1
            if mark == "}":
                return found

    def _string(self, start: int) -> Steps[str]:
        """Parse a string of any length, in parts that split neither a character nor an escape."""
        parts: list[str] = []
        chars, is_ascii, position = 0, True, start + 1
        while True:
            chunk = self._body[position : position + CHUNK_BYTES]
            inside = _inside(chunk)
            assert inside is not None
            if not chunk:
                raise ValueError("it is truncated")
            end = inside.end()
            is_closed = end < len(chunk) and chunk[end] == 0x22
            if not is_closed:
                end = _whole(chunk, end)
            part = _decode(chunk[:end], "strict", False)
            text, taken = part if is_closed else (part[0], part[1])
            parts.append(scanstring(text + '"', 0, True)[0] if "\\" in text else text)
            chars += len(parts[-1])
            is_ascii = is_ascii and parts[-1].isascii()
            if chars > MOST_WIDE_CHARS and not is_ascii:
                raise TooWide(f"a string of more than {MOST_WIDE_CHARS} characters is not all ASCII")
            position += taken
            yield
            if is_closed:
                self._load(position + 1)
                return "".join(parts)


def _whole(chunk: bytes, end: int) -> int:
    """The end of a part of a string: before an incomplete escape, and before the first escape of a surrogate pair."""
    for _ in range(2):
        backslash = chunk.rfind(b"\\", max(0, end - 6), end)
        if backslash < 0 or not _escapes(chunk, backslash):
            return end
        is_cut = chunk[backslash + 1 : backslash + 2] == b"u" and backslash + 6 > end
        if not is_cut and _high_half(chunk, backslash, end) is None:
            return end
        end = backslash
    return end


def _escapes(chunk: bytes, located: int) -> bool:
    """True if this backslash begins an escape, that is, it is not escaped itself."""
    first = located
    while first > 0 and chunk[first - 1] == 0x5C:
        first -= 1
    return (located - first) % 2 == 0


# ---- writing


def write_steps(value: Any) -> Steps[bytes]:
    """Serialise as compact JSON in UTF-8; text that UTF-8 cannot represent is escaped."""
    pieces: list[bytes] = []
    yield from _write(value, pieces)
    return b"".join(pieces)


def _write(value: Any, pieces: list[bytes]) -> Steps[None]:
    if isinstance(value, str):
        if len(value) <= LONG_CHARS:
            pieces.append(_bytes_of(value))
            return
        pieces.append(b'"')
        for at in range(0, len(value), LONG_CHARS):
            pieces.append(_bytes_of(value[at : at + LONG_CHARS])[1:-1])
            yield
        pieces.append(b'"')
    elif isinstance(value, dict | list | tuple) and value:
        if weight(value, MOST_WEIGHT) <= MOST_WEIGHT:
            pieces.append(_bytes_of(value))
        else:
            yield from _write_container(value, pieces)
    else:
        pieces.append(_bytes_of(value))


def _write_container(value: Any, pieces: list[bytes]) -> Steps[None]:
    if isinstance(value, dict):
        mark = b"{"
        for key, inner in value.items():
            pieces.append(mark)
            yield from _write(str(key), pieces)
            pieces.append(b":")
            yield from _write(inner, pieces)
            yield
            mark = b","
        pieces.append(b"}")
    else:
        mark = b"["
        for inner in value:
            pieces.append(mark)
            yield from _write(inner, pieces)
            yield
            mark = b","
        pieces.append(b"]")


def weight(value: Any, most: int) -> int:
    """The number of values, with long strings and numbers weighted by their length; counting stops above `most`.
    Serialising a number takes quadratic time in its length."""
    found = 1
    for inner in value.values() if isinstance(value, dict) else value:
        if inner.__class__ is str:
            found += 1 + (len(inner) >> 7)
        elif isinstance(inner, dict | list | tuple):
            found += weight(inner, most - found)
        elif inner.__class__ is int:
            found += 1 + (inner.bit_length() >> 4)
        else:
            found += 1
        if found > most:
            return found
    return found


def _bytes_of(value: Any) -> bytes:
    try:
        return (_quote(value) if value.__class__ is str else _encode(value)).encode("utf-8")
    except UnicodeEncodeError:
        return _encode_ascii(value).encode("ascii")
