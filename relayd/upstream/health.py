"""Active checks: when the next one of an endpoint is due, and what its result means.

Laws:
1. There are none unless the configuration asks for them; what traffic shows is the breaker's.
2. One check of an endpoint at a time; the next is due an interval after the one before began, a fifth shorter or longer
   by chance, so that neither endpoints nor instances are asked in step.
3. Busy is not sick: a check that only ran out of time has no result while the endpoint answers others.
4. A disabled endpoint is left alone; a drained one is still watched, so that it comes back as what it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from relayd.upstream.endpoint import DISABLED, FAILING, PASSING, UNKNOWN, Endpoint
from relayd.upstream.spec import HealthSpec

JITTER = 0.2
FIRST_WITHIN_S = 2.0
BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw. `timed_out` says that nothing else was wrong than the time."""

    good: bool
    why: str = ""
    timed_out: bool = False


TIMED_OUT = Finding(False, "timed out", True)


def judged(spec: HealthSpec, status: int, body: bytes) -> Finding:
    """What an answer says; `body` is its beginning."""
    if not any(first <= status <= last for first, last in spec.statuses):
        return Finding(False, f"status {status}")
    if spec.body and spec.body not in body:
        return Finding(False, "the body does not hold the text")
    return Finding(True)


class Checker:
    """The checks of one endpoint; owned by its upstream. Nothing here waits or has a clock."""

    __slots__ = ("_before", "_chance", "_due_s", "_mark", "_row", "endpoint", "running", "spec")

    def __init__(self, spec: HealthSpec, endpoint: Endpoint, chance: Callable[[], float] = random.random) -> None:
        self.spec, self.endpoint = spec, endpoint
        self.running = False
        self._chance = chance
        self._due_s: float | None = None
        self._row = 0  # good checks in a row, or failed ones as a negative number
        self._mark = self._before = endpoint.answers  # at the beginning of this check, and of the one before

    def due(self, now_s: float) -> bool:
        """Whether a check is to begin now."""
        if self._due_s is None:
            self._due_s = now_s + min(self.spec.interval_s, FIRST_WITHIN_S) * self._chance()
        return not self.running and now_s >= self._due_s and self.endpoint.state != DISABLED

    def begin(self, now_s: float) -> None:
        """A check begins."""
        self.running = True
        self._before, self._mark = self._mark, self.endpoint.answers
        self._due_s = now_s + self.spec.interval_s * (1.0 + JITTER * (2.0 * self._chance() - 1.0))

    def give_up(self) -> None:
        """The check that is under way ends without a finding."""
        self.running = False

    def found(self, finding: Finding) -> str:
        """A check has ended: the health of the endpoint from now on."""
        self.running = False
        endpoint, row = self.endpoint, self._row
        if finding.timed_out and endpoint.answers > self._before:
            return endpoint.health
        self._row = row = max(row, 0) + 1 if finding.good else min(row, 0) - 1
        if row >= self.spec.healthy or (row > 0 and endpoint.health == UNKNOWN):
            return PASSING
        return FAILING if -row >= self.spec.unhealthy else endpoint.health
