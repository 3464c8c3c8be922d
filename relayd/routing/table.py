"""The table of routes: ordered rules, the first that matches wins.

1. The answer is always that of asking every rule in order; what is faster here is only the asking.
2. The prefixes that begin a path form a chain, so the longest one names them all: for every exact path and every
   prefix that occurs, the rules that remain are known when the table is built, in their order, up to the first one
   that nothing more is asked of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, TypeVar

from relayd.routing.matchers import Head, Matcher, ModelWanted, Test
from relayd.wire.path import climbs, readings

R = TypeVar("R")


class Table(Generic[R]):
    """Ordered rules, compiled once and never changed."""

    __slots__ = ("_anywhere", "_by_path", "_by_prefix", "_longest", "rules")

    def __init__(self, rules: Iterable[tuple[Matcher, R]]) -> None:
        self.rules = tuple(rules)
        prefixes = sorted({rule.prefix for rule, _ in self.rules if rule.prefix is not None}, key=len, reverse=True)
        paths = {rule.path for rule, _ in self.rules if rule.path is not None}
        # An alternation takes the first branch that fits: with the longest in front, the longest prefix.
        self._longest = re.compile(b"|".join(map(re.escape, prefixes)) if prefixes else rb"(?!)").match
        self._by_path = {path: self._rest(path, exact=True) for path in paths}
        self._by_prefix = {prefix: self._rest(prefix, exact=False) for prefix in prefixes}
        self._anywhere = self._rest(b"", exact=False)

    def _rest(self, path: bytes, *, exact: bool) -> tuple[tuple[Test | None, R], ...]:
        """The rules that remain for this path, or for all paths without an index of their own that begin so."""
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

    def match(self, head: Head) -> R | None:
        """The first rule's value that matches, or None."""
        return self.match_as(head, head.path)

    def match_as(self, head: Head, path: bytes) -> R | None:
        """As `match`, as if `path` were the request's path: for comparing what another reading of it would reach."""
        for test, value in self._remaining(path):
            if test is None or test(head, path):
                return value
        return None

    def contradiction(self, head: Head, value: R | None, confined: bool = False) -> bytes | None:
        """A reading of the path under which another rule matches than the one with this value; None when there is none.

        With `confined` also a reading that climbs, out of the path that the paths of the rule are put under.
        Raises ExchangeError for a path with more readings than can be looked at.
        """
        for reading in readings(head.path):
            if self.match_as(head, reading) is not value or (confined and climbs(reading)):
                return reading
        return None

    def candidates(self, head: Head) -> list[R]:
        """The values of all rules that may be the first to match, as long as the model is not known."""
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
        rest = self._by_path.get(path)
        if rest is None:
            longest = self._longest(path)
            rest = self._anywhere if longest is None else self._by_prefix[longest[0]]
        return rest
