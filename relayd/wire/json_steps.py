"""Parsing and serialisation of large JSON documents in steps, so that the event loop can do other work in between.

Rules:
1. A step processes at most CHUNK_BYTES of the document, or MOST_WEIGHT of a value, regardless of their structure.
2. The result equals that of Python's own parser and serialiser.
3. Text that is not all ASCII uses up to four bytes per character: the length of such strings is bounded in requests.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Generator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs
from typing import Any, TypeVar

from relayd.lazy_regex import lazy_regex
from relayd.wire.body import DECODER, JsonBody, scan
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.tool_list_cache import LISTS, LONGEST

T = TypeVar("T")
Scan = Callable[[str, int], tuple[Any, int]]  # a value and its end; raises StopIteration if no value begins there
Steps = Generator[Any, None, T]  # yields between its steps: None, or a Waiting (wire/waiting), until which it pauses

TURN_S = 0.004  # how long steps go on in one turn of the event loop
CHUNK_BYTES = 64 * 1024
MOST_WEIGHT = 512  # values that are serialised at once
MOST_RUN = 2048  # values of a long container that are parsed at once
LONG_CHARS = 64 * 1024  # a longer string is serialised in parts
MOST_WIDE_CHARS = 4 * 1024 * 1024  # of a string that is not all ASCII; base64 and most source code are all ASCII

_blanks = lazy_regex(r"[ \t\r\n]*+")
_inside = lazy_regex(rb'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL)
_control = lazy_regex("[\x00-\x1f]")
_high_half = lazy_regex(rb"\\u[dD][89abAB][0-9A-Fa-f]{2}\Z")
_decode = codecs.utf_8_decode
_BLANK = " \t\r\n"
_ENDS = {"{": "}", "[": "]", '"': '"'}  # of items, by their first character
_BEHIND = _BLANK + ",:]}"
_quote = json.encoder.encode_basestring
_encode_finite = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False
).encode
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
    """As `parse_document_steps`, of a text, which may contain lone surrogates."""
    if len(text) <= CHUNK_BYTES:
        return DECODER.decode(text)
    document = text.encode("utf-8", "surrogatepass")
    yield
    return (yield from _Parser(document, scan, len(document), "surrogatepass").document())


def parse_document_steps(document: bytes, scan_value: Scan = scan) -> Steps[Any]:
    """The value of a document in UTF-8 of which nothing is known. Raises ValueError. With another scanner than `scan`,
    strings may contain control characters."""
    return (yield from _Parser(document, scan_value, len(document)).document())


def is_deeper_steps(value: Any, levels: int) -> Steps[bool]:
    """True if a value nests more than `levels` objects and lists."""
    found = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not found:
            return False
        below: list[Any] = []
        seen = 0
        for one in found:
            children = iter(one.values() if one.__class__ is dict else one)
            seen += 1
            while some := list(itertools.islice(children, MOST_RUN)):
                below += [child for child in some if child.__class__ is dict or child.__class__ is list]
                seen += len(some)
                if seen >= MOST_RUN:
                    seen = 0
                    yield
            if seen >= MOST_RUN:
                seen = 0
                yield
        found = below
    return bool(found)


class _Parser:
    """Parses one document chunk by chunk; used once."""

    __slots__ = ("_body", "_depth", "_errors", "_most_wide_chars", "_scan", "_start", "position", "text")

    def __init__(
        self, body: bytes, scan_value: Scan = scan, most_wide_chars: int = MOST_WIDE_CHARS, errors: str = "strict"
    ) -> None:
        """`errors` is how bytes that are not UTF-8 are decoded (codecs)."""
        self._body, self._scan, self._most_wide_chars, self._errors = body, scan_value, most_wide_chars, errors
        self._depth = 0  # of containers that are longer than a chunk
        self._start = 0  # the position of the text in the body
        self.text = ""  # the current chunk
        self.position = 0  # the position in the text

    def _load(self, start: int) -> None:
        """Load the chunk that begins at this byte."""
        self._start, self.position = start, 0
        chunk = self._body[start : start + CHUNK_BYTES]
        self.text = chunk.decode("ascii") if chunk.isascii() else _decode(chunk, self._errors, False)[0]
        if chunk and not self.text:
            raise ValueError("it is cut off")

    def _byte(self, position: int) -> int:
        """The position in the body of this position in the text."""
        text = self.text
        return self._start + (position if text.isascii() else len(text[:position].encode("utf-8", self._errors)))

    def document(self) -> Steps[Any]:
        """The one value that the whole document is."""
        self._load(0)
        yield from self._next()
        self._load(self._byte(self.position))
        if self._byte(len(self.text)) < len(self._body):
            found = yield from self._item()
        else:
            try:
                found, self.position = self._scan(self.text, 0)
            except (StopIteration, RecursionError):
                raise ValueError("no value begins here, or it is nested too deeply") from None
        while True:
            located = _blanks.match(self.text, self.position)
            assert located is not None
            if located.end() < len(self.text):
                raise ValueError("something stands behind it")
            start = self._byte(len(self.text))
            if start >= len(self._body):
                return found
            yield
            self._load(start)

    def value(self, start: int) -> Steps[Any]:
        """Parse the value that begins at this byte and is longer than a chunk; then the text begins after it."""
        code = self._body[start]
        if code == 0x22:
            return (yield from self._string(start))
        if code not in b"[{":
            raise ValueError("a number is too long, or no value begins here")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        found = yield from (self._list(start) if code == 0x5B else self._object(start))
        self._depth -= 1
        return found

    def _next(self) -> Steps[str]:
        """The next character that is not whitespace."""
        while True:
            located = _blanks.match(self.text, self.position)
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
                value, end = self._scan(text, position)
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
            if self._run_of_items(found):
                return found
            yield
            found.append((yield from self._item()))
            mark = yield from self._next()
            self.position += 1
            if mark == "]":
                return found
            if mark != ",":
                raise ValueError("a comma is missing")

    def _run_of_items(self, found: list[Any]) -> bool:
        """Append the items that are complete in this chunk, up to MOST_RUN. Returns True if the list ends with them.

        What is at fault, and an item that may be longer than the chunk, is left to `_list`."""
        text, scan_value = self.text, self._scan
        position = _blanks.match(text, self.position).end()  # type: ignore[union-attr]  # always matches
        try:
            behind = _ENDS.get(text[position], "") + ","
            cut = text.rfind(behind, position) + len(behind) - 1
            if cut > position:  # a guess, which fails if the comma is inside an item
                values, end = scan_value(f"[{text[position:cut]}]", 0)
                if end == cut - position + 2:
                    found += values
                    self.position = cut + 1
                    return False
        except (ValueError, StopIteration, RecursionError, IndexError):
            pass
        try:
            for _ in range(MOST_RUN):
                if text[position] in _BLANK:
                    position = _blanks.match(text, position).end()  # type: ignore[union-attr]  # always matches
                value, end = scan_value(text, position)
                mark = text[end]
                if mark in _BLANK:
                    end = _blanks.match(text, end).end()  # type: ignore[union-attr]  # always matches
                    mark = text[end]
                if mark not in ",]":
                    return False
                found.append(value)
                self.position = position = end + 1
                if mark == "]":
                    return True
        except (ValueError, StopIteration, RecursionError, IndexError):
            pass
        return False

    def _object(self, start: int) -> Steps[dict[str, Any]]:
        found: dict[str, Any] = {}
        self._load(start + 1)
        if (yield from self._next()) == "}":
            self.position += 1
            return found
        while True:
            if self._run_of_members(found):
                return found
            yield
            key = yield from self._item()
            if key.__class__ is not str or (yield from self._next()) != ":":
                raise ValueError("a key or its colon is missing")
            self.position += 1
            found[key] = yield from self._item()
            mark = yield from self._next()
            self.position += 1
            if mark == "}":
                return found
            if mark != ",":
                raise ValueError("a comma is missing")

    def _run_of_members(self, found: dict[str, Any]) -> bool:
        """As `_run_of_items`, of an object."""
        text, position, scan_value = self.text, self.position, self._scan
        try:
            for _ in range(MOST_RUN):
                key, end = scan_value(text, _blanks.match(text, position).end())  # type: ignore[union-attr]  # always matches
                end = _blanks.match(text, end).end()  # type: ignore[union-attr]  # always matches
                if key.__class__ is not str or text[end] != ":":
                    return False
                value, end = scan_value(text, _blanks.match(text, end + 1).end())  # type: ignore[union-attr]  # always matches
                end = _blanks.match(text, end).end()  # type: ignore[union-attr]  # always matches
                mark = text[end]
                if mark not in ",}":
                    return False
                found[key] = value
                self.position = position = end + 1
                if mark == "}":
                    return True
        except (ValueError, StopIteration, RecursionError, IndexError):
            pass
        return False

    def _string(self, start: int) -> Steps[str]:
        """Parse a string of any length, in parts that split neither a character nor an escape."""
        parts: list[str] = []
        chars, is_ascii, position = 0, True, start + 1
        while True:
            chunk = self._body[position : position + CHUNK_BYTES]
            inside = _inside.match(chunk)
            assert inside is not None
            if not chunk:
                raise ValueError("it is truncated")
            end = inside.end()
            is_closed = end < len(chunk) and chunk[end] == 0x22
            if not is_closed:
                end = _whole(chunk, end)
            text, taken = _decode(chunk[:end], self._errors, is_closed)
            if not taken and not is_closed:
                raise ValueError("it is cut off")
            if self._scan is scan and _control.search(text) is not None:
                raise ValueError("a string contains a control character")
            parts.append(scanstring(text + '"', 0, False)[0] if "\\" in text else text)
            chars += len(parts[-1])
            is_ascii = is_ascii and parts[-1].isascii()
            if chars > self._most_wide_chars and not is_ascii:
                raise TooWide(f"a string of more than {self._most_wide_chars} characters is not all ASCII")
            position += taken
            yield
            if is_closed:
                self._load(position + 1)
                whole = "".join(parts)
                yield
                return whole


def _whole(chunk: bytes, end: int) -> int:
    """The end of a part of a string: before an incomplete escape, and before the first escape of a surrogate pair."""
    for _ in range(2):
        backslash = chunk.rfind(b"\\", max(0, end - 6), end)
        if backslash < 0 or not _escapes(chunk, backslash):
            return end
        is_cut = chunk[backslash + 1 : backslash + 2] == b"u" and backslash + 6 > end
        if not is_cut and _high_half.search(chunk, backslash, end) is None:
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
    yield from write_into(pieces, value)
    if len(pieces) > 1:
        yield
    return b"".join(pieces)


def write_text_steps(value: Any) -> Steps[str]:
    """As `write_steps`, as text."""
    return str((yield from write_steps(value)), "utf-8")


def write_ascii_steps(value: Any) -> Steps[str]:
    """Compact JSON in ASCII."""
    pieces: list[bytes] = []
    yield from write_into(pieces, value, _ascii_bytes_of)
    yield
    texts = [str(piece, "ascii") for piece in pieces]
    pieces.clear()
    yield
    return "".join(texts)


def write_into(pieces: list[bytes], value: Any, encode: Callable[[Any], bytes] | None = None) -> Steps[None]:
    """As `write_steps`, piece by piece to the end of a list, from which they may be taken between the steps."""
    encode = encode or _bytes_of
    if isinstance(value, str):
        if len(value) <= LONG_CHARS:
            pieces.append(encode(value))
            return
        pieces.append(b'"')
        for at in range(0, len(value), LONG_CHARS):
            pieces.append(encode(value[at : at + LONG_CHARS])[1:-1])
            yield
        pieces.append(b'"')
    elif isinstance(value, dict | list | tuple) and value:
        if weight(value, MOST_WEIGHT) <= MOST_WEIGHT:
            pieces.append(encode(value))
        else:
            yield from _write_container(value, pieces, encode)
    else:
        pieces.append(encode(value))


def write_members_into(pieces: list[bytes], members: Mapping[str, Any]) -> Steps[None]:
    """As `write_into`, of an object without its closing bracket."""
    mark = b"{"
    for key, inner in members.items():
        pieces.append(b"%b%b:" % (mark, _bytes_of(key)))
        yield from write_into(pieces, inner)
        yield
        mark = b","


def _write_container(value: Any, pieces: list[bytes], encode: Callable[[Any], bytes]) -> Steps[None]:
    is_dict = isinstance(value, dict)
    mark, comma = (b"{", b",") if is_dict else (b"[", b",")
    group: list[Any] = []  # small values, which are written together
    found = 0
    for item in value.items() if is_dict else value:
        inner = item[1] if is_dict else item
        more = weight((inner,), MOST_WEIGHT)
        if group and found + more > MOST_WEIGHT:
            pieces += mark, encode(dict(group) if is_dict else group)[1:-1]
            yield
            mark, found = comma, 0
            group.clear()
        if more <= MOST_WEIGHT:
            group.append(item)
            found += more
            continue
        pieces.append(mark)
        mark = comma
        if is_dict:
            yield from write_into(pieces, str(item[0]), encode)
            pieces.append(b":")
        yield from write_into(pieces, inner, encode)
        yield
    if group:
        pieces += mark, encode(dict(group) if is_dict else group)[1:-1]
    pieces.append(b"}" if is_dict else b"]")


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
        return (_quote(value) if value.__class__ is str else encode_json(value)).encode("utf-8")
    except UnicodeEncodeError:
        return _encode_ascii(finite(value)).encode("ascii")


def _ascii_bytes_of(value: Any) -> bytes:
    return _encode_ascii(value).encode("ascii")


def encode_json(value: Any) -> str:
    """Compact JSON; a number that JSON cannot hold is written as `finite` has it."""
    try:
        return _encode_finite(value)
    except ValueError:
        return _encode_finite(finite(value))


def finite(value: Any) -> Any:
    """The value with each float as one that JSON can hold."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else math.copysign(sys.float_info.max, value)
