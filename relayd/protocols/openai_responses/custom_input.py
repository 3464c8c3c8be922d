"""Decodes the free text of a custom tool's call from its JSON arguments while they arrive in pieces.

Laws:
1. The cost is linear in the text, however it was cut.
2. The decoded text is the same for every cut: what raw_input makes of the whole text.
"""

from __future__ import annotations

import json
import re

from relayd.protocols._bounds import TextBuffer
from relayd.protocols._tool_arguments import raw_input

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9A-Fa-f]{4}")
_LONGEST_OPENING = 256


class CustomInputDecoder:
    """Decodes the string in `{"input": "..."}`; owned by the call whose arguments it reads."""

    __slots__ = ("_held", "_state", "_whole")

    def __init__(self) -> None:
        self._state = "opening"  # opening -> string -> behind, or opening -> whole
        self._held = ""  # of the opening, or of an escape that is not complete
        self._whole = TextBuffer()

    def decode(self, text: str) -> str:
        """The decoded text of this piece; a part may be held back until the next one."""
        if self._state == "behind":
            return ""
        if self._state == "whole":
            self._whole.add(text)
            return ""
        held, self._held = self._held + text, ""
        if self._state == "opening":
            match = _OPENING.match(held)
            if match is None:
                if len(held) > _LONGEST_OPENING or not _may_open(held):
                    self._state = "whole"
                    self._whole.add(held)
                else:
                    self._held = held
                return ""
            self._state = "string"
            held = held[match.end() :]
        return self._string(held)

    def end(self) -> str:
        """The text that was held back."""
        if self._state == "string":
            held, self._held = self._held, ""
            return "�" if held.startswith("\\u") and len(held) >= 6 else ""
        if self._state == "behind":
            return ""
        text = self._whole.text() + self._held
        self._whole, self._held, self._state = TextBuffer(), "", "behind"
        return raw_input(text)

    def _string(self, text: str) -> str:
        """Decode the inside of the string, up to its end or to an escape that is not complete."""
        found: list[str] = []
        position = 0
        while position < len(text):
            plain = _PLAIN.match(text, position)
            if plain is not None:
                found.append(plain.group())
                position = plain.end()
                continue
            if text[position] == '"':
                self._state = "behind"
                return "".join(found)
            length, character = _escape(text, position)
            if not length:
                self._held = text[position:]
                break
            found.append(character)
            position += length
        return "".join(found)


def _escape(text: str, position: int) -> tuple[int, str]:
    """Length and meaning of the escape at `position`; (0, "") while it is not complete."""
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


def _may_open(text: str) -> bool:
    """Whether a text could still become `{"input": "`."""
    stripped = "".join(text.split())
    return '{"input":"'.startswith(stripped)
