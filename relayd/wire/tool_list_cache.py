"""Long lists that bodies bring again and again: an agent sends its tools with every turn of a conversation.

Laws:
1. A list is known by its whole text, compared sign for sign; nothing else decides.
2. A kept list is shared by all who get it: nobody changes it, or anything in it.
3. What is kept is bounded in signs and in number; what was not met for longest goes first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

SHORTEST = 2048  # signs; a shorter list is parsed as fast as it is found
LONGEST = 256 * 1024
MOST_SIGNS = 512 * 1024
_MOST = 64
_FIRST_SIGNS = 1024  # by which lists are told apart before they are compared


class CachedList(list[Any]):
    """A list as JSON has it. `memo` holds what its readers have made of it, by a word of theirs."""

    __slots__ = ("memo",)

    def __init__(self, values: list[Any]) -> None:
        super().__init__(values)
        self.memo: dict[str, Any] = {}


def memoised(values: list[Any], name: str, make: Callable[[list[Any]], T]) -> T:
    """What `make` makes of a list, under a word of the caller's: of a kept one the first time only. It is shared then,
    and may depend on nothing but the list."""
    if not isinstance(values, CachedList):
        return make(values)
    if name not in values.memo:
        values.memo[name] = make(values)
    made: T = values.memo[name]
    return made


class ToolListCache:
    """The lists that were met; one per process, the module's own beside those of tests."""

    __slots__ = ("_known", "_signs")

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, CachedList]] = {}
        self._signs = 0

    def find(self, text: str, start: int) -> tuple[CachedList, int] | None:
        """The kept list that stands in `text` from `start` on, and where it ends. A whole list ends by itself, so what
        begins with its text is the list and nothing else."""
        first = text[start : start + _FIRST_SIGNS]
        known = self._known.get(first)
        if known is None or not text.startswith(known[0], start):
            return None
        del self._known[first]  # it goes to the end of the line
        self._known[first] = known
        return known[1], start + len(known[0])

    def store(self, text: str, start: int, end: int, values: list[Any]) -> list[Any]:
        """The list to go on with: the kept one, or the one given where its size is not for keeping."""
        if not SHORTEST <= end - start <= LONGEST:
            return values
        whole, cached = text[start:end], CachedList(values)
        first = whole[:_FIRST_SIGNS]
        self._drop(first)
        self._known[first] = (whole, cached)
        self._signs += len(whole)
        while self._signs > MOST_SIGNS or len(self._known) > _MOST:
            self._drop(next(iter(self._known)))
        return cached

    def _drop(self, first: str) -> None:
        gone = self._known.pop(first, None)
        if gone is not None:
            self._signs -= len(gone[0])


LISTS = ToolListCache()
