"""Shapes: regular expressions for heads with the same field names, which validate and split such a head in one match.

Laws:
1. A shape accepts only heads that the full parser accepts, with the same result. It is made from a head that the full
   parser accepted, and contains literally every name and every value on which the result depends.
2. Shapes are made only for frequent forms, up to MAX_SHAPES, and only during the first MAX_LOOKUPS lookups that fail:
   compiling a shape costs as much as parsing some hundred heads, counting a form as much as parsing one head.
3. At most MAX_TRIED shapes are tried for a head; a head that matches none of them is parsed by the full parser.
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

# A value that is not empty; the same set of bytes as in the full parsers.
_VALUE = rb":[ \t]*[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*"
_END = rb"\r\n"


def literal(line: bytes) -> bytes:
    """A literal line, including its end."""
    return re.escape(line)


def field(name: bytes, end: bool) -> bytes:
    """A group: a field with this spelling of its name and any non-empty value; includes its line end if `end`."""
    line = re.escape(name) + _VALUE
    return b"(" + line + _END + b")" if end else b"(" + line + b")" + _END


def ignored(name: bytes) -> bytes:
    """A field of this name that is ignored."""
    return re.escape(name) + _VALUE + _END


def digits(name: bytes, whole: bool) -> bytes:
    """A Content-Length: its number is a group; with `whole` the line is an outer group."""
    number = re.escape(name) + rb":[ ]?([0-9]{1,18})"
    return b"(" + number + b")" + _END if whole else number + _END


class ShapeCache(Generic[S]):
    """The shapes of one kind of head, each with its meaning. One per process and kind."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[tuple[FullMatch, S]]] = {}
        self._counts: dict[Form, int] = {}
        self._learnt: set[Form] = set()
        self._lookups_left = MAX_LOOKUPS
        self.learning = True

    def find(self, key: Hashable, head: bytes) -> tuple[re.Match[bytes], S] | None:
        """The match of the first matching shape, and its meaning. `key` is a cheap property of the head."""
        known = self._known.get(key)
        if known is not None:
            for fullmatch, meaning in known:
                match = fullmatch(head)
                if match is not None:
                    return match, meaning
        return None

    def should_learn(self, form: Form) -> bool:
        """Count a form that matched no shape. Returns True if a shape should be made for it."""
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
        """Make a shape for this form; the newest shape is tried first."""
        self._learnt.add(form)
        if len(self._learnt) >= MAX_SHAPES:
            self.learning = False
        known = self._known.setdefault(key, [])
        known.insert(0, (re.compile(b"".join(form)).fullmatch, meaning))
        del known[MAX_TRIED:]
