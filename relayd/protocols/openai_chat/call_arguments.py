"""The arguments of one tool call, assembled from an endpoint's fragments into exactly one JSON object.

Most endpoints send pieces. Some send a placeholder first (`{}`), some repeat everything at the end, and some send the
whole text so far with every fragment, as a prefix or as a closed object, and not always in the same serialisation
(whitespace, escapes, order of members).

Laws:
1. A whole object after a closed object repeats it, extends it or is an error; other text there is dropped.
2. Text that was passed on is never contradicted. A placeholder and the closing brackets of an object are therefore
   buffered until the call ends, or until another call begins.
3. Each character is scanned a bounded number of times, however the text is split.
"""

from __future__ import annotations

import json
import re
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import Allowance, ResponseTooLarge, TextBuffer
from relayd.protocols._tool_arguments import ObjectEndFinder
from relayd.protocols.openai_chat.continuation import continuation
from relayd.wire.json_scanner import MAX_DEPTH

_EMPTY = re.compile(r"\s*\{\s*\}\s*\Z")
_EMPTIES = re.compile(r"(?:\s*\{\s*\})+\s*")
_NULL = re.compile(r"\s*null\s*(?=\{)")
_FIRST_KEY = re.compile(r'\s*\{\s*("[^"\\]*+(?:\\.[^"\\]*+)*")')
_STRING_END = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*"\s*+(.?)', re.DOTALL)
_MAX_SHRINKAGE = 8  # a serialisation that is more times shorter than another one is not expected
_MAX_OBJECT_STARTS = 16
_CLOSERS = ' \t\r\n"]}'
_LONGEST_EMPTY = 64
_DECODER = json.JSONDecoder()
_OTHER = "The upstream sent two different objects as the arguments of one tool call."


