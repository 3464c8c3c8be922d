"""The retry policy: whether an attempt is repeated, and after which delay.

Laws:
1. No retry after the commit point, that is, once the client has received a byte.
2. A request that may have been processed is not sent twice: a request with a method that is not idempotent (RFC 9110
   9.2.2) is repeated only if no byte of it was sent, if the endpoint refused it before any work on it (relayd's own
   key, 429, 529, 503 with Retry-After) and another endpoint or key is free, or with `idempotent: true`. (The retry loop
   sends a request of a refused HTTP/2 stream again before it applies this policy: proxy/retry_loop.)
3. Another endpoint is tried first, without delay. The same endpoint is tried again only after a back-off with full
   jitter: a random delay between 0 and a bound that doubles.
4. All retries of an upstream share one budget, so that a failing upstream receives only a fraction more requests, not a
   multiple.
5. A retry that cannot start before the deadline is not made.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayd.dataclass import dataclass
from relayd.upstream.classify import Classification
from relayd.upstream.spec import RetrySpec

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
# Names of `retries: on:`; three digits are also allowed, and stand for that status.
FAULT_NAMES = ("connect", "closed", "malformed", "timeout", "5xx", "429", "503", "key")
DEFAULT_FAULTS = ("connect", "closed", "timeout", "5xx", "429", "503", "key")
SLICES = 10


class Budget:
    """The retry budget of an upstream: `minimum` retries plus `share` of the requests within the last `window_s`.

    Owned by the upstream, shared by all of its exchanges.
    """

    __slots__ = ("_requests", "_retries", "_slice", "minimum", "share", "window_s")

    def __init__(self, share: float, minimum: int, window_s: float) -> None:
        self.share, self.minimum, self.window_s = share, minimum, window_s
        self._slice = 0
        self._requests = [0] * SLICES
        self._retries = [0] * SLICES

    def request(self, now_s: float) -> None:
        """Count a request that is not a retry."""
        number = int(now_s * SLICES / self.window_s)
        if number != self._slice:
            self._advance(number)
        self._requests[number % SLICES] += 1

    def left(self, now_s: float) -> int:
        """The number of retries that may be made now."""
        number = int(now_s * SLICES / self.window_s)
        if number != self._slice:
            self._advance(number)
        return max(0, self.minimum + int(self.share * sum(self._requests)) - sum(self._retries))

    def withdraw(self, now_s: float) -> bool:
        """Take one retry from the budget. Returns False if none is left."""
        if not self.left(now_s):
            return False
        self._retries[self._slice % SLICES] += 1
        return True

    def inherit_state(self, other: Budget) -> None:
        """Copy the counters of another budget if its window is equal."""
        if other.window_s == self.window_s:
            self._slice = other._slice
            self._requests, self._retries = list(other._requests), list(other._retries)

    def _advance(self, number: int) -> None:
        """Advance to slice `number`, and clear the slices that left the window."""
        if number > self._slice:
            for old in range(max(self._slice + 1, number - SLICES + 1), number + 1):
                self._requests[old % SLICES] = self._retries[old % SLICES] = 0
            self._slice = number


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """The state of an exchange after a failed attempt.

    `attempt` counts from 1. `sent` is true if a byte of the request may have reached the endpoint (False if the error's
    Kind is `retryable`). `replayable` is true if the whole body is still buffered. `another` is true if an endpoint or
    key is free that was not tried yet. `remaining_s` is the time to the deadline of the exchange, None without one.
    """

    attempt: int
    method: bytes
    classification: Classification
    committed: bool = False
    sent: bool = True
    replayable: bool = True
    another: bool = False
    remaining_s: float | None = None


class RetryPolicy:
    """`retries:` of one upstream; immutable except for the budget."""

    __slots__ = ("_chance", "budget", "spec")

    def __init__(self, spec: RetrySpec, budget: Budget, chance: Callable[[], float] = random.random) -> None:
        self.spec, self.budget = spec, budget
        self._chance = chance

    def retries_fault(self, outcome: Classification) -> bool:
        """True if `on:` names the fault or the status of the outcome."""
        on = self.spec.on
        return outcome.fault in on or (outcome.status >= 400 and str(outcome.status) in on)

    def decide(self, case: FailedAttempt, now_s: float) -> float | None:
        """Seconds to wait before the next attempt, None for no retry. A granted retry is taken from the budget."""
        spec = self.spec
        if case.committed or not case.replayable or case.attempt >= spec.attempts:
            return None
        if not self.retries_fault(case.classification):
            return None
        unprocessed = not case.sent or (case.classification.refused and case.another)
        if not unprocessed and not spec.idempotent and case.method not in IDEMPOTENT:
            return None
        wait_s = self.wait_s(case)
        if wait_s is None or (case.remaining_s is not None and wait_s >= case.remaining_s):
            return None
        return wait_s if self.budget.withdraw(now_s) else None

    def wait_s(self, case: FailedAttempt) -> float | None:
        """Seconds to wait; None if the endpoint asked for a longer delay than `max_backoff_s`."""
        if case.another:
            return 0.0
        spec = self.spec
        most_s = min(spec.max_backoff_s, spec.backoff_s * 2.0 ** min(case.attempt - 1, 60))
        retry_after_s = case.classification.retry_after_s or 0.0
        if retry_after_s > spec.max_backoff_s:
            return None
        return retry_after_s + most_s * self._chance()
