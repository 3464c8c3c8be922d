"""Shapes: expressions for heads of a form met before, so that the next of its kind is checked and cut in one step in C.

Laws:
1. A shape takes only what the full parser takes, and gives the same: it is made from a head which that one accepted,
   with every name, and every value that decides something, written out.
2. Few are made, only of forms met again and again, and not for ever: to make one costs as much as to parse some
   hundred heads, and to look whether one should be made as much as to parse one.
3. No more than `TRIED` shapes are tried for one head; what fits none of them goes to the full parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

S = TypeVar("S")
Form = tuple[bytes, ...]
FullMatch = Callable[[bytes], "re.Match[bytes] | None"]

MAX_TRIED = 4
MAX_SHAPES = 64
MIN_COUNT = 16
MAX_COUNTED = 512
MAX_LOOKUPS = 65536

# A value that is not empty; the same bytes as in the full parsers' expressions.
_VALUE = rb":[ \t]*[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*"
_END = rb"\r\n"


def literal(line: bytes) -> bytes:
    """A line that must stand there as it is, with its end."""
    return re.escape(line)


def field(name: bytes, end: bool) -> bytes:
    """A group: a field of this name, as it is spelt, with any value but none; with its line end if `end`."""
    line = re.escape(name) + _VALUE
    return b"(" + line + _END + b")" if end else b"(" + line + b")" + _END


def ignored(name: bytes) -> bytes:
    """A field of this name that nobody looks at."""
    return re.escape(name) + _VALUE + _END


def digits(name: bytes, whole: bool) -> bytes:
    """A Content-Length: its number is a group; with `whole` the line is one around it."""
    number = re.escape(name) + rb":[ ]?([0-9]{1,18})"
    return b"(" + number + b")" + _END if whole else number + _END


class ShapeCache(Generic[S]):
    """The shapes of one kind of head, with what each of them means; one per process and kind."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[tuple[FullMatch, S]]] = {}
        self._counts: dict[Form, int] = {}
        self._learnt: set[Form] = set()
        self._lookups_left = MAX_LOOKUPS
        self.learning = True

    def find(self, key: Hashable, head: bytes) -> tuple[re.Match[bytes], S] | None:
        """The match of the first shape that fits, and its meaning. `key` is what one glance at the head tells."""
        known = self._known.get(key)
        if known is not None:
            for fullmatch, meaning in known:
                match = fullmatch(head)
                if match is not None:
                    return match, meaning
        return None

    def should_learn(self, form: Form) -> bool:
        """Count a form that no shape fitted; whether it is time to make one of it."""
        self._lookups_left -= 1
        if not self._lookups_left:
            self.learning = False
        if form in self._learnt:
            return False
        count = self._counts.get(form, 0) + 1
        if count < MIN_COUNT:
            if len(self._counts) >= MAX_COUNTED:
                self._counts.clear()
            self._counts[form] = count
            return False
        self._counts.pop(form, None)
        return True

    def learn(self, key: Hashable, form: Form, meaning: S) -> None:
        """Make a shape of this form; the newest is tried first."""
        self._learnt.add(form)
        if len(self._learnt) >= MAX_SHAPES:
            self.learning = False
        known = self._known.setdefault(key, [])
        known.insert(0, (re.compile(b"".join(form)).fullmatch, meaning))
        del known[MAX_TRIED:]
