"""The table of routes: ordered rules, of which the first match wins.

1. The result is always that of testing every rule in order; the index only makes it faster.
2. The prefixes of a path form a chain, so the longest one determines all others. For every exact path and every prefix
   in the rules, the candidate rules are computed when the table is built: in order, up to the first one without further
   conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Generic, TypeVar

from relayd.routing.matchers import Head, Matcher, ModelWanted, Test, other_paths
from relayd.wire.path import has_parent_segment, readings

R = TypeVar("R")


class _Index(Generic[R]):
    """The positions of rules by the part of the path that they require, while a table is built."""

    def __init__(self, rules: tuple[tuple[Matcher, R], ...]) -> None:
        self._entries = [(rule.test(), value) for rule, value in rules]
        self._anywhere: list[int] = []  # up to the first rule without any condition
        self.by_prefix: dict[bytes, list[int]] = {}
        self.by_path: dict[bytes, list[int]] = {}
        for position, (rule, _) in enumerate(rules):
            if rule.path is not None:
                self.by_path.setdefault(rule.path, []).append(position)
            elif rule.prefix is not None:
                self.by_prefix.setdefault(rule.prefix, []).append(position)
            elif not self._anywhere or self._entries[self._anywhere[-1]][0] is not None:
                self._anywhere.append(position)

    def candidates(self, path: bytes, *, exact: bool) -> tuple[tuple[Test | None, R], ...]:
        """The candidate rules for this path; without `exact`, for all paths with this prefix that have no own index."""
        positions = list(self._anywhere)
        for length in range(len(path) + 1):
            positions += self.by_prefix.get(path[:length], ())
        if exact:
            positions += self.by_path.get(path, ())
        found: list[tuple[Test | None, R]] = []
        for position in sorted(positions):
            found.append(self._entries[position])
            if self._entries[position][0] is None:
                break
        return tuple(found)


class Table(Generic[R]):
    """Ordered rules, compiled once. Immutable."""

    __slots__ = ("_anywhere", "_by_path", "_by_prefix", "_longest", "rules")

    def __init__(self, rules: Iterable[tuple[Matcher, R]]) -> None:
        self.rules = tuple(rules)
        index = _Index(self.rules)
        # An alternation matches its first fitting branch. Sorted by length, that is the longest prefix.
        prefixes = sorted(index.by_prefix, key=len, reverse=True)
        self._longest = re.compile(b"|".join(map(re.escape, prefixes)) if prefixes else rb"(?!)").match
        self._by_path = {path: index.candidates(path, exact=True) for path in index.by_path}
        self._by_prefix = {prefix: index.candidates(prefix, exact=False) for prefix in prefixes}
        self._anywhere = index.candidates(b"", exact=False)

    def match(self, head: Head, path: bytes | None = None) -> R | None:
        """The value of the first rule that matches, or None. `path` replaces the request's path, to compare the result
        of another reading of it."""
        if path is None:
            path = head.path
        for test, value in self._remaining(path):
            if test is None or test(head, path):
                return value
        return None

    def contradiction(self, head: Head, value: R | None, confined: bool = False) -> bytes | None:
        """A reading of the path, or of a path that a field names for some servers (X-Original-URL), for which a rule
        with another value matches; None if all readings agree.

        With `confined`, a reading that climbs above the base path of the rule's upstream contradicts too.
        Raises ExchangeError for a path with too many readings.
        """
        for reading in chain(*map(readings, (head.path, *other_paths(head)))):
            if self.match(head, reading) is not value or (confined and has_parent_segment(reading)):
                return reading
        return None

    def candidates(self, head: Head) -> list[R]:
        """The values of all rules that can be the first match while the model is unknown."""
        found: list[R] = []
        for test, value in self._remaining(head.path):
            try:
                if test is None or test(head, head.path):
                    found.append(value)
                    break
            except ModelWanted:
                found.append(value)
        return found

    def _remaining(self, path: bytes) -> tuple[tuple[Test | None, R], ...]:
        rules = self._by_path.get(path)
        if rules is None:
            longest = self._longest(path)
            rules = self._anywhere if longest is None else self._by_prefix[longest[0]]
        return rules
