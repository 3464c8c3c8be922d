"""Continues the text of a JSON object, of which the beginning has been passed on, so that the whole is a given value.

An endpoint may send an object again in another serialisation: other whitespace, escapes, members in
another order. The text that was passed on cannot be taken back; if all of it agrees with the value, the rest can be
written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.wire.json_steps import Steps

STEP_VALUES = 512
STEP_CHARS = 32 * 1024  # of a string
_ESCAPE_CHARS = 6  # the longest escape
_BLANK = lazy_regex(r"[ \t\r\n]*")
_inside = lazy_regex(r'[^"\\]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\]*+)*')
_SCALAR = lazy_regex(r"[^\s,:\[\]{}\"]+")
_HIGH_HALF = lazy_regex(r"[\ud800-\udbff]\Z")


class _Contradiction(Exception):
    """The text is no beginning of the value."""


def continuation(text: str, value: dict[str, Any]) -> Steps[str | None]:
    """What follows `text` so that both together are `value` as JSON; None if `text` contradicts it. In steps.

    The value must not be nested more deeply than the stack allows.
    """
    reader = _Reader(text)
    try:
        rest = yield from reader.value(value)
        if rest is None:
            reader.skip_blanks()
            return "" if reader.at_end else None
    except (_Contradiction, RecursionError):
        return None
    return rest


class _Reader:
    """Reads a text beside the value that it should be the beginning of.

    Methods return the missing end of the text, None if the text goes on behind the value, and raise
    _Contradiction.
    """

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._count = 0  # of the values since the last pause

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._text)

    def skip_blanks(self) -> None:
        found = _BLANK.match(self._text, self._at)
        self._at = self._at if found is None else found.end()

    def _next(self) -> str:
        """The next sign; "" at the end."""
        self.skip_blanks()
        return self._text[self._at : self._at + 1]

    def value(self, value: Any) -> Steps[str | None]:
        self._count += 1
        if self._count >= STEP_VALUES:
            self._count = 0
            yield
        sign = self._next()
        if not sign:
            return (yield from _json.write_text_steps(value))
        if isinstance(value, dict) and sign == "{":
            return (yield from self._object(value))
        if isinstance(value, list) and sign == "[":
            return (yield from self._list(value))
        if isinstance(value, str) and sign == '"':
            return (yield from self._string(value))
        return self._scalar(value)

    def _object(self, value: dict[str, Any]) -> Steps[str | None]:
        left = dict(value)
        self._at += 1
        first = True
        while True:
            sign = self._next()
            if not sign:
                return (yield from _members(left, "" if first else ",")) + "}"
            if sign == "}":
                self._at += 1
                if left:
                    raise _Contradiction
                return None
            if not first:
                self._expect(",")
                sign = self._next()
                if not sign and left:
                    return (yield from _members(left)) + "}"
            key, rest = yield from self._key(left)
            member = left.pop(key)
            if rest is None and self._next():
                self._expect(":")
                rest = yield from self.value(member)
            else:
                rest = f"{rest or ''}:{yield from _json.write_text_steps(member)}"
            if rest is not None:
                return f"{rest}{yield from _members(left, ',')}}}"
            first = False

    def _list(self, value: list[Any]) -> Steps[str | None]:
        self._at += 1
        for number, item in enumerate(value):
            sign = self._next()
            if not sign:
                return (yield from _items(value[number:], "," if number else "")) + "]"
            if number:
                self._expect(",")
                if not self._next():
                    return (yield from _items(value[number:])) + "]"
            rest = yield from self.value(item)
            if rest is not None:
                return rest + (yield from _items(value[number + 1 :], ",")) + "]"
        if not self._next():
            return "]"
        self._expect("]")
        return None

    def _expect(self, sign: str) -> None:
        if self._next() != sign:
            raise _Contradiction
        self._at += 1

    def _key(self, left: dict[str, Any]) -> Steps[tuple[str, str | None]]:
        """The member that comes next, and the missing end of its name."""
        if self._next() != '"':
            raise _Contradiction
        known, escape = yield from self._read_string()
        if escape is None:
            if known not in left:
                raise _Contradiction
            return known, None
        for key in left:
            if (rest := (yield from _rest_of(key, known, escape))) is not None:
                return key, rest
        raise _Contradiction

    def _string(self, value: str) -> Steps[str | None]:
        known, escape = yield from self._read_string()
        rest = None if escape is None else (yield from _rest_of(value, known, escape))
        if rest is None and (escape is not None or known != value):
            raise _Contradiction
        return rest

    def _read_string(self) -> Steps[tuple[str, str | None]]:
        """The characters of a string, and the incomplete escape at the end of the text; None for a closed string."""
        text, position = self._text, self._at + 1
        parts: list[str] = []
        while True:
            stop = min(position + STEP_CHARS, len(text))
            end = _inside.match(text, position, stop).end()  # type: ignore[union-attr]  # always matches
            part: str = json.loads(f'"{text[position:end]}"', strict=False)
            if stop == len(text) or end < stop - _ESCAPE_CHARS:
                break
            if _HIGH_HALF.search(part):  # its other half may follow in the next part
                part, end = part[:-1], end - (_ESCAPE_CHARS if text[end - 1] < "\x80" else 1)
            parts.append(part)
            position = end
            yield
        if text[end : end + 1] == '"':
            self._at = end + 1
            return "".join((*parts, part)), None
        self._at, escape = len(text), text[end:]
        if half := _HIGH_HALF.search(part):
            part, escape = part[: half.start()], text[position:end][-_ESCAPE_CHARS:] + escape
        return "".join((*parts, part)), escape

    def _scalar(self, value: Any) -> str | None:
        found = _SCALAR.match(self._text, self._at)
        if found is None or isinstance(value, str | dict | list):
            raise _Contradiction
        self._at = found.end()
        written = _json.write_text(value)
        if self.at_end and written.startswith(found[0]):
            return written[len(found[0]) :]
        try:
            same = _json.parse(found[0])
        except ValueError:
            raise _Contradiction from None
        if same != value or isinstance(same, bool) != isinstance(value, bool):
            raise _Contradiction
        return "" if self.at_end else None


def _members(members: dict[str, Any], before: str = "") -> Steps[str]:
    return before + (yield from _json.write_text_steps(members))[1:-1] if members else ""


def _items(items: list[Any], before: str = "") -> Steps[str]:
    return before + (yield from _json.write_text_steps(items))[1:-1] if items else ""


def _rest_of(value: str, known: str, escape: str) -> Steps[str | None]:
    """What follows the characters `known` and the incomplete `escape` in a string that is `value`, with its closing
    quotation mark; None if the string does not begin so."""
    if not value.startswith(known):
        return None
    if not escape:
        return (yield from _json.write_text_steps(value[len(known) :]))[1:]
    character, rest = value[len(known) : len(known) + 1], value[len(known) + 1 :]
    for whole in _escapes(character):
        if whole.lower().startswith(escape.lower()):
            return whole[len(escape) :] + (yield from _json.write_text_steps(rest))[1:]
    return None


def _escapes(character: str) -> Iterable[str]:
    """How a character may be written with a backslash."""
    if character:
        yield json.dumps(character, ensure_ascii=True)[1:-1]
        if character < "\x80":
            yield f"\\u{ord(character):04x}"
        if character == "/":
            yield "\\/"
