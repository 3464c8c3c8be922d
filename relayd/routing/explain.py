"""Explanation of a routing decision: one result per route."""

from __future__ import annotations

from typing import Generic, TypeVar

from relayd.dataclass import dataclass
from relayd.routing.matchers import Head
from relayd.routing.table import Table

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RouteMatch(Generic[R]):
    """The result of matching one request against one route.

    `outcome` is `taken` for the first route that matches, `shadowed` for later routes that match too, and `passed` for
    routes that do not match. Then `condition` is the key of the first failed condition and `reason` explains it.
    """

    route: R
    outcome: str
    condition: str = ""
    reason: str = ""


def explain(table: Table[R], head: Head, path: bytes | None = None) -> list[RouteMatch[R]]:
    """One result per rule of the table, in order. `path` replaces the request's path if given."""
    matches: list[RouteMatch[R]] = []
    taken = False
    for rule, route in table.rules:
        failing = rule.failing(head, head.path if path is None else path)
        if failing is not None:
            matches.append(RouteMatch(route, "passed", *failing))
        else:
            matches.append(RouteMatch(route, "shadowed" if taken else "taken"))
            taken = True
    return matches
