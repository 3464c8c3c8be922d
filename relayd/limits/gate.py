"""A gate: permits and the queue before them, for one thing that has `limits:`.

Laws:
1. Never more permits than the limit are granted; what was granted is never revoked, also when the limit is lowered.
2. A ticket that is returned waiting gets exactly one callback, later, unless it leaves first; one that is granted at
   once, or refused by `Refused`, gets none.
3. A permit or place given back is passed on before `leave` returns.
4. Callbacks are called when the gate is consistent. They may enter and leave this gate; a turn that this frees is
   given by the call that is under way, so nothing recurs however long the queue is. What one raises goes on to whoever
   called the gate; the others get their turns with the next call, at the latest with the sweep.
5. `room` is asked, often, and changes nothing. Give the same callable (`upstream.has_room`) for the same question: it
   is asked once for all who share it.

One loop owns a gate; it lives on over reloads and is told new limits by `configure`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from relayd import clock
from relayd.limits.permits import Permits
from relayd.limits.queue import WaitingQueue
from relayd.limits.service_time import ServiceTime, doubt
from relayd.limits.ticket import (
    DEADLINE,
    GRANTED,
    LEFT,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    REASONS,
    REFUSED,
    SHED,
    WAITING,
    OnGranted,
    OnRefused,
    Refused,
    Room,
    Ticket,
    Waiter,
)


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What `limits:` says. 0 requests means no limit, 0 queue_timeout_s as long as it takes."""

    requests: int = 0
    queue: int = 0
    queue_timeout_s: float = 30.0
    ageing_s: float = 10.0


UNLIMITED = GateLimits()


class Counts:
    """What a gate has done since it was made, for metrics; owned by the gate, read by everybody."""

    __slots__ = ("at_once", "left_waiting", "most_waiting", "queued", "refused", "waited", "waited_total_s")

    def __init__(self) -> None:
        self.at_once = 0  # granted without waiting
        self.queued = 0  # had to wait
        self.waited = 0  # granted after waiting
        self.waited_total_s = 0.0  # how long those waited, in all
        self.left_waiting = 0  # gave up their place by themselves
        self.most_waiting = 0
        self.refused = dict.fromkeys(REASONS, 0)


