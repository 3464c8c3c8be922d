"""Whether an attempt is repeated, and after what wait.

Laws:
1. Never after the commit point: once the client has a byte there is no second attempt.
2. A request that may have been acted on is not sent twice: a method that is not idempotent (RFC 9110 9.2.2) is repeated
   only if no byte of it was sent, if the endpoint refused it before any work on it (relayd's own key, 429, 529, 503
   with Retry-After) and another endpoint or key is free, or if the operator says `idempotent: true`. (What a refused
   HTTP/2 stream brings back goes again before this policy is asked: proxy/retry_loop.)
3. Another endpoint comes first, and at once; the same one again only after a back-off with full jitter: any time from
   nothing to a bound that doubles.
4. All retries of an upstream draw on one budget, so that a failing upstream gets at most a share more of requests, not
   a multiple.
5. What cannot be answered before the deadline is not begun.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from relayd.upstream.classify import Classification
from relayd.upstream.spec import RetrySpec

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
# Words of `retries: on:`; beside them three digits stand for that status.
WORDS = ("connect", "closed", "malformed", "timeout", "5xx", "429", "503", "key")
USUAL = ("connect", "closed", "timeout", "5xx", "429", "503", "key")
SLICES = 10


class Budget:
    """How many retries an upstream may make: `share` of the requests of the last `window_s`, and `minimum` beside.

    Owned by the upstream, shared by all of its exchanges.
    """

    __slots__ = ("_requests", "_retries", "_slice", "minimum", "share", "window_s")

    def __init__(self, share: float, minimum: int, window_s: float) -> None:
        self.share, self.minimum, self.window_s = share, minimum, window_s
        self._slice = 0
        self._requests = [0] * SLICES
        self._retries = [0] * SLICES

    def request(self, now_s: float) -> None:
        """A request has come, which is not a retry."""
        place = int(now_s * SLICES / self.window_s)
        if place != self._slice:
            self._turn(place)
        self._requests[place % SLICES] += 1

    def left(self, now_s: float) -> int:
        """Retries that may be made now."""
        place = int(now_s * SLICES / self.window_s)
        if place != self._slice:
            self._turn(place)
        return max(0, self.minimum + int(self.share * sum(self._requests)) - sum(self._retries))

    def withdraw(self, now_s: float) -> bool:
        """Take one retry, if there is one."""
        if not self.left(now_s):
            return False
        self._retries[self._slice % SLICES] += 1
        return True

    def inherit_state(self, other: Budget) -> None:
        """Go on where another one of the same window stands."""
        if other.window_s == self.window_s:
            self._slice = other._slice
            self._requests, self._retries = list(other._requests), list(other._retries)

    def _turn(self, place: int) -> None:
        """Slices that have become too old are emptied."""
        if place > self._slice:
            for old in range(max(self._slice + 1, place - SLICES + 1), place + 1):
                self._requests[old % SLICES] = self._retries[old % SLICES] = 0
            self._slice = place


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known when an attempt has failed.

    `attempt` counts from 1. `sent` says that a byte of the request may have reached the endpoint (False where the
    error's Kind is `retryable`). `replayable` says that the whole body is still
    there. `another` says that an endpoint or key is free that was not tried yet. `remaining_s` is the time to
    the deadline of the whole, None for none.
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
    """`retries:` of one upstream; holds nothing that changes but the budget."""

    __slots__ = ("_chance", "budget", "spec")

    def __init__(self, spec: RetrySpec, budget: Budget, chance: Callable[[], float] = random.random) -> None:
        self.spec, self.budget = spec, budget
        self._chance = chance

    def wanted(self, outcome: Classification) -> bool:
        """Whether `on:` names what happened: the class of the fault, or the status."""
        on = self.spec.on
        return outcome.fault in on or (outcome.status >= 400 and str(outcome.status) in on)

    def decide(self, case: Circumstances, now_s: float) -> float | None:
        """Seconds to wait before the next attempt, None to let it be. What is granted is drawn from the budget."""
        spec = self.spec
        if case.committed or not case.replayable or case.attempt >= spec.attempts:
            return None
        if not self.wanted(case.classification):
            return None
        unprocessed = not case.sent or (case.classification.refused and case.another)
        if not unprocessed and not spec.idempotent and case.method not in IDEMPOTENT:
            return None
        wait_s = self.wait_s(case)
        if wait_s is None or (case.remaining_s is not None and wait_s >= case.remaining_s):
            return None
        return wait_s if self.budget.withdraw(now_s) else None

    def wait_s(self, case: Circumstances) -> float | None:
        """How long to wait; None when the endpoint asked for more patience than a retry has."""
        if case.another:
            return 0.0
        spec = self.spec
        most_s = min(spec.backoff_most_s, spec.backoff_s * 2.0 ** min(case.attempt - 1, 60))
        rest_s = case.classification.rest_s or 0.0
        if rest_s > spec.backoff_most_s:
            return None
        return rest_s + most_s * self._chance()
