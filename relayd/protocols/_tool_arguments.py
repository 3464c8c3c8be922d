"""Arguments of tool calls: the end of a JSON object that arrives in pieces, and the free text of a custom tool.

Several calls may arrive interleaved, and some clients support only one open call at a time. Readers and renderers
therefore detect the end of a call's arguments incrementally.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols.canon import Message, Text, ToolCall, ToolResult
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import CHUNK_BYTES, Steps

MOST_PENDING_CHARS = 16 * 1024
MOST_PENDING_PIECES = 1024
_WINDOW = 16 * 1024  # characters that are matched at a time: a match of many escapes takes memory
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'
_strings = lazy_regex(_STRING, re.DOTALL)
_whole_strings = lazy_regex(r'(?:[^"]++|' + _STRING + ")*", re.DOTALL)
_brackets = lazy_regex(r"[{}\[\]]")
_each_bracket = lazy_regex(r'(?:[^"{}\[\]]++|' + _STRING + r")*[{}\[\]]", re.DOTALL)
_DELTA = {"{": 1, "[": 1, "}": -1, "]": -1}
_inside_string = lazy_regex(r'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL)


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

    def add_steps(self, text: str) -> Steps[None]:
        """As `add`, in steps."""
        if len(text) <= MOST_PENDING_CHARS or self._is_complete:
            self.add(text)
            return
        for start in range(0, len(text), MOST_PENDING_CHARS):
            if self._is_not_object:
                return
            end = start + MOST_PENDING_CHARS
            self.add(text[start:end])
            if self.is_complete:
                self.trailing += text[end:]
                return
            yield

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
    def depth(self) -> int:
        """The number of objects and lists that are open at the end of the text."""
        self._scan_pending()
        return self._depth

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
        position, size = 1 if self._escaped else 0, len(text)
        self._escaped = False
        while not self._is_complete:
            while self._in_string:
                inside = _inside_string.match(text, position, position + _WINDOW)
                assert inside is not None
                position = inside.end()
                if text[position : position + 1] == '"':
                    self._in_string = False
                    position += 1
                elif size - position <= 1:  # nothing, or a backslash
                    self._escaped = position < size
                    return
            end = min(size, position + _WINDOW)
            whole = _whole_strings.match(text, position, end).end()  # type: ignore[union-attr]  # always matches
            if self._count_brackets(text, position, whole) or whole >= size:
                return
            position = whole
            if position < end:  # a string that is not closed before the end
                self._in_string = True
                position += 1

    def _count_brackets(self, text: str, position: int, end: int) -> bool:
        """Count the brackets outside strings. Returns True if one of them closes the object."""
        brackets = _brackets.findall(_strings.sub("", text[position:end]))
        depths = list(itertools.accumulate(map(_DELTA.__getitem__, brackets), initial=self._depth))
        try:
            closing = depths.index(0, 1)
        except ValueError:
            self._depth = depths[-1]
            return False
        self._depth, self._is_complete = 0, True
        last = next(itertools.islice(_each_bracket.finditer(text, position, end), closing - 1, None))
        self.trailing = text[last.end() :]
        return True


def require_few_values(messages: Iterable[Message], *, with_results: bool = False) -> Steps[None]:
    """Raise Refused if the arguments of all calls together, and the results that are objects, may hold more than
    MOST_VALUES values: as objects they would take many times their size in memory. In steps."""
    count = chars = 0
    for message in messages:
        for text in _texts_to_parse(message, with_results):
            count += sum(map(text.count, ",[{"))  # also inside strings
            chars += len(text)
            if count > _json.MOST_VALUES:
                message_text = f"The tool calls hold more than {_json.MOST_VALUES} values; that cannot be translated."
                raise Refused(message_text, "messages", "too_many_values")
            if chars > CHUNK_BYTES:
                chars = 0
                yield


def _texts_to_parse(message: Message, with_results: bool) -> Iterator[str]:
    for part in message.parts:
        if isinstance(part, ToolCall) and part.kind != "custom":
            yield part.arguments
        elif with_results and isinstance(part, ToolResult):
            texts = [one.text for one in part.parts if isinstance(one, Text)]
            if texts and texts[0].lstrip()[:1] == "{":
                yield from texts


def arguments_object(arguments: str) -> dict[str, Any]:
    """As `arguments_steps`, at once."""
    return run_steps(arguments_steps(arguments))


def arguments_steps(arguments: str) -> Steps[dict[str, Any]]:
    """The arguments of a call in a history, as an object, in steps.

    A client cannot change its history, so invalid arguments must not make every later request fail: empty text and
    `null` mean no arguments, and other text (truncated arguments, for example) is passed to the model as a string.
    """
    if not arguments.strip():
        return {}
    try:
        value = yield from _json.parse_bounded_steps(arguments)
        if isinstance(value, str):  # encoded twice
            value = yield from _json.parse_bounded_steps(value)
    except ValueError:
        return {"unparsed_arguments": arguments}
    if value is None:
        return {}
    if not isinstance(value, dict) or (yield from _json.is_deeper_steps(value, MAX_DEPTH - 2)):
        return {"unparsed_arguments": arguments}
    return value


def object_text(arguments: str) -> str:
    """As `object_text_steps`, at once."""
    return run_steps(object_text_steps(arguments))


def object_text_steps(arguments: str) -> Steps[str]:
    """As `arguments_steps`, as JSON text; the text of an object is unchanged."""
    try:
        if isinstance((yield from _json.parse_bounded_steps(arguments)), dict):
            return arguments
    except ValueError:
        pass
    return (yield from _json.write_text_steps((yield from arguments_steps(arguments))))


def written_steps(arguments: Any) -> Steps[str]:
    """Arguments as an endpoint sends them, an object or its JSON text, as JSON text; in steps."""
    if isinstance(arguments, str):
        return (yield from object_text_steps(arguments))
    return (yield from _json.write_text_steps(arguments or {}))
