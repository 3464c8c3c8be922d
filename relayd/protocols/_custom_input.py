"""Decodes the free text of a custom tool call from its JSON arguments while they arrive in fragments.

Laws:
1. The cost is linear in the length of the text, regardless of the fragments.
2. The decoded text does not depend on the fragments. A text that does not begin like such an object is parsed when it
   is complete, if that takes no more than a step; any other text is the input itself.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._bounds import TextBuffer

_OPENING = lazy_regex(r'\s*\{\s*"input"\s*:\s*"')
_PLAIN = lazy_regex(r'[^"\\]*+(?:\\["\\/bfnrt][^"\\]*+)*')
_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = lazy_regex(r"[0-9A-Fa-f]{4}")
_MAX_OPENING_CHARS = 256


class CustomInputDecoder:
    """Decodes the string in `{"input": "..."}`; owned by one tool call."""

    __slots__ = ("_pending", "_raw_text", "_state")

    def __init__(self) -> None:
        self._state = "opening"  # opening -> string -> closed, or opening -> raw
        self._pending = ""  # an incomplete opening or escape sequence
        self._raw_text = TextBuffer()

    def decode(self, text: str) -> str:
        """Decode a fragment. The last characters may be withheld until the next fragment."""
        if self._state == "closed":
            return ""
        if self._state == "raw":
            self._raw_text.add(text)
            return ""
        pending, self._pending = self._pending + text, ""
        if self._state == "opening":
            match = _OPENING.match(pending)
            if match is None:
                if len(pending) > _MAX_OPENING_CHARS or not _is_opening_prefix(pending):
                    self._state = "raw"
                    self._raw_text.add(pending)
                else:
                    self._pending = pending
                return ""
            self._state = "string"
            pending = pending[match.end() :]
        return self._decode_string(pending)

    def end(self) -> str:
        """Return the withheld text; the arguments are complete."""
        if self._state == "string":
            pending, self._pending = self._pending, ""
            return "�" if pending.startswith("\\u") and len(pending) >= 6 else ""
        if self._state == "closed":
            return ""
        text = self._raw_text.text() + self._pending
        self._raw_text, self._pending, self._state = TextBuffer(), "", "closed"
        return _raw_input(text)

    def _decode_string(self, text: str) -> str:
        """Decode the content of the string, up to its closing quote or to an incomplete escape sequence."""
        decoded: list[str] = []
        position = 0
        while position < len(text):
            plain = _PLAIN.match(text, position)
            if plain is not None and plain.end() > position:
                decoded.append(scanstring(plain[0] + '"', 0, False)[0] if "\\" in plain[0] else plain[0])
                position = plain.end()
                continue
            if text[position] == '"':
                self._state = "closed"
                return "".join(decoded)
            length, character = _escape(text, position)
            if not length:
                self._pending = text[position:]
                break
            decoded.append(character)
            position += length
        return "".join(decoded)


def _raw_input(arguments: str) -> str:
    """The string `input` of the object, or the whole text if it is no such object."""
    try:
        value = _json.parse_in_one_step(arguments)
    except ValueError:
        return arguments
    if isinstance(value, dict) and isinstance(value.get("input"), str):
        return str(value["input"])
    return value if isinstance(value, str) else arguments


def _escape(text: str, position: int) -> tuple[int, str]:
    """Return the length and the character of the escape sequence at `position`; (0, "") while it is incomplete."""
    kind = text[position + 1 : position + 2]
    if not kind:
        return 0, ""
    if kind != "u":
        return 2, _ESCAPED.get(kind, "\\" + kind)
    digits = text[position + 2 : position + 6]
    if len(digits) < 4 and (not digits or re.fullmatch(r"[0-9A-Fa-f]+", digits)):
        return 0, ""
    if _HEX.fullmatch(digits) is None:
        return 2, "\\u"
    unit = int(digits, 16)
    if 0xD800 <= unit < 0xDC00:
        rest = text[position + 6 : position + 12]
        if len(rest) < 6 and "\\u".startswith(rest[:2]) and re.fullmatch(r"[0-9A-Fa-f]*", rest[2:]):
            return 0, ""
        if rest.startswith("\\u") and _HEX.fullmatch(rest[2:6]) and 0xDC00 <= int(rest[2:6], 16) < 0xE000:
            return 12, json.loads(f'"{text[position : position + 12]}"')
        return 6, "�"
    return 6, "�" if 0xDC00 <= unit < 0xE000 else chr(unit)


def _is_opening_prefix(text: str) -> bool:
    """True if the text is a prefix of `{"input": "`, white space aside."""
    stripped = "".join(text.split())
    return '{"input":"'.startswith(stripped)
