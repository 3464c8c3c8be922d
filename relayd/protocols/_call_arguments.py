"""The arguments of one tool call, assembled from an endpoint's fragments into exactly one JSON object.

Most endpoints send pieces. Some send a placeholder first (`{}`, `null`, `""`, `[]`), some repeat everything at the end,
and some send the whole text so far with every fragment, as a prefix or as a closed object, and not always in the same
serialisation (whitespace, escapes, order of members).

Laws:
1. A whole object after a closed object repeats it, extends it or is an error; other text there is dropped.
2. Text that was passed on is never contradicted. A placeholder and the closing brackets of an object are therefore
   buffered until the call ends, or until another call begins.
3. An open object that begins again is recognised where its first bracket, or in a string its first key, cannot continue
   the text; until then the bracket is buffered. Where an object may follow (after a colon or in a list), the repetition
   is recognised at the end, and the call fails.
4. Each character is scanned a bounded number of times, however the text is split.
"""

from __future__ import annotations

import json
import re
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._bounds import Allowance, ResponseTooLarge, TextBuffer
from relayd.protocols._continuation import continuation
from relayd.protocols._tool_arguments import ObjectEndFinder
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import CHUNK_BYTES, Steps

_EMPTY = lazy_regex(r"\s*\{\s*\}\s*\Z")
_EMPTIES = lazy_regex(r"(?:\s*\{\s*\})+\s*")
_PLACEHOLDERS = lazy_regex(r'(?:\s*(?:null|""|\[\s*\]))+\s*')
_OPEN_PLACEHOLDER = lazy_regex(r'(?:\s*(?:null|""|\[\s*\]))*\s*(?:nu?l?|"|\[\s*)?\Z')
_FIRST_KEY = lazy_regex(r'\s*\{\s*("[^"\\]*+(?:\\.[^"\\]*+)*")')
_INSIDE = lazy_regex(r'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL)
_SIGN = lazy_regex(r"\S")
_OPENED = lazy_regex(r"\s*\{\s*\Z")
_OPENED_KEY = lazy_regex(r'\s*\{\s*"\s*(.?)', re.DOTALL)
_AFTER_STRING = ",:]}"
_MOST_DEPTHS = 64
_MAX_SHRINKAGE = 8  # a serialisation that is more times shorter than another one is not expected
_MAX_OBJECT_STARTS = 16
_CLOSERS = ' \t\r\n"]}'
_LONGEST_EMPTY = 64
_SHORT_OBJECT_CHARS = 512
_DECODER = json.JSONDecoder()
_OTHER = "The upstream sent two different objects as the arguments of one tool call."
_AGAIN = "The upstream began the arguments of a tool call again inside themselves."


class CallArguments:
    """The arguments of one call; owned by the call. `allowance` is charged for buffered text."""

    __slots__ = (
        "_allowance", "_ambiguous", "_end", "_is_closed", "_is_empty", "_restated", "_restated_chars", "_sent",
        "_sent_chars", "_starts", "_tail", "_undecided", "_whitespace_chars",
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
        self._undecided = ""  # an opening bracket in a string, which may begin the object again
        self._starts: dict[int, int] = {}  # by depth, where the latest piece began with an opening bracket

    def __bool__(self) -> bool:
        return bool(self._sent_chars or self._tail or self._ambiguous or self._undecided)

    @property
    def is_complete(self) -> bool:
        """Whether the object is closed."""
        return self._is_closed

    @property
    def is_cut(self) -> bool:
        """Whether the text is the beginning of an object; read it after `close`."""
        return not self._is_closed and self._end.depth > 0

    def is_repeated_by(self, text: str) -> Steps[bool]:
        """Whether a text repeats the arguments, or replaces a placeholder; in steps."""
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
        value = yield from self._whole_object(text)
        return value is not None and value == (yield from _object_of(self._text()))

    def add(self, fragment: str) -> Steps[str]:
        """Add a fragment, in steps. Returns the text that can be passed on now. Raises ResponseTooLarge."""
        if not fragment:
            return ""
        if self._undecided:
            fragment, self._undecided = self._undecided + fragment, ""
        if (
            self._sent_chars and not self._is_closed and not self._ambiguous and not self._restated
            and "}" not in fragment and "{" not in fragment and "]" not in fragment
        ):  # fmt: skip
            self._allowance.charge(len(fragment))  # most pieces: without a bracket that opens or closes an object
            yield from self._end.add_steps(fragment)
            return self._pass(fragment)
        if self._ambiguous:
            last = self._ambiguous[-1]
            if not fragment.startswith(last):
                out = yield from self._pieces()
                return out + (yield from self.add(fragment))
            if not (yield from self._may_nest()):
                self._ambiguous.clear()
                return (yield from self._snapshot(fragment))
            self._keep_ambiguous(fragment)
            return ""
        if not self._restated and self._repeats_sent(fragment):
            if self._is_closed or not (yield from self._may_nest()):
                return (yield from self._snapshot(fragment))
            self._keep_ambiguous(fragment)
            return ""
        if not self._is_empty and (
            self._is_closed or self._restated or (yield from self._begins_restatement(fragment))
        ):
            return (yield from self._add_restated(fragment))
        if self._may_begin_in_string(fragment):
            self._undecided = fragment
            return ""
        return (yield from self._piece(fragment))

    def release(self, placeholder: bool = True) -> str:
        """The buffered text, because another call begins; a placeholder only if `placeholder` is True."""
        if self._is_empty and not placeholder:
            return ""
        if not self._is_closed:
            return ""
        self._is_empty = False
        return self._pass(self._take_tail())

    def close(self, is_cut: bool = False) -> Steps[str]:
        """The call is complete: the rest of the text, in steps. `is_cut`: the response met its limit, so that the text
        may end anywhere. Raises ResponseTooLarge if the call has two different objects, or one inside itself."""
        out = ""
        if self._undecided:
            undecided, self._undecided = self._undecided, ""
            out = yield from self._piece(undecided)
        if self._ambiguous:
            end = yield from _scanned(self._ambiguous[-1])
            if end.is_complete and not end.trailing.strip():
                whole = self._ambiguous[-1]
                self._ambiguous = []
                out += yield from self._snapshot(whole)
            else:
                out += yield from self._pieces()
        tail = self._take_tail()
        if self._end.is_empty:
            tail = "{}" if _PLACEHOLDERS.fullmatch(tail) else ""
        self._tail = tail
        if self._restated:
            out += yield from self._end_restated()
        if not is_cut and (yield from self._began_again()):
            raise ResponseTooLarge(_AGAIN)
        return out + self._pass(self._take_tail())

    def _began_again(self) -> Steps[bool]:
        """Whether the open text ends with a whole object of which its beginning is a beginning too."""
        start = 0 if self._is_closed or not self._starts else self._starts.get(self._end.depth, 0)
        if not start:
            return False
        text = self._text()
        value = yield from _object_of(text[start:])
        return value is not None and (yield from continuation(text[:start], value)) is not None

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

    def _may_nest(self) -> Steps[bool]:
        """Whether an object may begin after the text and the ambiguous fragments; if not, a fragment that begins one is
        not a piece."""
        if len(self._ambiguous) > MAX_DEPTH:
            return False
        text = self._sent.text() + "".join(self._ambiguous)
        end = yield from _scanned(text)
        if end.is_in_string:  # the first quotation mark would end it, and one of these characters must follow
            return text.lstrip()[1:].lstrip()[1:2] in ("", ",", "}", ":", "]", " ")
        return text.rstrip()[-1:] in (":", "[", ",")

    # ---- fragments

    def _snapshot(self, fragment: str) -> Steps[str]:
        """A fragment that repeats the whole text and may extend it."""
        self._end = yield from _scanned(fragment)
        self._tail = ""
        self._is_empty = False
        self._allowance.charge(len(fragment) - self._sent_chars)
        return (yield from self._closing(fragment[self._sent_chars :]))

    def _pieces(self) -> Steps[str]:
        """The ambiguous fragments are pieces."""
        pieces, self._ambiguous = self._ambiguous, []
        out = ""
        for piece in pieces:
            out += yield from self._piece(piece)
        return out

    def _piece(self, fragment: str) -> Steps[str]:
        """A fragment that continues the text."""
        if self._is_closed:
            if self._is_empty and fragment.lstrip()[:1] == "{":
                return (yield from self._replace(fragment))
            return (yield from self._add_restated(fragment))
        self._allowance.charge(len(fragment))
        if not self._sent_chars:
            text = self._tail + fragment
            if len(text) <= _LONGEST_EMPTY and _OPEN_PLACEHOLDER.match(text):
                self._tail = text
                return ""
            match = _PLACEHOLDERS.match(text, 0, _LONGEST_EMPTY)
            fragment = text if match is None or text[match.end() : match.end() + 1] != "{" else text[match.end() :]
            self._tail = ""
        if self._sent_chars and fragment.lstrip()[:1] == "{" and (depth := self._end.depth) <= _MOST_DEPTHS:
            self._starts[depth] = self._sent_chars
        yield from self._end.add_steps(fragment)
        return (yield from self._closing(fragment))

    def _closing(self, fragment: str) -> Steps[str]:
        """Pass on the last scanned piece, up to the closing brackets if the object is closed."""
        self._whitespace_chars = -1
        self._is_closed = self._end.is_complete
        if not self._is_closed:
            return self._pass(fragment)
        trailing = self._end.trailing
        text = fragment[: len(fragment) - len(trailing)]
        if len(text) + self._sent_chars <= _LONGEST_EMPTY and _EMPTY.match(self._sent.text() + text):
            self._is_empty, self._tail = True, text
            position = 0
            while (match := _EMPTIES.match(trailing, position, position + CHUNK_BYTES)) is not None:
                position = match.end()
                yield
            trailing = trailing[position:]
            return (yield from self._replace(trailing)) if trailing.lstrip()[:1] == "{" else ""
        head = text.rstrip(_CLOSERS)
        self._tail = text[len(head) :]
        if trailing.strip():
            self._restated.append(trailing)
            self._restated_chars += len(trailing)
        return self._pass(head)

    def _replace(self, fragment: str) -> Steps[str]:
        """Replace the placeholder by an object; the opening bracket may have been passed on already."""
        fragment = fragment.lstrip()
        self._is_empty, self._tail = False, ""
        self._end = yield from _scanned(fragment)
        return (yield from self._closing(fragment[1:] if self._sent_chars else fragment))

    # ---- the same object in another serialisation

    def _whole_object(self, fragment: str) -> Steps[dict[str, Any] | None]:
        """The object in a fragment, if the fragment may be the whole text in another serialisation."""
        is_object = fragment.lstrip()[:1] == "{" and fragment.rstrip()[-1:] == "}"
        if not is_object or len(fragment) * _MAX_SHRINKAGE < self._sent_chars + self._restated_chars:
            return None
        return (yield from _object_of(fragment))

    def _begins_restatement(self, fragment: str) -> Steps[bool]:
        """Whether a fragment after an open object may begin that object again."""
        if not self._sent_chars or fragment.lstrip()[:1] != "{":
            return False
        if self._end.is_in_string:
            key = _OPENED_KEY.match(fragment)
            if key is not None and key[1] and key[1] not in _AFTER_STRING:
                return True
        elif self._sent.last_character() not in (":", "[", ","):
            return True
        if self._sent_chars > len(fragment) * _MAX_SHRINKAGE:
            return False
        if not (yield from self._can_follow(fragment)):
            return True
        end = yield from _scanned(fragment)
        if end.is_complete and end.trailing.strip():  # a member, and what follows it
            return False
        if self._has_first_key_of(fragment):
            return True
        value = yield from self._whole_object(fragment)
        return value is not None and (yield from continuation(self._sent.text(), value)) is not None

    def _has_first_key_of(self, fragment: str) -> bool:
        """Whether the text that was passed on and a fragment begin with the same key."""
        known = _FIRST_KEY.match(self._sent.text(), 0, CHUNK_BYTES)
        found = _FIRST_KEY.match(fragment, 0, CHUNK_BYTES)
        return known is not None and found is not None and known[1] == found[1]

    def _may_begin_in_string(self, fragment: str) -> bool:
        """Whether a fragment in an open string is too short to tell whether it begins the object again."""
        if not self._sent_chars or len(fragment) > _LONGEST_EMPTY or fragment.lstrip()[:1] != "{":
            return False
        key = _OPENED_KEY.match(fragment)
        is_short = _OPENED.match(fragment) is not None if key is None else not key[1]
        return is_short and self._end.is_in_string

    def _can_follow(self, fragment: str) -> Steps[bool]:
        """Whether a fragment that looks like an object can continue the open text."""
        text = self._sent.text() + "".join(self._restated)
        end = yield from _scanned(text)
        if end.is_in_string:
            return (yield from _sign_after_string(fragment)) in ("", ",", "}", ":", "]")
        return not end.is_complete and text.rstrip()[-1:] in (":", "[", ",")

    def _add_restated(self, fragment: str) -> Steps[str]:
        """A fragment after the closed object, or one that may replace the open object."""
        value = yield from self._whole_object(fragment)
        if value and (self._is_closed or not (yield from self._can_follow(fragment))):
            rest = yield from continuation(self._sent.text(), value)
            if rest is not None:
                self._restated.clear()
                self._restated_chars = 0
                return (yield from self._follow(value, rest))
        self._allowance.charge(len(fragment))
        self._restated.append(fragment)
        self._restated_chars += len(fragment)
        return ""

    def _follow(self, value: dict[str, Any], rest: str) -> Steps[str]:
        """Extend the text to `value`: the text that was passed on and `rest`."""
        if self._is_closed and value == (yield from _object_of(self._text())):
            return ""
        self._allowance.charge(len(rest))
        self._whitespace_chars = -1
        self._is_closed = True
        head = rest.rstrip(_CLOSERS)
        self._tail = rest[len(head) :]
        return self._pass(head)

    def _end_restated(self) -> Steps[str]:
        """The call is complete: the fragments close the open text, or the last whole object in them is used."""
        fragments, self._restated = self._restated, []
        if not self._is_closed and (yield from _object_of(self._text() + "".join(fragments))) is not None:
            return self._pass("".join(fragments))
        value = yield from _last_object(fragments)
        rest = (yield from continuation(self._sent.text(), value)) if value else None
        if value and rest is not None:
            return (yield from self._follow(value, rest))
        if value and (self._is_closed or self._has_first_key_of("".join(fragments))):
            raise ResponseTooLarge(_OTHER)
        return "" if self._is_closed else self._pass("".join(fragments))


def _scanned(text: str) -> Steps[ObjectEndFinder]:
    """A finder that has scanned this text."""
    end = ObjectEndFinder()
    yield from end.add_steps(text)
    return end


def _sign_after_string(text: str) -> Steps[str]:
    """The first sign after the string that ends in this text; "" if there is none."""
    position = 0
    while (at := _INSIDE.match(text, position, position + CHUNK_BYTES).end()) > position:  # type: ignore[union-attr]
        position = at
        yield
    if text[position : position + 1] != '"':
        return ""
    sign = _SIGN.search(text, position + 1)
    return "" if sign is None else sign[0]


def _object_of(text: str) -> Steps[dict[str, Any] | None]:
    try:
        value = yield from _json.parse_text_steps(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or (yield from _json.is_deeper_steps(value, MAX_DEPTH)):
        return None
    return value


def _last_object(fragments: list[str]) -> Steps[dict[str, Any] | None]:
    """The last whole object in the fragments, which is not a member of another one; other text after it is ignored."""
    starts = [number for number, one in enumerate(fragments) if one.lstrip()[:1] == "{"]
    for number in starts[: -_MAX_OBJECT_STARTS - 1 : -1]:
        text = "".join(fragments[number:])
        at, last = 0, None
        while (begin := text.find("{", at)) >= 0 and not text[at:begin].strip():
            yield
            try:
                value, at = yield from _first_object(text, begin)
            except (ValueError, RecursionError):
                break
            last = value
        is_member = text[at:].lstrip()[:1] in tuple("}],")
        if isinstance(last, dict) and not is_member and not (yield from _json.is_deeper_steps(last, MAX_DEPTH)):
            return last
    return None


def _first_object(text: str, begin: int) -> Steps[tuple[Any, int]]:
    """The object that begins at this position, and its end. Raises ValueError and RecursionError."""
    for chars in (_SHORT_OBJECT_CHARS, CHUNK_BYTES):
        try:
            value, end = _DECODER.raw_decode(text[begin : begin + chars])
            return value, begin + end
        except (ValueError, RecursionError):
            if begin + chars >= len(text):
                raise
    finder = ObjectEndFinder()
    for start in range(begin, len(text), CHUNK_BYTES):
        yield from finder.add_steps(text[start : start + CHUNK_BYTES])
        if finder.is_complete:
            end = min(start + CHUNK_BYTES, len(text)) - len(finder.trailing)
            return (yield from _json.parse_text_steps(text[begin:end])), end
    raise ValueError("the object is not complete")
