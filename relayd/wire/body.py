"""A peek into a JSON body: one top-level member found or replaced, every other byte left as it came.

Laws:
1. A body of usual size is parsed once, however many questions it is asked, and whoever goes on to translate it takes
   over what was parsed; tools that came before are known by their text. Of a larger body nothing is parsed that is not
   asked for: strings and nested values are skipped by one expression, in linear time. Both ways give the same answers,
   but for law 3.
2. A body that two readers could read in two ways has no answer: a repeated key, more behind the end, another encoding.
3. Nesting down to `MAX_DEPTH` is followed, deeper only as far as the parser does; never without a bound.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs
from json.scanner import make_scanner
from typing import Any, NoReturn

from relayd.wire.kept import LISTS

MAX_DEPTH = 64
PARSED_BYTES = 256 * 1024  # a larger body is skipped through: most of it is an image

_STRING = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*"'
_OPEN = re.compile(rb"[ \t\r\n]*+\{[ \t\r\n]*+")
_KEY = re.compile(rb"(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_SCALAR = re.compile(
    _STRING + rb"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+\-]?[0-9]++)?|true|false|null"
)
_NEXT = re.compile(rb"[ \t\r\n]*+(?:(,)[ \t\r\n]*+|(\})[ \t\r\n]*+)")
# What stands between two brackets; containers that hold none, or only such, are skipped whole. An alternative that
# fails gives back one step at a time, and every step can be taken in one way only: a byte is looked at a bounded number
# of times.
_FLAT = rb'[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*"'
_LEAF = rb"\{(?:" + _FLAT + rb")*\}|\[(?:" + _FLAT + rb")*\]"
_KNOT = rb"\{(?:" + _FLAT + b"|" + _LEAF + rb")*\}|\[(?:" + _FLAT + b"|" + _LEAF + rb")*\]"
_SKIP = re.compile(rb"(?:" + _FLAT + b"|" + _KNOT + b")*", re.DOTALL)
_KNOT_DEPTH = 2
_REMEMBERED_BYTES = 1024 * 1024
_CLOSING = {0x7B: 0x7D, 0x5B: 0x5D}


def _end_of_value(body: bytes, position: int) -> int:
    """The place behind the value that begins at `position`; -1 if there is none."""
    if body[position : position + 1] not in (b"{", b"["):
        match = _SCALAR.match(body, position)
        return -1 if match is None else match.end()
    skip = _SKIP.match
    expected = bytearray()
    while True:
        code = body[position] if position < len(body) else 0
        if code in _CLOSING:
            expected.append(_CLOSING[code])
            if len(expected) + _KNOT_DEPTH >= MAX_DEPTH:  # the object around it is one level too
                return -1
        elif not expected or code != expected.pop():
            return -1
        position += 1
        if not expected:
            return position
        match = skip(body, position)
        position = match.end() if match is not None else position


class _Memory:
    """The last body that was looked at; the module's own.

    `value` is what it was parsed to, None where it was not, or where somebody has taken it. `spans` are the places of
    its members' values, None for a key that stands twice; as signs of `text` where that is not empty, else as bytes.
    """

    __slots__ = ("body", "spans", "text", "value")

    def __init__(self) -> None:
        self.body = b""
        self.text = ""
        self.value: dict[str, Any] | None = None
        self.spans: dict[str, tuple[int, int] | None] = {}


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


_LAST = _Memory()
DECODER: Any = json.JSONDecoder(parse_constant=_no_constant)  # the stubs know nothing of a decoder's scanner
scan = make_scanner(DECODER)  # a value and where it ends; raises StopIteration where none begins
_TEXT_OPEN = re.compile(r"[ \t\r\n]*\{[ \t\r\n]*")
_TEXT_KEY = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\r\n]*:[ \t\r\n]*')
_TEXT_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_TEXT_NEXT = re.compile(r'[ \t\r\n]*(?:,[ \t\r\n]*(?=")|\}[ \t\r\n]*\Z)')


def _parse(last: _Memory, body: bytes) -> bool:
    """Parse a body member by member; False for what is no JSON object, or one that the parser finds too deep."""
    try:
        text = body.decode("utf-8")
        match = _TEXT_OPEN.match(text)
        value: dict[str, Any] = {}
        spans: dict[str, tuple[int, int] | None] = {}
        size = len(text)
        while match is not None and (position := match.end()) < size:
            match = _TEXT_KEY.match(text, position)
            if match is not None:
                key: str = match[1]
            elif text[position] == '"':
                key, position = scanstring(text, position + 1, True)
                match = _TEXT_COLON.match(text, position)
            if match is None:
                return False
            start = match.end()
            one: Any
            known = LISTS.find(text, start) if key == "tools" else None
            if known is not None:
                one, end = known
            else:
                one, end = scan(text, start)
                if key == "tools" and one.__class__ is list and not is_deeper(one, MAX_DEPTH - 1):
                    one = LISTS.keep(text, start, end, one)
            spans[key] = None if key in value else (start, end)
            value[key] = one
            match = _TEXT_NEXT.match(text, end)
    except (ValueError, RecursionError, StopIteration):
        return False
    if match is None or not value:
        return False
    last.value, last.spans, last.text = value, spans, "" if text.isascii() else text
    return True


def is_deeper(value: Any, levels: int) -> bool:
    """Whether a value nests more than `levels` objects and lists."""
    found = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not found:
            return False
        found = [
            child
            for one in found
            for child in (one.values() if one.__class__ is dict else one)
            if child.__class__ is not str and (child.__class__ is dict or child.__class__ is list)
        ]
    return bool(found)


def _look(body: bytes) -> _Memory:
    """What is known of a body; parsed where it is of usual size and can be."""
    last = _LAST
    if body is last.body:
        return last
    last.body, last.value, last.text = b"", None, ""
    if len(body) > PARSED_BYTES or not _parse(last, body):
        last.spans = _members(body)
    if len(body) <= _REMEMBERED_BYTES:
        last.body = body
    return last


def take_object(body: bytes) -> dict[str, Any] | None:
    """The object that a body was just parsed to, for the taker to keep; None where it has to be parsed, be it only to
    find out what is wrong with it."""
    last = _LAST
    if body is not last.body:
        return None
    value, last.body, last.value, last.text = last.value, b"", None, ""
    return value


def _span(body: bytes, key: str) -> tuple[int, int] | None:
    """Where the value of the top-level member `key` stands, if there is exactly one."""
    last = _look(body)
    span = last.spans.get(key)
    if span is None or not last.text:
        return span
    start, end = span
    begins = len(last.text[:start].encode())
    return begins, begins + len(last.text[start:end].encode())


def _members(body: bytes) -> dict[str, tuple[int, int] | None]:
    """Where the values of all top-level members stand, None for one that stands twice; none for what is no object."""
    begun = _OPEN.match(body)
    if begun is None:
        return {}
    position = begun.end()
    found: dict[str, tuple[int, int] | None] = {}
    while True:
        name = _KEY.match(body, position)
        if name is None:
            return {}
        start = name.end()
        end = _end_of_value(body, start)
        if end < 0:
            return {}
        text = _text(name[1])
        if text is not None:
            found[text] = None if text in found else (start, end)
        after = _NEXT.match(body, end)
        if after is None:
            return {}
        position = after.end()
        if after[2] is not None:
            return found if position == len(body) else {}


def _text(raw: bytes) -> str | None:
    if raw.isascii() and b"\\" not in raw:
        return raw[1:-1].decode("ascii")
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def string_member(body: bytes, key: str) -> str | None:
    """The top-level member `key` of a JSON object, if it stands there exactly once and is a string."""
    last = _look(body)
    if last.value is not None:
        value = last.value.get(key)
        return value if isinstance(value, str) and last.spans[key] is not None else None
    span = _span(body, key)
    if span is None or body[span[0]] != 0x22:
        return None
    return _text(body[span[0] : span[1]])


def model_of(body: bytes) -> str | None:
    """The `model` that an AI request names."""
    return string_member(body, "model")


def replace_member(body: bytes, key: str, value: str) -> bytes | None:
    """The body with another value for the top-level member `key`; None where it does not stand exactly once."""
    span = _span(body, key)
    if span is None:
        return None
    return body[: span[0]] + json.dumps(value).encode("ascii") + body[span[1] :]


def flag_member(body: bytes, key: str) -> bool:
    """Whether the top-level member `key` stands there exactly once and is `true`."""
    last = _look(body)
    if last.value is not None:
        return last.value.get(key) is True and last.spans[key] is not None
    span = _span(body, key)
    return span is not None and body[span[0] : span[1]] == b"true"


def member_span(body: bytes, key: str) -> tuple[int, int] | None:
    """Where the value of the top-level member `key` stands, for whoever replaces it by other JSON."""
    return _span(body, key)