class CallArguments:
    """The arguments of one call; owned by the call. `allowance` is charged for buffered text."""

    __slots__ = (
        "_allowance", "_ambiguous", "_end", "_is_closed", "_is_empty", "_restated", "_restated_chars", "_sent",
        "_sent_chars", "_tail", "_whitespace_chars",
    )  # fmt: skip

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._sent, self._sent_chars = TextBuffer(), 0
        self._tail = ""  # the end of the text, not passed on yet
        self._end = ObjectEndFinder()
        self._is_closed = False  # the text is a whole object
        self._is_empty = False  # the text is an object without members
        self._restated: list[str] = []  # fragments after the closed object, or that may replace an open one
        self._restated_chars = 0
        self._whitespace_chars = -1  # around the closed object; -1 until it is computed
        self._ambiguous: list[str] = []  # fragments that may be pieces, or the whole text so far

    def __bool__(self) -> bool:
        return bool(self._sent_chars or self._tail or self._ambiguous)

    @property
    def is_complete(self) -> bool:
        """Whether the object is closed."""
        return self._is_closed

    def is_repeated_by(self, text: str) -> bool:
        """Whether a text repeats the arguments, or replaces a placeholder."""
        if self._is_empty:
            return text.lstrip()[:1] == "{"
        text = text.strip()
        if not text:
            return False
        if self._whitespace_chars < 0:
            whole = self._text()
            self._whitespace_chars = len(whole) - len(whole.strip())
        # The text is joined only if the lengths match, which is rare.
        if len(text) == self._sent_chars + len(self._tail) - self._whitespace_chars and text == self._text().strip():
            return True
        value = self._whole_object(text)
        return value is not None and value == _object_of(self._text())

    def add(self, fragment: str) -> str:
        """Add a fragment. Returns the text that can be passed on now. Raises ResponseTooLarge."""
        if not fragment:
            return ""
        if (
            self._sent_chars and not self._is_closed and not self._ambiguous and not self._restated
            and "}" not in fragment and "{" not in fragment and "]" not in fragment
        ):  # fmt: skip
            self._allowance.charge(len(fragment))  # most pieces: without a bracket that opens or closes an object
            self._end.add(fragment)
            return self._pass(fragment)
        if self._ambiguous:
            last = self._ambiguous[-1]
            if not fragment.startswith(last):
                pieces, self._ambiguous = self._ambiguous, []
                return "".join(map(self._piece, pieces)) + self.add(fragment)
            if not self._may_nest():
                self._ambiguous.clear()
                return self._snapshot(fragment)
            self._keep_ambiguous(fragment)
            return ""
        if not self._restated and self._repeats_sent(fragment):
            if self._is_closed or not self._may_nest():
                return self._snapshot(fragment)
            self._keep_ambiguous(fragment)
            return ""
        if not self._is_empty and (self._is_closed or self._restated or self._begins_restatement(fragment)):
            return self._add_restated(fragment)
        return self._piece(fragment)

    def release(self, placeholder: bool = True) -> str:
        """The buffered text, because another call begins; a placeholder only if `placeholder` is True."""
        if self._is_empty and not placeholder:
            return ""
        if not self._is_closed:
            return ""
        self._is_empty = False
        return self._pass(self._take_tail())

    def close(self) -> str:
        """The call is complete: the rest of the text. Raises ResponseTooLarge if the call has two different objects."""
        out = ""
        if self._ambiguous:
            end = ObjectEndFinder()
            end.add(self._ambiguous[-1])
            pieces, self._ambiguous = self._ambiguous, []
            if end.is_complete and not end.trailing.strip():
                out = self._snapshot(pieces[-1])
            else:
                out = "".join(map(self._piece, pieces))
        tail = self._take_tail()
        if self._end.is_empty:
            tail = "{}" if tail.strip() == "null" else ""
        self._tail = tail
        if self._restated:
            out += self._end_restated()
        return out + self._pass(self._take_tail())

    # ---- the text so far

    def _text(self) -> str:
        return self._sent.text() + self._tail

    def _pass(self, text: str) -> str:
        self._sent.add(text)
        self._sent_chars += len(text)
        return text

    def _take_tail(self) -> str:
        tail, self._tail = self._tail, ""
        return tail

    def _keep_ambiguous(self, fragment: str) -> None:
        self._allowance.charge(len(fragment))
        self._ambiguous.append(fragment)

    def _repeats_sent(self, fragment: str) -> bool:
        """Whether a fragment begins with the whole text that was passed on; a piece hardly ever does."""
        if not 0 < self._sent_chars <= len(fragment) or fragment.lstrip()[:1] != "{":
            return False
        return fragment.startswith(self._sent.text())

    def _may_nest(self) -> bool:
        """Whether an object may begin after the text and the ambiguous fragments; if not, a fragment that begins one is
        not a piece."""
        if len(self._ambiguous) > MAX_DEPTH:
            return False
        text = self._sent.text() + "".join(self._ambiguous)
        end = ObjectEndFinder()
        end.add(text)
        if end.is_in_string:  # the first quotation mark would end it, and one of these characters must follow
            return text.lstrip()[1:].lstrip()[1:2] in ("", ",", "}", ":", "]", " ")
        return text.rstrip()[-1:] in (":", "[", ",")

    # ---- fragments

    def _snapshot(self, fragment: str) -> str:
        """A fragment that repeats the whole text and may extend it."""
        self._end = ObjectEndFinder()
        self._end.add(fragment)
        self._tail = ""
        self._is_empty = False
        self._allowance.charge(len(fragment) - self._sent_chars)
        return self._closing(fragment[self._sent_chars :])

    def _piece(self, fragment: str) -> str:
        """A fragment that continues the text."""
        if self._is_closed:
            if self._is_empty and fragment.lstrip()[:1] == "{":
                return self._replace(fragment)
            return self._add_restated(fragment)
        self._allowance.charge(len(fragment))
        if not self._sent_chars:
            text = self._tail + fragment
            if len(text) <= _LONGEST_EMPTY and "null".startswith(text.strip()):
                self._tail = text
                return ""
            match = _NULL.match(text)
            fragment = text if match is None else text[match.end() :]
            self._tail = ""
        self._end.add(fragment)
        return self._closing(fragment)

    def _closing(self, fragment: str) -> str:
        """Pass on the last scanned piece, up to the closing brackets if the object is closed."""
        self._whitespace_chars = -1
        self._is_closed = self._end.is_complete
        if not self._is_closed:
            return self._pass(fragment)
        trailing = self._end.trailing
        text = fragment[: len(fragment) - len(trailing)]
        if len(text) + self._sent_chars <= _LONGEST_EMPTY and _EMPTY.match(self._sent.text() + text):
            self._is_empty, self._tail = True, text
            match = _EMPTIES.match(trailing)
            trailing = trailing[match.end() :] if match is not None else trailing
            return self._replace(trailing) if trailing.lstrip()[:1] == "{" else ""
        head = text.rstrip(_CLOSERS)
        self._tail = text[len(head) :]
        if trailing.strip():
            self._restated.append(trailing)
            self._restated_chars += len(trailing)
        return self._pass(head)

    def _replace(self, fragment: str) -> str:
        """Replace the placeholder by an object; the opening bracket may have been passed on already."""
        fragment = fragment.lstrip()
        self._is_empty, self._tail, self._end = False, "", ObjectEndFinder()
        self._end.add(fragment)
        return self._closing(fragment[1:] if self._sent_chars else fragment)

    # ---- the same object in another serialisation

    def _whole_object(self, fragment: str) -> dict[str, Any] | None:
        """The object in a fragment, if the fragment may be the whole text in another serialisation."""
        is_object = fragment.lstrip()[:1] == "{" and fragment.rstrip()[-1:] == "}"
        if not is_object or len(fragment) * _MAX_SHRINKAGE < self._sent_chars + self._restated_chars:
            return None
        return _object_of(fragment)

    def _begins_restatement(self, fragment: str) -> bool:
        """Whether a fragment after an open object may begin that object again."""
        if not 0 < self._sent_chars <= len(fragment) * _MAX_SHRINKAGE or fragment.lstrip()[:1] != "{":
            return False
        if not self._can_follow(fragment):
            return True
        end = ObjectEndFinder()
        end.add(fragment)
        if end.is_complete and end.trailing.strip():  # a member, and what follows it
            return False
        text = self._sent.text()
        known, found = _FIRST_KEY.match(text), _FIRST_KEY.match(fragment)
        if known is not None and found is not None and known[1] == found[1]:
            return True
        value = self._whole_object(fragment)
        return value is not None and continuation(text, value) is not None

    def _can_follow(self, fragment: str) -> bool:
        """Whether a fragment that looks like an object can continue the open text."""
        text = self._sent.text() + "".join(self._restated)
        end = ObjectEndFinder()
        end.add(text)
        if end.is_in_string:
            found = _STRING_END.match(fragment)
            return found is None or found[1] in ("", ",", "}", ":", "]")
        return not end.is_complete and text.rstrip()[-1:] in (":", "[", ",")

    def _add_restated(self, fragment: str) -> str:
        """A fragment after the closed object, or one that may replace the open object."""
        value = self._whole_object(fragment)
        if value and (self._is_closed or not self._can_follow(fragment)):
            rest = continuation(self._sent.text(), value)
            if rest is not None:
                self._restated.clear()
                self._restated_chars = 0
                return self._follow(value, rest)
        self._allowance.charge(len(fragment))
        self._restated.append(fragment)
        self._restated_chars += len(fragment)
        return ""

    def _follow(self, value: dict[str, Any], rest: str) -> str:
        """Extend the text to `value`: the text that was passed on and `rest`."""
        if self._is_closed and value == _object_of(self._text()):
            return ""
        self._allowance.charge(len(rest))
        self._whitespace_chars = -1
        self._is_closed = True
        head = rest.rstrip(_CLOSERS)
        self._tail = rest[len(head) :]
        return self._pass(head)

    def _end_restated(self) -> str:
        """The call is complete: the fragments close the open text, or the last whole object in them is used."""
        fragments, self._restated = self._restated, []
        if not self._is_closed and _object_of(self._text() + "".join(fragments)) is not None:
            return self._pass("".join(fragments))
        value = _last_object(fragments)
        rest = continuation(self._sent.text(), value) if value else None
        if value and rest is not None:
            return self._follow(value, rest)
        if value and self._is_closed:
            raise ResponseTooLarge(_OTHER)
        return "" if self._is_closed else self._pass("".join(fragments))


def _object_of(text: str) -> dict[str, Any] | None:
    try:
        value = _json.parse(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and not _json.is_deeper(value, MAX_DEPTH) else None


def _last_object(fragments: list[str]) -> dict[str, Any] | None:
    """The last whole object in the fragments, which is not a member of another one; other text after it is ignored."""
    starts = [number for number, one in enumerate(fragments) if one.lstrip()[:1] == "{"]
    for number in starts[: -_MAX_OBJECT_STARTS - 1 : -1]:
        text = "".join(fragments[number:])
        at, last = 0, None
        while (begin := text.find("{", at)) >= 0 and not text[at:begin].strip():
            try:
                value, at = _DECODER.raw_decode(text, begin)
            except (ValueError, RecursionError):
                break
            last = value
        is_member = text[at:].lstrip()[:1] in tuple("}],")
        if isinstance(last, dict) and not is_member and not _json.is_deeper(last, MAX_DEPTH):
            return last
    return None
