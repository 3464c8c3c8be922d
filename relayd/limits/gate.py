"""A gate: permits and the waiting queue in front of them, for one object that has `limits:`.

Laws:
1. The gate never grants more permits than its limit. A granted permit is never revoked, also if the limit is lowered.
2. A ticket returned in the state WAITING receives exactly one callback, later, unless it is released first. A ticket
   granted at once receives no callback, nor does a request refused by `Refused`.
3. A released permit or queue entry is passed on before `release` returns.
4. Callbacks are called when the gate is consistent, and may acquire and release. The outer call grants the permits that
   they free, so recursion does not grow with the queue. An exception of a callback propagates to the caller of the
   gate; the remaining requests are granted by the next call, at the latest by the sweep.
5. `has_capacity` is called often and must not have side effects. Pass the same callable (`upstream.has_capacity`) for
   the same resource: it is then called once for all requests that share it.

One event loop owns a gate. A gate survives reloads; `configure` sets new limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from relayd import clock
from relayd.dataclass import dataclass
from relayd.limits.permits import NO_PERMITS, Permits
from relayd.limits.queue import WaitingQueue
from relayd.limits.service_time import ServiceTime, margin
from relayd.limits.ticket import (
    DEADLINE,
    GRANTED,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    REASONS,
    REFUSED,
    RELEASED,
    SHED,
    WAITING,
    HasCapacity,
    OnGranted,
    OnRefused,
    Refused,
    Ticket,
    Waiter,
)


@dataclass(frozen=True, slots=True)
class GateLimits:
    """The settings of `limits:`. `requests` 0 means unlimited, `queue_timeout_s` 0 means no timeout. With `shared`,
    each instance has a part of `requests` (`Gate.set_share`)."""

    requests: int = 0
    queue: int = 0
    queue_timeout_s: float = 30.0
    ageing_s: float = 10.0
    shared: bool = False


UNLIMITED = GateLimits()


class Counts:
    """Counters of a gate since its creation, for metrics. Owned by the gate."""

    __slots__ = ("granted_at_once", "left_waiting", "most_waiting", "queued", "refused", "waited", "waited_total_s")

    def __init__(self) -> None:
        self.granted_at_once = 0  # granted without waiting
        self.queued = 0
        self.waited = 0  # granted after waiting
        self.waited_total_s = 0.0  # the sum of their waiting times
        self.left_waiting = 0  # released while waiting
        self.most_waiting = 0
        self.refused = dict.fromkeys(REASONS, 0)


class Gate:
    """Owned by the object that has the limits: one per upstream, endpoint, route or consumer."""

    __slots__ = (
        "__weakref__", "_last_change_s", "_now", "_permits", "_queue", "_serving", "counts", "limits", "name",
        "service_time", "share",
    )

    def __init__(
        self, name: str = "", limits: GateLimits = UNLIMITED, now: Callable[[], float] = clock.monotonic
    ) -> None:
        self.name = name
        self.limits = limits
        self.share: int | None = None  # of a shared limit; None if it is not known
        self.counts = Counts()
        self.service_time = ServiceTime()
        self._permits = Permits(limits.requests)
        self._queue = WaitingQueue(self._permits, limits.ageing_s)
        self._now = now
        self._serving = False
        self._last_change_s = now()  # when a permit was last acquired or released

    @property
    def in_flight(self) -> int:
        """The number of permits in use."""
        return self._permits.taken

    @property
    def depth(self) -> int:
        """The number of waiting requests."""
        return self._queue.depth

    @property
    def free(self) -> bool:
        """True if a permit is available, regardless of capacity elsewhere."""
        return self._permits.free

    def configure(self, limits: GateLimits) -> None:
        """Set new limits, effective immediately. New permits are granted; no permit and no queue entry is revoked."""
        self.limits = limits
        self._queue.ageing_s = limits.ageing_s
        self._apply_limit()

    def set_share(self, share: int | None) -> None:
        """Set the number of permits that this instance has of a shared limit. Without one it has all of them."""
        if share != self.share:
            self.share = share
            self._apply_limit()

    def _apply_limit(self) -> None:
        requests, share = self.limits.requests, self.share
        if requests and share is not None and self.limits.shared:
            requests = min(requests, share) or NO_PERMITS
        self._permits.limit = requests
        self._serve()

    def acquire(
        self,
        consumer: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        on_granted: OnGranted | None = None,
        on_refused: OnRefused | None = None,
        has_capacity: HasCapacity | None = None,
    ) -> Ticket:
        """Acquire a permit, or enqueue the request if both callbacks are given. Raises Refused.

        `deadline_s` is the time (of relayd.clock) at which waiting becomes useless. `has_capacity` returns true if the
        resource behind this gate can take this exchange now.
        """
        permits, queue, now_s = self._permits, self._queue, self._now()
        if not queue.depth:  # the common path
            limit = permits.limit
            if (not limit or permits.taken < limit) and (has_capacity is None or has_capacity()):
                self.counts.granted_at_once += 1
                self._last_change_s = now_s
                permits.acquire(consumer)
                return Ticket(consumer, now_s)
        else:
            if permits.free:
                self._serve()  # capacity may have appeared without `wake`; waiting requests go first
            if self._can_grant(has_capacity):
                return self._grant(consumer, now_s)
        if on_granted is None or on_refused is None:
            raise self._refuse(QUEUE_FULL, now_s)
        waiter = Waiter(consumer, priority, now_s, deadline_s, on_granted, on_refused, has_capacity)
        if queue.depth >= self.limits.queue:
            if self._exceeds_deadline(waiter):
                raise self._refuse(DEADLINE, now_s)
            evicted = queue.eviction_candidate(priority, consumer) if self.limits.queue else None
            if evicted is None:
                raise self._refuse(QUEUE_FULL, now_s)
            self._reject(evicted, SHED, now_s)
            if self._can_grant(has_capacity):  # the callback may have acquired or released
                return self._grant(consumer, now_s)
            if queue.depth >= self.limits.queue:
                raise self._refuse(QUEUE_FULL, now_s)
        elif self._exceeds_deadline(waiter):
            raise self._refuse(DEADLINE, now_s)
        queue.enqueue(waiter, now_s)
        counts = self.counts
        counts.queued += 1
        counts.most_waiting = max(counts.most_waiting, queue.depth)
        return waiter

    def try_acquire(self, consumer: str, has_capacity: HasCapacity | None = None) -> Ticket | None:
        """Acquire a permit if that needs no waiting. Returns None, without side effects, if it does."""
        permits = self._permits
        limit = permits.limit
        if self._queue.depth or (limit and permits.taken >= limit) or (has_capacity is not None and not has_capacity()):
            return None
        now_s = self._last_change_s = self._now()
        self.counts.granted_at_once += 1
        permits.acquire(consumer)
        return Ticket(consumer, now_s)

    def release(self, ticket: Ticket) -> None:
        """Return a permit or a queue entry. Further calls have no effect."""
        state = ticket.state
        if state == GRANTED:
            now_s = self._now()
            ticket.state = RELEASED
            self.service_time.observe(now_s - ticket.since_s)
            self._permits.release(ticket.consumer)
            self._last_change_s = now_s
            queue = self._queue
            if queue.depth:
                queue.reprioritise(ticket.consumer)
                self._serve()
        elif state == WAITING and isinstance(ticket, Waiter):
            ticket.state = RELEASED
            ticket.waited_s = self._now() - ticket.since_s
            self.counts.left_waiting += 1
            self._queue.remove(ticket)

    def sweep(self, now_s: float) -> None:
        """Refuse requests that waited too long, then check for capacity again. Called by a timer."""
        timeout_s = self.limits.queue_timeout_s
        late = []
        for waiter in self._queue:
            if timeout_s and now_s - waiter.since_s >= timeout_s:
                late.append((waiter, QUEUE_TIMEOUT))
            elif waiter.deadline_s is not None and now_s >= waiter.deadline_s:
                late.append((waiter, DEADLINE))
        for waiter, reason in late:
            if waiter.state == WAITING:  # a callback of another request may have changed it
                self._reject(waiter, reason, now_s)
        if self._queue.depth:
            self._serve()

    def wake(self) -> None:
        """Grant waiting requests after capacity elsewhere became available."""
        if self._queue.depth:
            self._serve()

    def position(self, ticket: Ticket) -> int:
        """The ticket's queue position if no request arrives or leaves; 1 is the next, 0 if the ticket does not wait."""
        if ticket.state != WAITING or not isinstance(ticket, Waiter):
            return 0
        return self._queue.position(ticket, self._now())

    def wait_s(self, position: int) -> float:
        """The estimated remaining wait at this queue position, in seconds; 0 if no wait is expected."""
        permits = self._permits
        taken = permits.taken
        if not taken or position <= 0:
            return 0.0
        return self.service_time.wait_s(position + permits.over, taken, self._now() - self._last_change_s)

    def oldest_wait_s(self) -> float:
        """The waiting time of the request that has waited longest, in seconds."""
        if not self._queue.depth:
            return 0.0
        return self._now() - min(waiter.since_s for waiter in self._queue)

    def describe(self) -> dict[str, object]:
        """The gate's state for the admin application."""
        limits, depth = self.limits, self._queue.depth
        return {
            "name": self.name,
            "requests": limits.requests,
            "share": self.share if limits.shared else None,
            "in_flight": self._permits.taken,
            "queue": limits.queue,
            "depth": depth,
            "queue_timeout_s": limits.queue_timeout_s,
            "oldest_wait_s": round(self.oldest_wait_s(), 3),
            "service_time_s": round(self.service_time.mean_s, 3),
            "next_wait_s": round(self.wait_s(depth + 1), 3) if depth or not self._permits.free else 0.0,
            "in_flight_of": dict(self._permits.held),
            "waiting_of": self._queue.waiting_by_consumer(),
        }

    def waiters(self, most: int) -> list[dict[str, object]]:
        """The first `most` waiting requests, in the order in which they are to be granted."""
        now_s = self._now()
        turns = enumerate(itertools.islice(self._queue.in_order(now_s), most), 1)
        return [
            {
                "gate": self.name, "place": position, "consumer": one.consumer, "priority": one.priority,
                "waited_s": round(now_s - one.since_s, 3), "expected_s": round(self.wait_s(position), 3),
            }
            for position, one in turns
        ]

    def _can_grant(self, has_capacity: HasCapacity | None) -> bool:
        """True if a new request can be granted immediately.

        After `_serve`, a request that still waits although a permit is free has no capacity. While `_serve` runs, new
        requests queue behind those that are still to be granted.
        """
        if not self._permits.free or (self._serving and self._queue.depth):
            return False
        return has_capacity is None or has_capacity()

    def _grant(self, consumer: str, now_s: float) -> Ticket:
        self.counts.granted_at_once += 1
        self._permits.acquire(consumer)
        self._last_change_s = now_s
        if self._queue.depth:
            self._queue.reprioritise(consumer)
        return Ticket(consumer, now_s)

    def _exceeds_deadline(self, waiter: Waiter) -> bool:
        """True if the estimated wait, less its margin of error, exceeds the queue timeout or the request's deadline."""
        now_s, timeout_s = waiter.since_s, self.limits.queue_timeout_s
        allowed_s = timeout_s or float("inf")
        if waiter.deadline_s is not None:
            if waiter.deadline_s <= now_s:
                return True
            allowed_s = min(allowed_s, waiter.deadline_s - now_s)
        queue = self._queue
        if not self.service_time.known or not self._wait_exceeds(queue.depth + 1, allowed_s):
            return False
        # Cheap check first: the consumer's own flow precedes it in any case. The whole order costs more to compute.
        if self._wait_exceeds(queue.waiting(waiter.consumer, waiter.priority) + 1, allowed_s):
            return True
        position = queue.position_of_newcomer(waiter.consumer, waiter.priority, waiter.has_capacity, now_s)
        return self._wait_exceeds(position, allowed_s)

    def _wait_exceeds(self, position: int, allowed_s: float) -> bool:
        return self.wait_s(position) * (1 - margin(position)) > allowed_s

    def _serve(self) -> None:
        """Grant permits while permits, waiting requests and capacity last."""
        if self._serving:
            return  # the outer call continues until nothing is left to do
        self._serving = True
        queue, permits, counts = self._queue, self._permits, self.counts
        try:
            while queue.depth and permits.free:
                now_s = self._now()
                waiter = queue.first(now_s)
                if waiter is None:
                    return
                permits.acquire(waiter.consumer)
                queue.dequeue(waiter, now_s)
                self._last_change_s = now_s
                waiter.state = GRANTED
                waiter.waited_s, waiter.since_s = now_s - waiter.since_s, now_s
                counts.waited += 1
                counts.waited_total_s += waiter.waited_s
                waiter.on_granted(waiter)
        finally:
            self._serving = False

    def _reject(self, waiter: Waiter, reason: str, now_s: float) -> None:
        """Refuse a waiting request."""
        self._queue.remove(waiter)
        waiter.state = REFUSED
        waiter.waited_s = now_s - waiter.since_s
        waiter.on_refused(waiter, reason, self._refuse(reason, now_s).retry_after_s)

    def _refuse(self, reason: str, now_s: float) -> Refused:
        """Count a refusal. Its Retry-After is the time until the requests that wait now have been granted."""
        self.counts.refused[reason] += 1
        return Refused(reason, self.wait_s(self._queue.depth + 1))
