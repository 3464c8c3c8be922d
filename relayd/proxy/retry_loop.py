"""The decision after an attempt: deliver its result, retry after a back-off, or fall back to the next target.

Pure: takes results, returns decisions; no sockets, no timers, no clock.

1. There is at most one attempt at a time.
2. No attempt follows a committed response. A request on which an endpoint may have acted is sent again only if its
   method is idempotent, if the configuration allows it, or if the endpoint refused it unprocessed.
3. Each fallback is used at most once, in the configured order, and only for its classes of fault.
4. A request that an endpoint refused unprocessed is sent again up to RESENDS times, independently of `retries:`, and
   does not count as sent: first on any connection, then on a new one, which the end of an old connection cannot affect.
"""

from __future__ import annotations

from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.protocols.canon import Failure
from relayd.upstream.classify import Classification
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.fallback import fallback_class, next_fallback
from relayd.upstream.retry import FailedAttempt
from relayd.wire.response import ResponseHead

RESENDS = 2
_READ_FROM_BODIES = frozenset(("context_length", "refused_content", "any"))


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of an attempt that ended before its response was committed.

    `fault` is the catalogue error. `response` and `body` are the endpoint's error response, if any; `failure` is that
    error, or one from inside a body, as read by the endpoint's dialect. `sent`: the endpoint may have acted on the
    request. `replayable`: the whole request body can be sent again. `translated`: the request was sent in another
    dialect than the client's.
    """

    fault: ExchangeError
    classification: Classification
    response: ResponseHead | None = None
    body: bytes = b""
    failure: Failure | None = None
    sent: bool = True
    replayable: bool = True
    translated: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Make another attempt at the same target, `after_s` seconds from now."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """Continue with the next target, which is now `RetryLoop.target`."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """No other attempt follows: `result` becomes the response. None if no attempt was made."""

    result: AttemptResult | None


Decision = Retry | Fallback | Deliver


class RetryLoop:
    """The attempts of one exchange; owned by it.

    `attempts` counts the attempts at the current target, `tried` are their endpoints. `trail` has one entry per attempt
    for the record and X-Relayd-Attempts. `affinity` is the hash for consistent_hash. `resends` counts how often the
    request was sent again to the current target after it was refused unprocessed.
    """

    __slots__ = ("_target_index", "affinity", "attempts", "last", "resends", "target", "targets", "trail", "tried")

    def __init__(self, targets: tuple[Target, ...], affinity: int | None = None) -> None:
        self.targets = targets
        self._target_index = self.attempts = self.resends = 0
        self.target = targets[0]
        self.affinity = affinity
        self.tried: tuple[Endpoint, ...] = ()
        self.trail: tuple[str, ...] = ()
        self.last: AttemptResult | None = None

    def reads_error(self, classification: Classification) -> bool:
        """True if the decision may depend on the body of an error response."""
        if classification.fault or self.target.upstream.retries.retries_fault(classification):
            return True
        return any(target.on & _READ_FROM_BODIES for target in self.targets[self._target_index + 1 :])

    def attempt_started(self, endpoint: Endpoint) -> bool:
        """Note that an attempt at this endpoint has started. True if another one may follow it, provided that the body
        is replayable."""
        self.last = None
        self.attempts = attempts = self.attempts + 1
        self.tried += (endpoint,)
        return attempts < self.target.upstream.max_attempts or self._target_index + 1 < len(self.targets)

    def decide(
        self, result: AttemptResult, method: bytes, remaining_s: float | None, now_s: float, adapted: bool = False
    ) -> Decision:
        """Decide what follows this result. `remaining_s` is the time to the deadline of the exchange, None without one.
        `adapted`: the next request to this target is encoded differently, because of this error."""
        upstream, classification = self.target.upstream, result.classification
        self.last = result
        status = 0 if result.response is None else result.response.status
        self.trail = (*self.trail, f"{self.tried[-1].label} {status or result.fault.kind.code}")
        if adapted:
            return Retry(0.0)
        if result.fault.kind.code == "upstream_unprocessed" and result.replayable and self.resends < RESENDS:
            self.resends += 1
            self.attempts -= 1
            self.tried = self.tried[:-1]
            return Retry(0.0)
        case = FailedAttempt(
            attempt=self.attempts, method=method, classification=classification, sent=result.sent,
            replayable=result.replayable, another=upstream.has_another(self.tried, classification),
            remaining_s=remaining_s,
        )
        after_s = upstream.retries.decide(case, now_s)
        if after_s is not None:
            return Retry(after_s)
        if result.replayable and self._fall_back(fallback_class(classification, result.body)):
            return Fallback()
        return Deliver(result)

    def no_endpoint(self) -> Fallback | Deliver:
        """Decide what follows if the target has no available endpoint."""
        self.trail = (*self.trail, f"{self.target.upstream.name} no_endpoint")
        return Fallback() if self._fall_back("unavailable") else Deliver(self.last)

    def no_permit(self, reason: str, at_upstream: bool) -> Fallback | Deliver:
        """Decide what follows a gate's refusal; only a refusal of the upstream's own gate permits a fallback."""
        self.trail = (*self.trail, f"{self.target.upstream.name} {reason}")
        return Fallback() if at_upstream and self._fall_back("overloaded") else Deliver(None)

    def _fall_back(self, fault_class: str) -> bool:
        index = next_fallback(self.targets[1:], self._target_index, fault_class)
        if index is None:
            return False
        self._target_index = index + 1
        self.target = self.targets[self._target_index]
        self.attempts = self.resends = 0
        self.tried = ()
        return True
