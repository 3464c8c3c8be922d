"""Smooth weighted round robin: each endpoint in proportion to its weight, evenly spread (A A B A, not A A A B).

Every available endpoint gains its weight as credit, and the endpoint with the most credit is chosen and pays the sum of
the weights. An endpoint that was unavailable keeps its credit, and is not flooded on its return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from relayd.schema import section
from relayd.upstream.affinity import Affinity
from relayd.upstream.endpoint import Endpoint


@section()
class Options:
    """No options."""


class Balancer:
    """Keeps the credits in the endpoints' `balancer_state`."""

    __slots__ = ()
    affinity: ClassVar[Affinity | None] = None
    numbers_endpoints: ClassVar[bool] = False

    def __init__(self, options: object, chance: Callable[[], float]) -> None:
        pass

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """Set all endpoints of the upstream, unavailable ones included. Called again when they change."""
        level(endpoints)

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """Choose one of at least two candidates."""
        best = candidates[0]
        most, total = -1e300, 0.0
        for one in candidates:
            weight = one.weight
            total += weight
            credit = one.balancer_state = one.balancer_state + weight
            if credit > most:
                best, most = one, credit
        best.balancer_state = most - total
        return best


def level(endpoints: Sequence[Endpoint]) -> None:
    """Shift all credits so that they sum to zero: no endpoint keeps an advantage after a change."""
    if endpoints:
        mean = sum(one.balancer_state for one in endpoints) / len(endpoints)
        for one in endpoints:
            one.balancer_state -= mean
