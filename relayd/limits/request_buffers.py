"""The bound on the memory of all buffered request bodies together.

Rules:
1. FREE_BYTES of each body are not counted, so small bodies never wait. They belong to the bound of the exchange.
2. A body of known length reserves its whole size before it is read. Bodies that do not fit wait in order of arrival and
   are refused after `queue_timeout_s`. A body larger than the bound is refused immediately.
3. A body of unknown length grows while it is read, and waits whenever no memory is left for it.
4. A body whose reading has begun is completed or refused. If bodies that wait for more hold all memory, the newest of
   them are refused until the oldest can continue.
5. A slow client cannot withhold memory from others. While a body waits, a reservation that would not be filled within
   `queue_timeout_s` shrinks to the bytes that have arrived. Before a waiting body is refused, bodies that received less
   than STEP_BYTES within `queue_timeout_s` are refused, newest first.
6. Bytes that are already in memory (`settle`) are counted even if they exceed the bound; then nothing new fits.

The object decides and calls back; it has no reference to an event loop, a socket or an exchange.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from relayd import clock
from relayd.limits.service_time import UNKNOWN_S, ServiceTime

FREE_BYTES = 64 * 1024
STEP_BYTES = 64 * 1024

# The reasons of a refusal.
TIMED_OUT = "timed_out"  # waited for memory for `queue_timeout_s`
PREEMPTED = "preempted"  # refused so that an older body can continue
TOO_SLOW = "too_slow"  # arrived too slowly while others waited
NEVER_FITS = "never_fits"  # larger than the bound

READING, WAITING, RETAINED, RELEASED = range(4)

OnGranted = Callable[[], None]
OnRefused = Callable[[str, float], None]  # reason, seconds for Retry-After


class NeverFits(Exception):
    """The body is larger than the bound."""


class Claim:
    """The memory of one body. Created by RequestBuffers, owned by an exchange, which returns it with `release`."""

    __slots__ = (
        "arrived", "granted_s", "held", "mark", "number", "on_granted", "on_refused", "progress_s", "since_s", "state",
        "wanted",
    )

    def __init__(self, number: int, on_granted: OnGranted, on_refused: OnRefused, now_s: float) -> None:
        self.number, self.on_granted, self.on_refused = number, on_granted, on_refused
        self.state = READING
        self.held = 0  # bytes counted for it
        self.wanted = 0  # further bytes that it waits for
        self.arrived = self.mark = 0
        self.granted_s = self.progress_s = self.since_s = now_s


class RequestBuffers:
    """One per process; owned by the gateway."""

    __slots__ = (
        "_claims", "_number", "_serving", "_waiting", "hold_time", "limit", "now", "peak", "queue_timeout_s",
        "refused", "used", "waiting",
    )

    def __init__(
        self, limit: int = 256 * 1024 * 1024, queue_timeout_s: float = 10.0, now: Callable[[], float] = clock.monotonic
    ) -> None:
        """`limit` is in bytes; 0 means unbounded."""
        self.limit, self.queue_timeout_s, self.now = limit, queue_timeout_s, now
        self.used = self.peak = 0
        self.waiting = 0  # number of waiting claims
        self.refused: dict[str, int] = {TIMED_OUT: 0, PREEMPTED: 0, TOO_SLOW: 0, NEVER_FITS: 0}
        self.hold_time = ServiceTime()
        self._claims: dict[int, Claim] = {}  # by number, in order of creation
        self._waiting: list[tuple[int, Claim]] = []  # heap; entries of claims that no longer wait are stale
        self._number = 0
        self._serving = False

    def configure(self, limit: int, queue_timeout_s: float) -> None:
        """Apply new settings. Memory in use is not released."""
        self.limit, self.queue_timeout_s = limit, queue_timeout_s
        for claim in list(self._claims.values()):
            if claim.state == WAITING and limit and claim.held + claim.wanted > limit:
                self._refuse(claim, NEVER_FITS)
        self._serve()

    # ---- one body

    def open(self, length: int | None, on_granted: OnGranted, on_refused: OnRefused) -> Claim:
        """Create the claim of a body of this length; None if the length is unknown. Raises NeverFits.

        If the claim's state is WAITING, the body must not be read until `on_granted` is called. Both callbacks may also
        be called later: `on_granted` ends a wait, `on_refused` ends the claim.
        """
        size = 0 if length is None else max(0, length - FREE_BYTES)
        if self.limit and size > self.limit:
            self.refused[NEVER_FITS] += 1
            raise NeverFits
        self._number += 1
        claim = self._claims[self._number] = Claim(self._number, on_granted, on_refused, self.now())
        if size:
            self._reserve(claim, size)
        return claim

    def grow(self, claim: Claim, arrived: int) -> bool:
        """Record that `arrived` bytes of the body have been read. If False, stop reading until `on_granted`."""
        claim.arrived = arrived
        if arrived - claim.mark >= STEP_BYTES:
            claim.mark, claim.progress_s = arrived, self.now()
        if claim.state in (WAITING, RELEASED):
            return False
        claim.state = READING
        missing = arrived - FREE_BYTES - claim.held
        if missing <= 0:
            return True
        if self.limit and claim.held + missing > self.limit:
            self._refuse(claim, NEVER_FITS)
            return False
        return self._reserve(claim, missing)

    def settle(self, claim: Claim, size: int) -> None:
        """Count exactly `size` bytes from now on, whether they fit or not. Reading stops for now."""
        if claim.state == RELEASED:
            return
        if claim.state == WAITING:
            self.waiting -= 1
        claim.state, claim.wanted = RETAINED, 0
        self._hold(claim, max(0, size - FREE_BYTES))
        self._serve()

    def release(self, claim: Claim) -> None:
        """Release all memory of a claim. Further calls have no effect."""
        if claim.state != RELEASED:
            if claim.held:
                self.hold_time.observe(self.now() - claim.granted_s)
            self._end(claim)
            self._serve()

    def has_capacity(self, size: int) -> bool:
        """True if a body of this size would not have to wait."""
        return self._next_waiting() is None and self._fits(max(0, size - FREE_BYTES))

    def retain(self, size: int) -> Callable[[], None]:
        """Count bytes that are already in memory. The returned function releases them."""
        claim = self.open(None, _ignore_granted, _ignore_refused)
        self.settle(claim, size)
        return lambda: self.release(claim)

    # ---- time

    def sweep(self, now_s: float) -> None:
        """Resolve deadlocks, refuse slow bodies and end waits that take too long. Called by a timer."""
        head = self._next_waiting()
        if head is None:
            return
        timeout_s = self.queue_timeout_s
        self._shrink_reservations(now_s)
        self._serve()
        while (head := self._next_waiting()) is not None and self._all_wait():
            newest = max((one for one in self._claims.values() if one.held), key=lambda one: one.number)
            if newest is head:
                break
            self._refuse(newest, PREEMPTED)
            self._serve()
        while head is not None and timeout_s and now_s - head.since_s >= timeout_s:
            slow = self._slowest(now_s)
            self._refuse(head if slow is None else slow, TIMED_OUT if slow is None else TOO_SLOW)
            self._serve()
            head = self._next_waiting()
        late = [
            one for one in self._claims.values()
            if one.state == WAITING and timeout_s and now_s - one.since_s >= timeout_s
        ]
        for claim in late:
            if claim.state == WAITING:  # a callback of another claim may have changed it
                self._refuse(claim, TIMED_OUT)

    def _shrink_reservations(self, now_s: float) -> None:
        """Shrink the reservations of bodies that would not arrive within `queue_timeout_s`."""
        for claim in self._claims.values():
            if claim.state != READING:
                continue
            arrived_counted = max(0, claim.arrived - FREE_BYTES)
            spent_s = now_s - claim.granted_s
            left = claim.held - arrived_counted
            if left > 0 and spent_s > 1.0 and left * spent_s > claim.arrived * self.queue_timeout_s:
                self._hold(claim, arrived_counted)

    def _all_wait(self) -> bool:
        """True if all counted memory belongs to bodies that wait for more."""
        return not any(one.held and one.state != WAITING for one in self._claims.values())

    def _slowest(self, now_s: float) -> Claim | None:
        """The newest body that is being read, holds memory and makes nearly no progress."""
        for number in reversed(self._claims):
            claim = self._claims[number]
            if claim.state == READING and claim.held and now_s - claim.progress_s >= self.queue_timeout_s:
                return claim
        return None

    # ---- status

    def oldest_wait_s(self) -> float:
        """The waiting time of the next body, in seconds."""
        head = self._next_waiting()
        return 0.0 if head is None else self.now() - head.since_s

    def describe(self) -> dict[str, object]:
        """The state for the admin application."""
        return {
            "limit_bytes": self.limit, "used_bytes": self.used, "peak_bytes": self.peak, "bodies": len(self._claims),
            "waiting": self.waiting, "oldest_wait_s": round(self.oldest_wait_s(), 3), "refused": dict(self.refused),
        }

    # ---- within

    def _reserve(self, claim: Claim, size: int) -> bool:
        """Count `size` more bytes for this claim, or let it wait. First come, first served."""
        head = self._next_waiting()
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

    def _next_waiting(self) -> Claim | None:
        """The waiting claim to grant next."""
        waiting = self._waiting
        while waiting and waiting[0][1].state != WAITING:
            heapq.heappop(waiting)
        return waiting[0][1] if waiting else None

    def _serve(self) -> None:
        """Grant waiting claims in order while they fit."""
        if self._serving:
            return  # the outer call continues until nothing is left to do
        self._serving = True
        try:
            while (head := self._next_waiting()) is not None and self._fits(head.wanted):
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
        claim.state, claim.wanted = RELEASED, 0
        # A stale heap entry must not keep the exchange.
        claim.on_granted, claim.on_refused = _ignore_granted, _ignore_refused
        del self._claims[claim.number]


def _ignore_granted() -> None:
    """A released claim has no callbacks."""


def _ignore_refused(reason: str, retry_after_s: float) -> None:
    """A released claim has no callbacks."""
