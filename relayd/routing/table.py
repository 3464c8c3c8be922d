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


class Table(Generic[R]):
    """Ordered rules, compiled once. Immutable."""

    __slots__ = ("_anywhere", "_by_path", "_by_prefix", "_longest", "rules")

    def __init__(self, rules: Iterable[tuple[Matcher, R]]) -> None:
        self.rules = tuple(rules)
        prefixes = sorted({rule.prefix for rule, _ in self.rules if rule.prefix is not None}, key=len, reverse=True)
        paths = {rule.path for rule, _ in self.rules if rule.path is not None}
        # An alternation matches its first fitting branch. Sorted by length, that is the longest prefix.
        self._longest = re.compile(b"|".join(map(re.escape, prefixes)) if prefixes else rb"(?!)").match
        self._by_path = {path: self._remaining_rules(path, exact=True) for path in paths}
        self._by_prefix = {prefix: self._remaining_rules(prefix, exact=False) for prefix in prefixes}
        self._anywhere = self._remaining_rules(b"", exact=False)

    def _remaining_rules(self, path: bytes, *, exact: bool) -> tuple[tuple[Test | None, R], ...]:
        """The candidate rules for this path; without `exact`, for all paths with this prefix that have no own index."""
        found: list[tuple[Test | None, R]] = []
        for rule, value in self.rules:
            if rule.path is not None and not exact:
                continue
            if rule.path_holds(path):
                test = rule.test()
                found.append((test, value))
                if test is None:
                    break
        return tuple(found)

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
