"""A cache of parsed tool lists: agents send the same tools with every turn of a conversation.

Laws:
1. A list is identified by its whole text, compared character by character.
2. A cached list is shared by all requests that contain it. It and its items must not be changed.
3. The cache is bounded in characters and in entries; the least recently used list is evicted first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

SHORTEST = 2048  # characters; parsing a shorter list is as fast as finding it
LONGEST = 256 * 1024
MOST_SIGNS = 512 * 1024
_MOST = 64
_FIRST_SIGNS = 1024  # the prefix by which a list is looked up


class CachedList(list[Any]):
    """A JSON list. `memo` contains values derived from it, by a name that the deriving code chooses."""

    __slots__ = ("memo",)

    def __init__(self, values: list[Any]) -> None:
        super().__init__(values)
        self.memo: dict[str, Any] = {}


def memoised(values: list[Any], name: str, make: Callable[[list[Any]], T]) -> T:
    """The result of `make` for a list. For a cached list it is computed once per `name` and shared, so it must depend
    on the list only."""
    if not isinstance(values, CachedList):
        return make(values)
    if name not in values.memo:
        values.memo[name] = make(values)
    made: T = values.memo[name]
    return made


class ToolListCache:
    """The cached lists. One per process."""

    __slots__ = ("_known", "_signs")

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, CachedList]] = {}
        self._signs = 0

    def find(self, text: str, start: int) -> tuple[CachedList, int] | None:
        """The cached list that begins at `start` in `text`, and its end; None if it is not cached. The text of a list
        ends with its bracket, so a text that begins with it contains exactly that list."""
        first = text[start : start + _FIRST_SIGNS]
        known = self._known.get(first)
        if known is None or not text.startswith(known[0], start):
            return None
        del self._known[first]  # most recently used
        self._known[first] = known
        return known[1], start + len(known[0])

    def store(self, text: str, start: int, end: int, values: list[Any]) -> list[Any]:
        """Cache a list. Returns the cached list, or `values` if its size is out of range."""
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
