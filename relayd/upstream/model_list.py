"""The models that an upstream's endpoints list themselves: what is known, and when to ask again.

Laws:
1. A list that could not be had again stays as it was: what was there an hour ago is better than nothing.
2. One question at a time; after a failure another endpoint and another key are asked, sooner than after an answer.
3. Times are spread by chance, so that neither upstreams nor instances ask in step.
"""

from __future__ import annotations

import random
from collections.abc import Callable

EVERY_S = 300.0
AGAIN_S = 20.0  # after a failure; twice as long after each further one
FIRST_WITHIN_S = 1.0
JITTER = 0.2


class ModelList:
    """Owned by its upstream. Nothing here waits or has a clock."""

    __slots__ = ("_chance", "_due_s", "failures", "known_s", "names", "running", "turn", "why")

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.names: tuple[str, ...] = ()
        self.known_s: float | None = None  # when they were told
        self.why = ""  # of the last failure; empty after an answer
        self.failures = 0
        self.turn = 0  # which endpoint and which key are asked
        self.running = False
        self._chance = chance
        self._due_s: float | None = None

    def due(self, now_s: float) -> bool:
        """Whether to ask now."""
        if self._due_s is None:
            self._due_s = now_s + FIRST_WITHIN_S * self._chance()
        return not self.running and now_s >= self._due_s

    def begin(self) -> None:
        """Somebody asks."""
        self.running = True

    def give_up(self) -> None:
        """Whoever asked has ended without an answer and without a failure."""
        self.running = False

    def told(self, names: tuple[str, ...], now_s: float) -> None:
        """The endpoint has told."""
        self.running, self.names, self.known_s = False, names, now_s
        self.why, self.failures = "", 0
        self._next(now_s, EVERY_S)

    def failed(self, why: str, now_s: float) -> None:
        """It has not."""
        self.running, self.why = False, why
        self.turn += 1
        self._next(now_s, min(EVERY_S, AGAIN_S * 2 ** min(self.failures, 8)))
        self.failures += 1

    def _next(self, now_s: float, delay_s: float) -> None:
        self._due_s = now_s + delay_s * (1.0 + JITTER * (2.0 * self._chance() - 1.0))

    def inherit_state(self, previous: ModelList) -> None:
        """Go on with what the upstream of the plan before knew; it is asked anew."""
        self.names, self.known_s = previous.names, previous.known_s

    def describe(self, now_s: float) -> dict[str, object]:
        """For status."""
        age_s = None if self.known_s is None else round(now_s - self.known_s, 1)
        return {"count": len(self.names), "age_s": age_s, "fault": self.why}
