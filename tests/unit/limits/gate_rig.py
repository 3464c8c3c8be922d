"""Shared by the tests of the gate: a manual clock, and a rig that records every callback."""

from __future__ import annotations

from collections.abc import Callable

from relayd.limits.gate import Gate, GateLimits
from relayd.limits.ticket import HasCapacity, Ticket


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A gate, its clock, and what it has reported."""

    def __init__(
        self, requests: int = 1, queue: int = 10, queue_timeout_s: float = 0.0, ageing_s: float = 10.0
    ) -> None:
        self.clock = Hand()
        self.gate = Gate("g", GateLimits(requests, queue, queue_timeout_s, ageing_s), self.clock)
        self.granted: list[Ticket] = []
        self.refused: list[tuple[Ticket, str, float]] = []
        self.then: Callable[[Ticket], None] = lambda ticket: None

    def acquire(
        self, consumer: str = "", priority: int = 0, deadline_s: float | None = None, has_capacity: HasCapacity | None = None
    ) -> Ticket:
        return self.gate.acquire(consumer, priority, deadline_s, self.on_granted, self.on_refused, has_capacity)

    def on_granted(self, ticket: Ticket) -> None:
        self.granted.append(ticket)
        self.then(ticket)

    def on_refused(self, ticket: Ticket, reason: str, retry_after_s: float) -> None:
        self.refused.append((ticket, reason, retry_after_s))
        self.then(ticket)
