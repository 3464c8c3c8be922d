"""Routes that no request can reach, because an earlier route matches every request that they could match.

The first match wins, so a rule behind such a route has no effect. The cost grows with the number of routes, not with
the number of their pairs: routes are looked up by path and by the beginnings of a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relayd.config.patterns import normal_path
from relayd.config.route import Match, Route


def unreachable(routes: Sequence[Route]) -> Iterator[tuple[int, str]]:
    """The position of each unreachable route and the reason. Only the first route that matches every request is
    reported for all routes behind it."""
    reaching = _Index()
    for number, route in enumerate(routes):
        match = route.match
        if match == Match():
            if number < len(routes) - 1:
                yield number, "matches every request; no later route is ever reached"
            return
        path, prefix = _normal(match.path, whole=True), _normal(match.prefix, whole=False)
        if (first := reaching.first_covering(match, path, prefix)) is not None:
            yield number, f"is never reached: {routes[first].name} matches every request that it could match"
        reaching.add(number, match, path, prefix)


def _normal(text: str | None, *, whole: bool) -> str | None:
    return None if text is None else normal_path(text, whole=whole) or text


class _Index:
    """The matches of the earlier routes, by what they require of the path and of the host."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str | None, str | None], list[tuple[int, Match]]] = {}
        self._lengths: set[int] = set()  # of the prefixes

    def add(self, number: int, match: Match, path: str | None, prefix: str | None) -> None:
        """Add a route. `path` and `prefix` are those of its match, in normal form."""
        paths = (("path", path), ("prefix", prefix))
        kind, text = next((one for one in paths if one[1] is not None), ("regex", match.regex))
        if prefix is not None:
            self._lengths.add(len(prefix))
        for host in match.host or (None,):
            self._entries.setdefault((kind, text, host), []).append((number, match))

    def first_covering(self, match: Match, path: str | None, prefix: str | None) -> int | None:
        """The position of the first added route that matches every request that this one could match."""
        wanted: list[tuple[str, str | None]] = [("regex", None)]
        if match.regex is not None:
            wanted.append(("regex", match.regex))
        if path is not None:
            wanted.append(("path", path))
        begins = path if path is not None else prefix
        if begins is not None:
            wanted += [("prefix", begins[:length]) for length in self._lengths if length <= len(begins)]
        hosts = (None, match.host[0]) if match.host else (None,)
        found = (one for kind, text in wanted for host in hosts for one in self._entries.get((kind, text, host), ()))
        return min((number for number, earlier in found if _covers_conditions(earlier, match)), default=None)


def _covers_conditions(earlier: Match, later: Match) -> bool:
    """True if `later` has the conditions of `earlier` besides the path, or stricter ones."""
    for mine, theirs in (earlier.host, later.host), (earlier.method, later.method), (earlier.model, later.model):
        if mine and not (theirs and set(theirs) <= set(mine)):
            return False
    return earlier.header.items() <= later.header.items()