class Gate:
    """Owned by the thing that has the limits; one per upstream, endpoint, route or consumer."""

    __slots__ = (
        "__weakref__", "_now", "_permits", "_queue", "_serving", "_still_s", "counts", "limits", "name", "service_time",
    )

    def __init__(
        self, name: str = "", limits: GateLimits = UNLIMITED, now: Callable[[], float] = clock.monotonic
    ) -> None:
        self.name = name
        self.limits = limits
        self.counts = Counts()
        self.service_time = ServiceTime()
        self._permits = Permits(limits.requests)
        self._queue = WaitingQueue(self._permits, limits.ageing_s)
        self._now = now
        self._serving = False
        self._still_s = now()  # when a permit was last taken or given back

    @property
    def in_flight(self) -> int:
        """Permits that are held."""
        return self._permits.taken

    @property
    def depth(self) -> int:
        """How many wait."""
        return self._queue.depth

    @property
    def free(self) -> bool:
        """Whether a permit could be taken at this moment, room aside."""
        return self._permits.free

    def configure(self, limits: GateLimits) -> None:
        """New limits, in force at once: what they make free is granted, nothing is revoked, nobody loses a place."""
        self.limits = limits
        self._permits.limit = limits.requests
        self._queue.ageing_s = limits.ageing_s
        self._serve()

    def enter(
        self,
        who: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        on_granted: OnGranted | None = None,
        on_refused: OnRefused | None = None,
        room: Room | None = None,
    ) -> Ticket:
        """A permit, or a place in the queue for who gives callbacks. Raises Refused.

        `deadline_s` is the moment (of relayd.clock) at which waiting has no more sense; `room` says whether what is
        behind this gate could take this exchange now.
        """
        permits, queue, now_s = self._permits, self._queue, self._now()
        if not queue.depth:  # the common path
            limit = permits.limit
            if (not limit or permits.taken < limit) and (room is None or room()):
                self.counts.at_once += 1
                self._still_s = now_s
                permits.take(who)
                return Ticket(who, now_s)
        else:
            if permits.free:
                self._serve()  # room may have come without a word: nobody is overtaken
            if self._open(room):
                return self._grant(who, now_s)
        if on_granted is None or on_refused is None:
            raise self._refuse(QUEUE_FULL, now_s)
        waiter = Waiter(who, priority, now_s, deadline_s, on_granted, on_refused, room)
        if queue.depth >= self.limits.queue:
            if self._hopeless(waiter):
                raise self._refuse(DEADLINE, now_s)
            yielding = queue.last_to_come(priority, who) if self.limits.queue else None
            if yielding is None:
                raise self._refuse(QUEUE_FULL, now_s)
            self._turn_away(yielding, SHED, now_s)
            if self._open(room):  # its callback may have left or entered
                return self._grant(who, now_s)
            if queue.depth >= self.limits.queue:
                raise self._refuse(QUEUE_FULL, now_s)
        elif self._hopeless(waiter):
            raise self._refuse(DEADLINE, now_s)
        queue.join(waiter, now_s)
        counts = self.counts
        counts.queued += 1
        counts.most_waiting = max(counts.most_waiting, queue.depth)
        return waiter

    def at_once(self, who: str, room: Room | None = None) -> Ticket | None:
        """A permit for one who would not have to wait for it; None changes nothing."""
        permits = self._permits
        limit = permits.limit
        if self._queue.depth or (limit and permits.taken >= limit) or (room is not None and not room()):
            return None
        now_s = self._still_s = self._now()
        self.counts.at_once += 1
        permits.take(who)
        return Ticket(who, now_s)

    def leave(self, ticket: Ticket) -> None:
        """Give back a permit or a place. Calling it again changes nothing."""
        state = ticket.state
        if state == GRANTED:
            now_s = self._now()
            ticket.state = LEFT
            self.service_time.observe(now_s - ticket.since_s)
            self._permits.give(ticket.who)
            self._still_s = now_s
            queue = self._queue
            if queue.depth:
                queue.weigh(ticket.who)
                self._serve()
        elif state == WAITING and isinstance(ticket, Waiter):
            ticket.state = LEFT
            ticket.waited_s = self._now() - ticket.since_s
            self.counts.left_waiting += 1
            self._queue.remove(ticket)

    def sweep(self, now_s: float) -> None:
        """Refuse those that waited too long, and look once more whether there is room. Called by a timer."""
        timeout_s = self.limits.queue_timeout_s
        late = []
        for waiter in self._queue:
            if timeout_s and now_s - waiter.since_s >= timeout_s:
                late.append((waiter, QUEUE_TIMEOUT))
            elif waiter.deadline_s is not None and now_s >= waiter.deadline_s:
                late.append((waiter, DEADLINE))
        for waiter, reason in late:
            if waiter.state == WAITING:  # an earlier one's callback may have moved it
                self._turn_away(waiter, reason, now_s)
        if self._queue.depth:
            self._serve()

    def wake(self) -> None:
        """There is room elsewhere: let in who can go now."""
        if self._queue.depth:
            self._serve()

    def place(self, ticket: Ticket) -> int:
        """Which turn is this ticket's if nobody comes or leaves, 1 being the next; 0 when it does not wait."""
        if ticket.state != WAITING or not isinstance(ticket, Waiter):
            return 0
        return self._queue.place(ticket, self._now())

    def wait_s(self, place: int) -> float:
        """How long the one at this place has yet to wait, by what was measured; 0 when that is nothing."""
        permits = self._permits
        taken = permits.taken
        if not taken or place <= 0:
            return 0.0
        return self.service_time.wait_s(place + permits.over, taken, self._now() - self._still_s)

    def oldest_wait_s(self) -> float:
        """How long the one that waits longest has waited."""
        if not self._queue.depth:
            return 0.0
        return self._now() - min(waiter.since_s for waiter in self._queue)

    def describe(self) -> dict[str, object]:
        """What status shows."""
        limits, depth = self.limits, self._queue.depth
        return {
            "name": self.name,
            "requests": limits.requests,
            "in_flight": self._permits.taken,
            "queue": limits.queue,
            "depth": depth,
            "queue_timeout_s": limits.queue_timeout_s,
            "oldest_wait_s": round(self.oldest_wait_s(), 3),
            "service_time_s": round(self.service_time.mean_s, 3),
            "next_wait_s": round(self.wait_s(depth + 1), 3) if depth or not self._permits.free else 0.0,
            "in_flight_of": dict(self._permits.held),
            "waiting_of": self._queue.waiting_of(),
        }

    def waiters(self, most: int) -> list[dict[str, object]]:
        """Who waits, in the order in which their turns are to come, at most so many of them."""
        now_s = self._now()
        turns = enumerate(itertools.islice(self._queue.in_order(now_s), most), 1)
        return [
            {
                "gate": self.name, "place": place, "consumer": one.who, "priority": one.priority,
                "waited_s": round(now_s - one.since_s, 3), "expected_s": round(self.wait_s(place), 3),
            }
            for place, one in turns
        ]

    def _open(self, room: Room | None) -> bool:
        """Whether a newcomer may go on at once. After `_serve`, whoever still waits beside a free permit has no room;
        while it is under way, a newcomer stands behind those whose turn is still to come."""
        if not self._permits.free or (self._serving and self._queue.depth):
            return False
        return room is None or room()

    def _grant(self, who: str, now_s: float) -> Ticket:
        self.counts.at_once += 1
        self._permits.take(who)
        self._still_s = now_s
        if self._queue.depth:
            self._queue.weigh(who)
        return Ticket(who, now_s)

    def _hopeless(self, waiter: Waiter) -> bool:
        """Whether this one would, by what was measured and beyond its doubt, wait longer than it may."""
        now_s, timeout_s = waiter.since_s, self.limits.queue_timeout_s
        allowed_s = timeout_s or float("inf")
        if waiter.deadline_s is not None:
            if waiter.deadline_s <= now_s:
                return True
            allowed_s = min(allowed_s, waiter.deadline_s - now_s)
        queue = self._queue
        if not self.service_time.known or not self._too_long(queue.depth + 1, allowed_s):
            return False
        # Its own line is before it at any rate; the whole order costs more and is only looked at when it decides.
        if self._too_long(queue.waiting(waiter.who, waiter.priority) + 1, allowed_s):
            return True
        place = queue.place_of_newcomer(waiter.who, waiter.priority, waiter.room, now_s)
        return self._too_long(place, allowed_s)

    def _too_long(self, place: int, allowed_s: float) -> bool:
        return self.wait_s(place) * (1 - doubt(place)) > allowed_s

    def _serve(self) -> None:
        """Give turns as long as there are permits, waiters and room."""
        if self._serving:
            return  # the call under way goes on until nothing is left to do
        self._serving = True
        queue, permits, counts = self._queue, self._permits, self.counts
        try:
            while queue.depth and permits.free:
                now_s = self._now()
                waiter = queue.first(now_s)
                if waiter is None:
                    return
                permits.take(waiter.who)
                queue.take(waiter, now_s)
                self._still_s = now_s
                waiter.state = GRANTED
                waiter.waited_s, waiter.since_s = now_s - waiter.since_s, now_s
                counts.waited += 1
                counts.waited_total_s += waiter.waited_s
                waiter.on_granted(waiter)
        finally:
            self._serving = False

    def _turn_away(self, waiter: Waiter, reason: str, now_s: float) -> None:
        """Refuse one that waits."""
        self._queue.remove(waiter)
        waiter.state = REFUSED
        waiter.waited_s = now_s - waiter.since_s
        waiter.on_refused(waiter, reason, self._refuse(reason, now_s).retry_after_s)

    def _refuse(self, reason: str, now_s: float) -> Refused:
        """Count a refusal. Whoever comes back when those who wait now were served finds a place."""
        self.counts.refused[reason] += 1
        return Refused(reason, self.wait_s(self._queue.depth + 1))
