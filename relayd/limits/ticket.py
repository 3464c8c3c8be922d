"""A ticket: the permit or the queue entry that one exchange has at a gate; and `Refused`, raised without either."""

from __future__ import annotations

import math
from collections.abc import Callable

# The states of a ticket. WAITING and GRANTED are left once; REFUSED and RELEASED are final.
WAITING = "waiting"
GRANTED = "granted"
REFUSED = "refused"
RELEASED = "left"

# The reasons of a refusal, as shown in metrics and in the log.
QUEUE_FULL = "queue_full"  # no permit is available and the queue is full, or the request cannot wait
QUEUE_TIMEOUT = "queue_timeout"  # the request waited for as long as the gate allows
DEADLINE = "deadline"  # the exchange's own deadline has passed, or cannot be met
SHED = "shed"  # evicted for a request of higher priority, or of a consumer with fewer waiting requests
REASONS = (QUEUE_FULL, QUEUE_TIMEOUT, DEADLINE, SHED)

HasCapacity = Callable[[], bool]


class Refused(Exception):
    """No permit and no queue entry. `retry_after_s` is the estimated time until a permit would have been granted."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s


def retry_after(seconds: float) -> str:
    """The value of a Retry-After field (RFC 9110 10.2.3): whole seconds, at least 1, at most one day."""
    return str(min(86400, max(1, math.ceil(seconds))))


class Ticket:
    """Created by a gate and owned by one exchange, which returns it with `Gate.release` in every state.

    `since_s` is when the ticket entered its present state, WAITING or GRANTED (monotonic seconds).
    """

    __slots__ = ("consumer", "since_s", "state", "waited_s")

    def __init__(self, consumer: str, since_s: float) -> None:
        self.consumer = consumer
        self.state = GRANTED
        self.since_s = since_s
        self.waited_s = 0.0


class Waiter(Ticket):
    """A queued ticket. Exactly one of its callbacks is called, once, unless the ticket is released first."""

    __slots__ = ("deadline_s", "has_capacity", "on_granted", "on_refused", "priority")

    def __init__(
        self,
        consumer: str,
        priority: int,
        since_s: float,
        deadline_s: float | None,
        on_granted: OnGranted,
        on_refused: OnRefused,
        has_capacity: HasCapacity | None,
    ) -> None:
        self.consumer, self.priority, self.since_s, self.deadline_s = consumer, priority, since_s, deadline_s
        self.state = WAITING
        self.waited_s = 0.0
        self.on_granted, self.on_refused, self.has_capacity = on_granted, on_refused, has_capacity


OnGranted = Callable[[Ticket], None]
OnRefused = Callable[[Ticket, str, float], None]  # ticket, reason, seconds for Retry-After
