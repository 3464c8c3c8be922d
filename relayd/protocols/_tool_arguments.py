"""Arguments of tool calls: the end of a JSON object that arrives in pieces, and the free text of a custom tool.

Several calls may arrive interleaved, and some clients support only one open call at a time. Readers and renderers
therefore detect the end of a call's arguments incrementally.
"""

from __future__ import annotations

import re
from typing import Any

from relayd.protocols import _json
from relayd.wire.json_scanner import MAX_DEPTH

MOST_PENDING_CHARS = 64 * 1024
MOST_PENDING_PIECES = 1024
_OUTSIDE = re.compile(r'["{}\[\]]')
_WINDOW = 16 * 1024  # characters of a string that are matched at a time: a match of many escapes takes memory
_inside_string = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL).match


class ObjectEndFinder:
    """Finds the end of the JSON object at the beginning of a text; owned by the call whose arguments it scans.

    Each character is scanned once, however the text is split, and only when a property is read: until then pieces are
    buffered, up to a bound. A text that begins with anything but `{` is never complete.
    """

    __slots__ = (
        "_depth", "_escaped", "_in_string", "_is_complete", "_is_empty", "_is_not_object", "_pending", "_pending_chars",
        "trailing",
    )  # fmt: skip

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self._is_complete = False
        self._is_not_object = False  # the text does not begin with `{`
        self._is_empty = True
        self.trailing = ""  # the text after the closed object in the last scanned piece
        self._pending: list[str] = []
        self._pending_chars = 0

    def add(self, text: str) -> None:
        """Append a piece."""
        if self._is_complete or self._is_not_object:
            return
        self._pending.append(text)
        self._pending_chars += len(text)
        if self._pending_chars > MOST_PENDING_CHARS or len(self._pending) >= MOST_PENDING_PIECES:
            self._scan_pending()

    @property
    def is_complete(self) -> bool:
        """Whether the object is closed."""
        self._scan_pending()
        return self._is_complete

    @property
    def is_in_string(self) -> bool:
        """Whether the text ends inside a string."""
        self._scan_pending()
        return self._in_string

    @property
    def is_empty(self) -> bool:
        """Whether the text so far is empty or white space."""
        self._scan_pending()
        return self._is_empty

    def _scan_pending(self) -> None:
        if self._pending:
            text = "".join(self._pending)
            self._pending.clear()
            self._pending_chars = 0
            self._scan(text)

    def _scan(self, text: str) -> None:
        if self._is_empty:
            text = text.lstrip()
        if not text:  # a trailing backslash escapes the next character, not an empty piece
            return
        if self._is_empty:
            self._is_empty, self._is_not_object = False, text[0] != "{"
            if self._is_not_object:
                return
        position = 1 if self._escaped else 0
        self._escaped = False
        while not self._is_complete:
            while self._in_string:
                inside = _inside_string(text, position, position + _WINDOW)
                assert inside is not None
                position = inside.end()
                if text[position : position + 1] == '"':
                    self._in_string = False
                    position += 1
                elif len(text) - position <= 1:  # nothing, or a backslash
                    self._escaped = position < len(text)
                    return
            found = _OUTSIDE.search(text, position)
            if found is None:
                return
            position, character = found.end(), found[0]
            if character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                self._is_complete = self._depth == 0
                if self._is_complete:
                    self.trailing = text[position:]


def arguments_object(arguments: str) -> dict[str, Any]:
    """The arguments of a call in a history, as an object.

    A client cannot change its history, so invalid arguments must not make every later request fail: empty text and
    `null` mean no arguments, and other text (truncated arguments, for example) is passed to the model as a string.
    """
    if not arguments.strip():
        return {}
    try:
        value = _json.parse_bounded(arguments)
        if isinstance(value, str):  # encoded twice
            value = _json.parse_bounded(value)
    except ValueError:
        return {"unparsed_arguments": arguments}
    if value is None:
        return {}
    if not isinstance(value, dict) or _json.is_deeper(value, MAX_DEPTH - 2):
        return {"unparsed_arguments": arguments}
    return value


def object_text(arguments: str) -> str:
    """As `arguments_object`, as JSON text; the text of an object is unchanged."""
    try:
        if isinstance(_json.parse_bounded(arguments), dict):
            return arguments
    except ValueError:
        pass
    return _json.write_text(arguments_object(arguments))


def raw_input(arguments: str) -> str:
    """The free text for a custom tool: the string `input` of the object, or the whole text if it is no such object."""
    try:
        value = _json.parse_bounded(arguments)
    except ValueError:
        return arguments
    if isinstance(value, dict) and isinstance(value.get("input"), str):
        return str(value["input"])
    return value if isinstance(value, str) else arguments
