"""The endpoint with the fewest exchanges in flight relative to its weight; weighted round robin among equally loaded
endpoints.

All endpoints are compared, so the choice is exact. Idle endpoints are used in round robin, so that each of them gets
requests under low load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from relayd.schema import section
from relayd.upstream.affinity import Affinity
from relayd.upstream.balancers import round_robin
from relayd.upstream.endpoint import Endpoint


@section()
class Options:
    """No options."""


class Balancer:
    """Keeps the round robin state of equally loaded endpoints in their `balancer_state`."""

    __slots__ = ()
    affinity: ClassVar[Affinity | None] = None
    numbers_endpoints: ClassVar[bool] = False

    def __init__(self, options: object, chance: Callable[[], float]) -> None:
        pass

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """Set all endpoints of the upstream, unavailable ones included. Called again when they change."""
        round_robin.level(endpoints)

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """Choose one of at least two candidates."""
        best = candidates[0]
        least, tied = best.in_flight / best.weight, 1
        for one in candidates[1:]:
            load = one.in_flight / one.weight
            if load < least:
                best, least, tied = one, load, 1
            elif load == least:
                tied += 1
        return best if tied == 1 else self._turn(candidates, least)

    def _turn(self, candidates: Sequence[Endpoint], least: float) -> Endpoint:
        best, most, total = candidates[0], -1e300, 0.0
        for one in candidates:
            weight = one.weight
            if one.in_flight / weight == least:
                total += weight
                credit = one.balancer_state = one.balancer_state + weight
                if credit > most:
                    best, most = one, credit
        best.balancer_state = most - total
        return best
