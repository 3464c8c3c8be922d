"""A peek into a JSON body: one top-level member found or replaced, every other byte left as it came.

Laws:
1. Nothing is parsed that is not asked for: strings and nested values are skipped by one expression, in linear time, and
   a body that is asked several questions in a row is looked through once.
2. A body that two readers could read in two ways has no answer: a repeated key, more behind the end, another encoding.
3. Nesting deeper than `MAX_DEPTH` is not followed.
"""

from __future__ import annotations

import json
import re

MAX_DEPTH = 64

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
    """The last body that was looked through; the module's own."""

    __slots__ = ("body", "members")

    def __init__(self) -> None:
        self.body = b""
        self.members: dict[str, tuple[int, int] | None] = {}


_LAST = _Memory()


def _span(body: bytes, key: str) -> tuple[int, int] | None:
    """Where the value of the top-level member `key` stands, if there is exactly one."""
    if body is _LAST.body:
        return _LAST.members.get(key)
    members = _members(body)
    if len(body) <= _REMEMBERED_BYTES:
        _LAST.body, _LAST.members = body, members
    return members.get(key)


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
    span = _span(body, key)
    return span is not None and body[span[0] : span[1]] == b"true"


def member_span(body: bytes, key: str) -> tuple[int, int] | None:
    """Where the value of the top-level member `key` stands, for whoever replaces it by other JSON."""
    return _span(body, key)
