"""In turn: each endpoint as often as its weight says, spread evenly (A A B A, not A A A B).

Of those that may be asked the one with the most credit is next; everybody gains its weight, whoever is chosen pays for
all. An endpoint that was away meanwhile comes back to its old place in the turn and is not flooded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from relayd.schema import section
from relayd.upstream.affinity import Affinity
from relayd.upstream.endpoint import Endpoint


@section()
class Options:
    """Nothing to choose."""


class Balancer:
    """Keeps its turn in the endpoints' `balancer_state`."""

    __slots__ = ()
    affinity: ClassVar[Affinity | None] = None
    numbers_endpoints: ClassVar[bool] = False

    def __init__(self, options: object, chance: Callable[[], float]) -> None:
        pass

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """All endpoints of the upstream, also those that may not be asked now; again when they change."""
        level(endpoints)

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """One of the candidates, which are at least two."""
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
    """The credits of all endpoints add up to nothing again, so that joining and leaving favours nobody for long."""
    if endpoints:
        mean = sum(one.balancer_state for one in endpoints) / len(endpoints)
        for one in endpoints:
            one.balancer_state -= mean
