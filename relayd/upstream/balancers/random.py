"""Power of two choices: two endpoints are drawn by their weights, and the less loaded of them is used.

Only the drawn endpoints are compared, and independent instances of relayd do not all send their requests to the same
idle endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from relayd.schema import section, setting
from relayd.upstream.affinity import Affinity
from relayd.upstream.endpoint import Endpoint


@section()
class Options:
    """The number of choices, with `balance: random`."""

    choices: int = setting(
        default=2, doc="Endpoints that are drawn; the least loaded of them is used.", minimum=1, maximum=100
    )


class Balancer:
    """`chance` returns random numbers in [0, 1)."""

    __slots__ = ("_chance", "_choices")
    affinity: ClassVar[Affinity | None] = None
    numbers_endpoints: ClassVar[bool] = False

    def __init__(self, options: Options, chance: Callable[[], float]) -> None:
        self._choices = options.choices
        self._chance = chance

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """Set all endpoints of the upstream, unavailable ones included. Called again when they change."""

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """Choose one of at least two candidates."""
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
