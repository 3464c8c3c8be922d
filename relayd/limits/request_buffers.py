"""A bound on the request bodies that all exchanges together hold in memory.

Rules:
1. FREE_BYTES of each body are not counted: they belong to the bound of its exchange, so that small bodies never wait.
2. A body of known length reserves all of it before it is read. Bodies that do not fit wait in the order in which they
   began, and give up after `queue_timeout_s`. A body that could never fit is refused at once.
3. A body of unknown length grows as it is read, and waits whenever there is no memory left for more of it.
4. A body that has begun is finished or refused. If all memory is held by bodies that wait for more, the newest of them
   are refused until the oldest can go on.
5. A slow client cannot keep memory from others. While somebody waits, a reservation that would not be filled within
   `queue_timeout_s` shrinks to what has arrived. Before a waiting body gives up, bodies of which less than STEP_BYTES
   arrived within `queue_timeout_s` are refused, the newest first.
6. Bytes that are already in memory (`settle`) are counted even if they exceed the bound: then nothing new fits.

The object decides and calls back; it knows no loop, no socket and no exchange.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from relayd import clock
from relayd.limits.service_time import UNKNOWN_S, ServiceTime

FREE_BYTES = 64 * 1024
STEP_BYTES = 64 * 1024

# Why a body is refused.
TIMED_OUT = "timed_out"  # waited for memory as long as it may
PREEMPTED = "preempted"  # gave its memory to an older body
TOO_SLOW = "too_slow"  # arrived too slowly while others waited
NEVER_FITS = "never_fits"  # is larger than the bound

READING, WAITING, KEPT, LEFT = range(4)

OnGranted = Callable[[], None]
OnRefused = Callable[[str, float], None]  # the reason, and in how many seconds to try again


class NeverFits(Exception):
    """The body is larger than the bound."""


class Claim:
    """The memory of one body; made by RequestBuffers, owned by an exchange, which gives it back with `leave`."""

    __slots__ = (
        "arrived", "granted_s", "held", "mark", "number", "on_granted", "on_refused", "progress_s", "since_s", "state",
        "wanted",
    )

    def __init__(self, number: int, on_granted: OnGranted, on_refused: OnRefused, now_s: float) -> None:
        self.number, self.on_granted, self.on_refused = number, on_granted, on_refused
        self.state = READING
        self.held = 0  # bytes that are counted for it
        self.wanted = 0  # bytes that it waits for, beyond those it holds
        self.arrived = self.mark = 0
        self.granted_s = self.progress_s = self.since_s = now_s


class RequestBuffers:
    """One per process; owned by the gateway."""

    __slots__ = (
        "_claims", "_number", "_serving", "_waiting", "hold_time", "limit", "now", "peak", "queue_timeout_s", "refused",
        "used", "waiting",
    )

    def __init__(
        self, limit: int = 256 * 1024 * 1024, queue_timeout_s: float = 10.0, now: Callable[[], float] = clock.monotonic
    ) -> None:
        """`limit` is in bytes; 0 means no bound."""
        self.limit, self.queue_timeout_s, self.now = limit, queue_timeout_s, now
        self.used = self.peak = 0
        self.waiting = 0  # claims that wait
        self.refused: dict[str, int] = {TIMED_OUT: 0, PREEMPTED: 0, TOO_SLOW: 0, NEVER_FITS: 0}
        self.hold_time = ServiceTime()
        self._claims: dict[int, Claim] = {}  # by number, so in the order in which they began
        self._waiting: list[tuple[int, Claim]] = []  # heap; entries of claims that do not wait any more are void
        self._number = 0
        self._serving = False

    def configure(self, limit: int, queue_timeout_s: float) -> None:
        """Take over new settings. Nothing that is held is given up."""
        self.limit, self.queue_timeout_s = limit, queue_timeout_s
        for claim in list(self._claims.values()):
            if claim.state == WAITING and limit and claim.held + claim.wanted > limit:
                self._refuse(claim, NEVER_FITS)
        self._serve()

    # ---- one body

    def open(self, length: int | None, on_granted: OnGranted, on_refused: OnRefused) -> Claim:
        """Begin to read a body of this length; None if it is unknown. Raises NeverFits.

        If the claim's state is WAITING, nothing may be read until `on_granted` is called. Either callback may also be
        called later: `on_granted` ends a wait, `on_refused` ends the claim.
        """
        size = 0 if length is None else max(0, length - FREE_BYTES)
        if self.limit and size > self.limit:
            self.refused[NEVER_FITS] += 1
            raise NeverFits
        self._number += 1
        claim = self._claims[self._number] = Claim(self._number, on_granted, on_refused, self.now())
        if size:
            self._ask(claim, size)
        return claim

    def grow(self, claim: Claim, arrived: int) -> bool:
        """So many bytes of the body have arrived by now. False: read no more until `on_granted`."""
        claim.arrived = arrived
        if arrived - claim.mark >= STEP_BYTES:
            claim.mark, claim.progress_s = arrived, self.now()
        if claim.state in (WAITING, LEFT):
            return False
        claim.state = READING
        missing = arrived - FREE_BYTES - claim.held
        if missing <= 0:
            return True
        if self.limit and claim.held + missing > self.limit:
            self._refuse(claim, NEVER_FITS)
            return False
        return self._ask(claim, missing)

    def settle(self, claim: Claim, size: int) -> None:
        """Exactly `size` bytes are kept from now on, whether they fit or not; nothing more is read for now."""
        if claim.state == LEFT:
            return
        if claim.state == WAITING:
            self.waiting -= 1
        claim.state, claim.wanted = KEPT, 0
        self._hold(claim, max(0, size - FREE_BYTES))
        self._serve()

    def leave(self, claim: Claim) -> None:
        """Give everything back. Calling it again changes nothing."""
        if claim.state != LEFT:
            if claim.held:
                self.hold_time.observe(self.now() - claim.granted_s)
            self._end(claim)
            self._serve()

    def has_room(self, size: int) -> bool:
        """Whether a body of this size would not have to wait."""
        return self._first() is None and self._fits(max(0, size - FREE_BYTES))

    def keep(self, size: int) -> Callable[[], None]:
        """Count bytes that are in memory already; what is returned gives them back."""
        claim = self.open(None, _nobody, _nobody_refused)
        self.settle(claim, size)
        return lambda: self.leave(claim)

    # ---- time

    def sweep(self, now_s: float) -> None:
        """Called by a timer: end deadlocks, slow bodies and waits that take too long."""
        head = self._first()
        if head is None:
            return
        timeout_s = self.queue_timeout_s
        self._shrink_reservations(now_s)
        self._serve()
        while (head := self._first()) is not None and self._all_wait():
            newest = max((one for one in self._claims.values() if one.held), key=lambda one: one.number)
            if newest is head:
                break
            self._refuse(newest, PREEMPTED)
            self._serve()
        while head is not None and timeout_s and now_s - head.since_s >= timeout_s:
            slow = self._slowest(now_s)
            self._refuse(head if slow is None else slow, TIMED_OUT if slow is None else TOO_SLOW)
            self._serve()
            head = self._first()
        late = [
            one for one in self._claims.values()
            if one.state == WAITING and timeout_s and now_s - one.since_s >= timeout_s
        ]
        for claim in late:
            if claim.state == WAITING:  # the callback of another one may have changed it
                self._refuse(claim, TIMED_OUT)

    def _shrink_reservations(self, now_s: float) -> None:
        """Take back what is reserved for bodies that would not arrive within the time that others wait."""
        for claim in self._claims.values():
            if claim.state != READING:
                continue
            there = max(0, claim.arrived - FREE_BYTES)
            spent_s = now_s - claim.granted_s
            left = claim.held - there
            if left > 0 and spent_s > 1.0 and left * spent_s > claim.arrived * self.queue_timeout_s:
                self._hold(claim, there)

    def _all_wait(self) -> bool:
        """Whether everything that is counted is held by bodies that wait for more."""
        return not any(one.held and one.state != WAITING for one in self._claims.values())

    def _slowest(self, now_s: float) -> Claim | None:
        """The newest body that is read and holds memory, and of which nearly nothing arrives."""
        for number in reversed(self._claims):
            claim = self._claims[number]
            if claim.state == READING and claim.held and now_s - claim.progress_s >= self.queue_timeout_s:
                return claim
        return None

    # ---- status

    def oldest_wait_s(self) -> float:
        """How long the body has waited that is next."""
        head = self._first()
        return 0.0 if head is None else self.now() - head.since_s

    def describe(self) -> dict[str, object]:
        """For the status."""
        return {
            "limit_bytes": self.limit, "used_bytes": self.used, "peak_bytes": self.peak, "bodies": len(self._claims),
            "waiting": self.waiting, "oldest_wait_s": round(self.oldest_wait_s(), 3), "refused": dict(self.refused),
        }

    # ---- within

    def _ask(self, claim: Claim, size: int) -> bool:
        """Count `size` bytes more for this claim, or let it wait. First come, first served."""
        head = self._first()
        if self._fits(size) and (head is None or head.number > claim.number):
            self._grant(claim, size)
            return True
        claim.state, claim.wanted, claim.since_s = WAITING, size, self.now()
        self.waiting += 1
        heapq.heappush(self._waiting, (claim.number, claim))
        return False

    def _fits(self, size: int) -> bool:
        return not self.limit or self.used + size <= self.limit

    def _grant(self, claim: Claim, size: int) -> None:
        now_s = self.now()
        if not claim.held:
            claim.granted_s = now_s
        claim.progress_s = now_s
        claim.state, claim.wanted = READING, 0
        self._hold(claim, claim.held + size)

    def _hold(self, claim: Claim, size: int) -> None:
        self.used += size - claim.held
        claim.held = size
        self.peak = max(self.peak, self.used)

    def _first(self) -> Claim | None:
        """Who waits and is next."""
        waiting = self._waiting
        while waiting and waiting[0][1].state != WAITING:
            heapq.heappop(waiting)
        return waiting[0][1] if waiting else None

    def _serve(self) -> None:
        """Let in those who wait, in their order, as long as they fit."""
        if self._serving:
            return  # the call under way goes on until nothing is left to do
        self._serving = True
        try:
            while (head := self._first()) is not None and self._fits(head.wanted):
                heapq.heappop(self._waiting)
                self.waiting -= 1
                self._grant(head, head.wanted)
                head.on_granted()
        finally:
            self._serving = False

    def _refuse(self, claim: Claim, reason: str) -> None:
        self.refused[reason] += 1
        on_refused = claim.on_refused
        self._end(claim)
        on_refused(reason, self.hold_time.mean_s if self.hold_time.count else UNKNOWN_S)

    def _end(self, claim: Claim) -> None:
        if claim.state == WAITING:
            self.waiting -= 1
        self._hold(claim, 0)
        claim.state, claim.wanted = LEFT, 0
        claim.on_granted, claim.on_refused = _nobody, _nobody_refused  # a void entry of the heap holds no exchange
        del self._claims[claim.number]


def _nobody() -> None:
    """Who has left is not called."""


def _nobody_refused(reason: str, retry_after_s: float) -> None:
    """Who has left is not called."""
