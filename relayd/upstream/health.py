"""Active health checks: when the next check of an endpoint is due, and the effect of its result.

Laws:
1. Checks run only if they are configured; the results of traffic belong to the breaker.
2. One check per endpoint runs at a time. The next check is due one interval after the start of the previous one, with a
   jitter of a fifth, so that checks of several endpoints or instances do not coincide.
3. A busy endpoint is not unhealthy: a check that only timed out is ignored while the endpoint answers other requests.
4. A disabled endpoint is not checked. A drained endpoint is still checked, so that its health is known on its return.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayd.dataclass import dataclass
from relayd.upstream.endpoint import DISABLED, FAILING, PASSING, UNKNOWN, Endpoint
from relayd.upstream.spec import HealthSpec

JITTER = 0.2
FIRST_WITHIN_S = 2.0
BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `timed_out` is true if the only failure was the timeout."""

    good: bool
    why: str = ""
    timed_out: bool = False


TIMED_OUT = CheckResult(False, "timed out", True)


def evaluate(spec: HealthSpec, status: int, body: bytes) -> CheckResult:
    """Evaluate a response; `body` is its beginning."""
    if not any(first <= status <= last for first, last in spec.statuses):
        return CheckResult(False, f"status {status}")
    if spec.body and spec.body not in body:
        return CheckResult(False, "the body does not contain the text")
    return CheckResult(True)


class Checker:
    """The checks of one endpoint; owned by its upstream. It never blocks, and time is passed in."""

    __slots__ = (
        "_answers_at_start", "_answers_before", "_chance", "_due_s", "_streak_length", "endpoint", "running", "spec",
    )

    def __init__(self, spec: HealthSpec, endpoint: Endpoint, chance: Callable[[], float] = random.random) -> None:
        self.spec, self.endpoint = spec, endpoint
        self.running = False
        self._chance = chance
        self._due_s: float | None = None
        self._streak_length = 0  # successive good checks, or failed ones as a negative number
        self._answers_at_start = self._answers_before = endpoint.answers  # of this check, and of the previous one

    def due(self, now_s: float) -> bool:
        """True if a check must begin now."""
        if self._due_s is None:
            self._due_s = now_s + min(self.spec.interval_s, FIRST_WITHIN_S) * self._chance()
        return not self.running and now_s >= self._due_s and self.endpoint.state != DISABLED

    def begin(self, now_s: float) -> None:
        """Note the begin of a check."""
        self.running = True
        self._answers_before, self._answers_at_start = self._answers_at_start, self.endpoint.answers
        self._due_s = now_s + self.spec.interval_s * (1.0 + JITTER * (2.0 * self._chance() - 1.0))

    def give_up(self) -> None:
        """End the running check without a result."""
        self.running = False

    def record(self, finding: CheckResult) -> str:
        """Record the result of a check. Returns the new health of the endpoint."""
        self.running = False
        endpoint, row = self.endpoint, self._streak_length
        if finding.timed_out and endpoint.answers > self._answers_before:
            return endpoint.health
        self._streak_length = row = max(row, 0) + 1 if finding.good else min(row, 0) - 1
        if row >= self.spec.healthy or (row > 0 and endpoint.health == UNKNOWN):
            return PASSING
        return FAILING if -row >= self.spec.unhealthy else endpoint.health
