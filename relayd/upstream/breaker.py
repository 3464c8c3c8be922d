"""A circuit breaker stops sending requests to a failing endpoint: closed, open, half_open, as a table.

Laws:
1. Only outcomes caused by the endpoint are counted (classify.py decides). Time and random numbers are passed in, as
   `now_s` and `chance`.
2. While half_open, at most `probes` exchanges hold a permit. A permit is released exactly once, by its number. The
   number of an earlier round has no effect, so that no order of resets and completions can leak or duplicate a permit.
3. An exchange that began before the breaker opened is no evidence of the endpoint's present state: an outcome without a
   permit counts only while closed.
4. Each opening without a lasting recovery in between doubles the open time, up to a maximum. Jitter shortens it by up
   to a fifth, so that the breakers of many instances do not probe at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayd.upstream.spec import BreakerSpec

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
STATES = (CLOSED, OPEN, HALF_OPEN)

# Events and the state that each leads to. Rows are complete: every state handles every event.
#   tripped  too many failures were counted        waited  the open time is over
#   proven   enough probes succeeded               failed  a probe failed
#   forced   opened by an operator until reset    reset   closed by an operator
#   joined   opened by another instance           freed   closed by another instance
EVENTS = ("tripped", "waited", "proven", "failed", "forced", "reset", "joined", "freed")
TABLE: dict[str, dict[str, str]] = {
    CLOSED: {
        "tripped": OPEN, "waited": CLOSED, "proven": CLOSED, "failed": CLOSED, "forced": OPEN, "reset": CLOSED,
        "joined": OPEN, "freed": CLOSED,
    },
    OPEN: {
        "tripped": OPEN, "waited": HALF_OPEN, "proven": OPEN, "failed": OPEN, "forced": OPEN, "reset": CLOSED,
        "joined": OPEN, "freed": CLOSED,
    },
    HALF_OPEN: {
        "tripped": HALF_OPEN, "waited": HALF_OPEN, "proven": CLOSED, "failed": OPEN, "forced": OPEN, "reset": CLOSED,
        "joined": OPEN, "freed": CLOSED,
    },
}

FOREVER = float("inf")
GROWTH = 2.0
JITTER = 0.2
SLICES = 10


class Breaker:
    """The breaker of one endpoint; owned by the endpoint, queried by its upstream."""

    __slots__ = (
        "_chance", "_closed_at", "_opened_for", "_permits_out", "_round", "_slices", "_streak", "_successes",
        "consecutive", "forced", "openings", "spec", "state", "until_s",
    )

    def __init__(self, spec: BreakerSpec, chance: Callable[[], float] = random.random) -> None:
        self.spec = spec
        self.state = CLOSED
        self.forced = False
        self.consecutive = 0  # failures in a row
        self.openings = 0  # how often it has opened
        self.until_s = FOREVER  # when an open breaker becomes half_open
        self._chance = chance
        self._streak = 0  # openings without a lasting recovery
        self._opened_for = 0.0
        self._closed_at = 0.0
        self._round = 0
        self._permits_out = 0
        self._successes = 0
        self._slices: list[list[int]] = []  # [number of the slice, exchanges, failures], the newest last

    # ---- queries while choosing an endpoint

    def tick(self, now_s: float) -> bool:
        """Update the state to the time `now_s`. Returns True if the state changed."""
        return self.state == OPEN and now_s >= self.until_s and self._on("waited", now_s)

    def has_permit(self) -> bool:
        """True if an exchange may be sent now."""
        if self.state == HALF_OPEN:
            return self._permits_out < self.spec.probes
        return self.state == CLOSED

    @property
    def has_record(self) -> bool:
        """True if failures are on record: those that count at present, or those of an earlier opening."""
        return self.state != CLOSED or bool(self.consecutive or self._streak) or any(one[2] for one in self._slices)

    def acquire_permit(self) -> int:
        """Acquire a permit for a probe. Returns its round, 0 if none is needed or none is free."""
        if self.state != HALF_OPEN or self._permits_out >= self.spec.probes:
            return 0
        self._permits_out += 1
        return self._round

    def release_permit(self, permit: int) -> bool:
        """Release a permit without an outcome, as after the client left. Returns True if it becomes free now."""
        if not permit or permit != self._round or self.state != HALF_OPEN:
            return False
        self._permits_out -= 1
        return True

    # ---- outcomes

    def succeeded(self, now_s: float, permit: int = 0) -> bool:
        """Count a successful exchange; it consumes the permit, if the exchange held one. Returns True if the state
        changed."""
        if self.state == CLOSED:
            self.consecutive = 0
            if self.spec.rate:
                self._note(now_s, False)
            return False
        if not self.release_permit(permit):
            return False
        self._successes += 1
        return self._successes >= self.spec.successes and self._on("proven", now_s)

    def failed(self, now_s: float, permit: int = 0) -> bool:
        """Count a failure of the endpoint. Returns True if the state changed."""
        if self.state == CLOSED:
            self.consecutive += 1
            tripped = 0 < self.spec.failures <= self.consecutive
            if self.spec.rate:
                tripped = self._note(now_s, True) or tripped
            return tripped and self._on("tripped", now_s)
        if not self.release_permit(permit):
            return False
        self.consecutive += 1
        return self._on("failed", now_s)

    def force_open(self, now_s: float) -> bool:
        """Open by operator command; stays open until `reset`."""
        changed = self._on("forced", now_s)
        self.forced, self.until_s = True, FOREVER
        return changed

    def reset(self, now_s: float) -> bool:
        """Close by operator command and clear all counters."""
        changed = self._on("reset", now_s)
        self._streak = 0
        return changed

    # ---- other instances

    @property
    def is_probing(self) -> bool:
        """True if a half-open breaker has granted a permit."""
        return self.state == HALF_OPEN and bool(self._permits_out or self._successes)

    def join_opening(self, now_s: float, until_s: float) -> bool:
        """Open until `until_s`, because another instance has. A half-open breaker that opens again so has not failed
        here. Returns True if the state changed."""
        streak, openings, was_half_open = self._streak, self.openings, self.state == HALF_OPEN
        changed = self._on("joined", now_s)
        if was_half_open:
            self._streak, self.openings = streak, openings
        self.until_s = until_s
        return changed

    def join_closing(self, now_s: float) -> bool:
        """Close, because another instance has: its probes succeeded. Returns True if the state changed."""
        return self._on("freed", now_s)

    def inherit_state(self, other: Breaker) -> None:
        """Copy the state of another breaker of the same endpoint. Permits granted by `other` remain its own."""
        for name in ("state", "forced", "consecutive", "openings", "until_s"):
            setattr(self, name, getattr(other, name))
        self._streak, self._opened_for, self._closed_at = other._streak, other._opened_for, other._closed_at
        self._round = other._round + 1
        self._slices = [list(one) for one in other._slices] if other.spec.window_s == self.spec.window_s else []

    # ---- the table

    def _on(self, event: str, now_s: float) -> bool:
        before, self.state = self.state, TABLE[self.state][event]
        if self.state == before and event != "reset":
            return False
        self.forced = False
        self._permits_out = self._successes = 0
        if self.state == OPEN:
            self._open(before, now_s)
        elif self.state == HALF_OPEN:
            self._round += 1
        else:
            self.consecutive = 0
            self._slices = []
            self._closed_at, self.until_s = now_s, FOREVER
        return self.state != before

    def _open(self, before: str, now_s: float) -> None:
        spec = self.spec
        if before == CLOSED and now_s - self._closed_at >= self._opened_for:
            self._streak = 0  # the endpoint was healthy for as long as the breaker had been open
        grown = min(spec.open_s * GROWTH ** min(self._streak, 60), max(spec.open_s, spec.max_open_s))
        self._streak += 1
        self.openings += 1
        self._opened_for = grown * (1.0 - JITTER * self._chance())
        self.until_s = now_s + self._opened_for

    def _note(self, now_s: float, failure: bool) -> bool:
        """Count one exchange in the sliding window. Returns True if the window's failure rate is too high."""
        spec, slices = self.spec, self._slices
        number = int(now_s * SLICES / spec.window_s)
        while slices and slices[0][0] <= number - SLICES:
            slices.pop(0)
        if not slices or slices[-1][0] != number:
            slices.append([number, 0, 0])
        slices[-1][1] += 1
        slices[-1][2] += failure
        if not failure:
            return False
        total, failed = sum(one[1] for one in slices), sum(one[2] for one in slices)
        return total >= spec.minimum and failed >= spec.rate * total
