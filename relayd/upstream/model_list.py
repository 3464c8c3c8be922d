"""The models that an upstream's endpoints list: the last known list, and when to fetch it again.

Laws:
1. If a list cannot be fetched again, the previous list is kept: an old list is better than none.
2. One request runs at a time. After a failure the next endpoint and the next key are used, sooner than after a success.
3. Times have a jitter, so that requests of several upstreams or instances do not coincide.
"""

from __future__ import annotations

import random
from collections.abc import Callable

INTERVAL_S = 300.0
RETRY_DELAY_S = 20.0  # after a failure; twice as long after each further one
FIRST_WITHIN_S = 1.0
JITTER = 0.2


class ModelList:
    """Owned by its upstream. It never blocks, and time is passed in."""

    __slots__ = ("_chance", "_due_s", "failures", "names", "running", "turn", "updated_s", "why")

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.names: tuple[str, ...] = ()
        self.updated_s: float | None = None  # when `names` was received
        self.why = ""  # of the last failure; empty after an answer
        self.failures = 0
        self.turn = 0  # chooses the endpoint and the key of the next request
        self.running = False
        self._chance = chance
        self._due_s: float | None = None

    def due(self, now_s: float) -> bool:
        """True if a request must begin now."""
        if self._due_s is None:
            self._due_s = now_s + FIRST_WITHIN_S * self._chance()
        return not self.running and now_s >= self._due_s

    def begin(self) -> None:
        """Note the begin of a request."""
        self.running = True

    def give_up(self) -> None:
        """End the running request with neither a list nor a failure."""
        self.running = False

    def update(self, names: tuple[str, ...], now_s: float) -> None:
        """Store a new list."""
        self.running, self.names, self.updated_s = False, names, now_s
        self.why, self.failures = "", 0
        self._next(now_s, INTERVAL_S)

    def failed(self, why: str, now_s: float) -> None:
        """The request failed for the reason `why`."""
        self.running, self.why = False, why
        self.turn += 1
        self._next(now_s, min(INTERVAL_S, RETRY_DELAY_S * 2 ** min(self.failures, 8)))
        self.failures += 1

    def _next(self, now_s: float, delay_s: float) -> None:
        self._due_s = now_s + delay_s * (1.0 + JITTER * (2.0 * self._chance() - 1.0))

    def inherit_state(self, previous: ModelList) -> None:
        """Copy the list of the previous plan's upstream; it is fetched again."""
        self.names, self.updated_s = previous.names, previous.updated_s

    def describe(self, now_s: float) -> dict[str, object]:
        """For status."""
        age_s = None if self.updated_s is None else round(now_s - self.updated_s, 1)
        return {"count": len(self.names), "age_s": age_s, "fault": self.why}
