"""Why a request reaches the route that it reaches: one verdict per route, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from relayd.routing.matchers import Head
from relayd.routing.table import Table

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Verdict(Generic[R]):
    """What one route says to one request.

    `outcome` is `taken` for the first that matches, `shadowed` for later ones that would have, and `passed` for those
    that do not; then `condition` is the key of the first condition that failed and `reason` says why.
    """

    route: R
    outcome: str
    condition: str = ""
    reason: str = ""


def explain(table: Table[R], head: Head, path: bytes | None = None) -> list[Verdict[R]]:
    """One verdict per rule of the table, in its order; `path` stands in for the request's path where given."""
    verdicts: list[Verdict[R]] = []
    taken = False
    for rule, route in table.rules:
        failing = rule.failing(head, head.path if path is None else path)
        if failing is not None:
            verdicts.append(Verdict(route, "passed", *failing))
        else:
            verdicts.append(Verdict(route, "shadowed" if taken else "taken"))
            taken = True
    return verdicts
