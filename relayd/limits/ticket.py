"""A ticket: what one exchange holds of a gate, a permit or a place in its queue; and the refusal of one."""

from __future__ import annotations

import math
from collections.abc import Callable

# The states of a ticket. From each of the first two it goes on once; the last two are the end.
WAITING = "waiting"
GRANTED = "granted"
REFUSED = "refused"
LEFT = "left"

# Why one is refused; the words stand in metrics and in the log.
QUEUE_FULL = "queue_full"  # no permit free, no place free (or nobody may wait here)
QUEUE_TIMEOUT = "queue_timeout"  # waited as long as the gate allows
DEADLINE = "deadline"  # the exchange's own deadline has passed, or cannot be made
SHED = "shed"  # gave its place to a higher priority, or to a consumer that has fewer waiting
REASONS = (QUEUE_FULL, QUEUE_TIMEOUT, DEADLINE, SHED)

Room = Callable[[], bool]


class Refused(Exception):
    """No permit and no place. `retry_after_s` is when a permit would have come by what was measured so far."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s


def retry_after(seconds: float) -> str:
    """The value of a Retry-After field (RFC 9110 10.2.3): whole seconds, never 0, never more than a day."""
    return str(min(86400, max(1, math.ceil(seconds))))


class Ticket:
    """Made by a gate, owned by one exchange, which gives it back with `Gate.leave` whatever became of it.

    `since_s` is when it came into its present state: began to wait, or was granted.
    """

    __slots__ = ("since_s", "state", "waited_s", "who")

    def __init__(self, who: str, since_s: float) -> None:
        self.who = who
        self.state = GRANTED
        self.since_s = since_s
        self.waited_s = 0.0


class Waiter(Ticket):
    """A ticket that could not be granted at once; one of its callbacks is called, once, unless it leaves first."""

    __slots__ = ("deadline_s", "on_granted", "on_refused", "priority", "room")

    def __init__(
        self,
        who: str,
        priority: int,
        since_s: float,
        deadline_s: float | None,
        on_granted: OnGranted,
        on_refused: OnRefused,
        room: Room | None,
    ) -> None:
        self.who, self.priority, self.since_s, self.deadline_s = who, priority, since_s, deadline_s
        self.state = WAITING
        self.waited_s = 0.0
        self.on_granted, self.on_refused, self.room = on_granted, on_refused, room


OnGranted = Callable[[Ticket], None]
OnRefused = Callable[[Ticket, str, float], None]  # the ticket, the reason, seconds until trying again makes sense
