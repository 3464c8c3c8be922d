"""Best of two: two endpoints are drawn by their weights, and of these the less loaded one is asked.

Costs the same for a hundred endpoints as for three, and many instances of relayd that do not know of each other do not
all rush to the same idle endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from relayd.schema import section, setting
from relayd.upstream.affinity import Affinity
from relayd.upstream.endpoint import Endpoint


@section()
class Options:
    """How endpoints are drawn, with `balance: random`."""

    choices: int = setting(
        default=2, doc="How many endpoints are drawn, of which the less loaded one is asked.", minimum=1, maximum=100
    )


class Balancer:
    """`chance` gives numbers from 0 up to 1."""

    __slots__ = ("_chance", "_choices")
    affinity: ClassVar[Affinity | None] = None
    numbers_endpoints: ClassVar[bool] = False

    def __init__(self, options: Options, chance: Callable[[], float]) -> None:
        self._choices = options.choices
        self._chance = chance

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """All endpoints of the upstream, also those that may not be asked now; again when they change."""

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """One of the candidates, which are at least two."""
        total = 0.0
        for one in candidates:
            total += one.weight
        best = self._draw(candidates, total)
        for _ in range(self._choices - 1):
            other = self._draw(candidates, total)
            if other.in_flight * best.weight < best.in_flight * other.weight:
                best = other
        return best

    def _draw(self, candidates: Sequence[Endpoint], total: float) -> Endpoint:
        point = self._chance() * total
        for one in candidates:
            point -= one.weight
            if point < 0.0:
                return one
        return candidates[-1]
