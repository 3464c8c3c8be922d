"""A breaker stops asking an endpoint that fails: closed, open, half_open, as a table.

Laws:
1. Only outcomes that say something about the endpoint are counted (classify.py says which). Time and chance come from
   outside, as `now_s` and `chance`.
2. While half_open at most `probes` exchanges hold a permit. A permit is given back exactly once, by its number; one of
   an earlier round counts for nothing, so that no order of resets and endings can leak or invent one.
3. What began before the breaker opened says nothing about the endpoint of now: without a permit an outcome counts only
   while closed.
4. Each opening without a lasting recovery in between doubles the time, up to a ceiling; chance takes up to a fifth off,
   so that the breakers of many instances do not try in step.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayd.upstream.spec import BreakerSpec

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
STATES = (CLOSED, OPEN, HALF_OPEN)

# What happens, and the state it leads to. Rows are complete: no event is unknown in any state.
#   tripped  too many failures were counted        waited  the open time is over
#   proven   enough probes succeeded               failed  a probe failed
#   forced   opened by hand, until reset by hand   reset   closed by hand
EVENTS = ("tripped", "waited", "proven", "failed", "forced", "reset")
TABLE: dict[str, dict[str, str]] = {
    CLOSED: {
        "tripped": OPEN, "waited": CLOSED, "proven": CLOSED, "failed": CLOSED, "forced": OPEN, "reset": CLOSED,
    },
    OPEN: {
        "tripped": OPEN, "waited": HALF_OPEN, "proven": OPEN, "failed": OPEN, "forced": OPEN, "reset": CLOSED,
    },
    HALF_OPEN: {
        "tripped": HALF_OPEN, "waited": HALF_OPEN, "proven": CLOSED, "failed": OPEN, "forced": OPEN, "reset": CLOSED,
    },
}

FOREVER = float("inf")
GROWTH = 2.0
JITTER = 0.2
SLICES = 10


class Breaker:
    """One endpoint's breaker; owned by the endpoint, asked by its upstream."""

    __slots__ = (
        "_chance", "_closed_at", "_opened_for", "_outs", "_round", "_slices", "_streak", "_successes", "consecutive",
        "forced", "openings", "spec", "state", "until_s",
    )

    def __init__(self, spec: BreakerSpec, chance: Callable[[], float] = random.random) -> None:
        self.spec = spec
        self.state = CLOSED
        self.forced = False
        self.consecutive = 0  # failures in a row
        self.openings = 0  # how often it opened in its life
        self.until_s = FOREVER  # when an open one becomes half_open
        self._chance = chance
        self._streak = 0  # openings without a lasting recovery
        self._opened_for = 0.0
        self._closed_at = 0.0
        self._round = 0
        self._outs = 0
        self._successes = 0
        self._slices: list[list[int]] = []  # [number of the slice, all, failures], the newest last

    # ---- what pick asks

    def tick(self, now_s: float) -> bool:
        """Let time pass; whether the state changed."""
        return self.state == OPEN and now_s >= self.until_s and self._on("waited", now_s)

    def has_permit(self) -> bool:
        """Whether an exchange may be sent now."""
        if self.state == HALF_OPEN:
            return self._outs < self.spec.probes
        return self.state == CLOSED

    def take(self) -> int:
        """A permit for a probe: its round, 0 where none is needed or there is none."""
        if self.state != HALF_OPEN or self._outs >= self.spec.probes:
            return 0
        self._outs += 1
        return self._round

    def give_back(self, permit: int) -> bool:
        """A permit without an outcome, as when the client left; whether there is one more to take now."""
        if not permit or permit != self._round or self.state != HALF_OPEN:
            return False
        self._outs -= 1
        return True

    # ---- outcomes

    def succeeded(self, now_s: float, permit: int = 0) -> bool:
        """A good exchange. The permit, if one was held, is used up with it. Whether the state changed."""
        if self.state == CLOSED:
            self.consecutive = 0
            if self.spec.rate:
                self._note(now_s, False)
            return False
        if not self.give_back(permit):
            return False
        self._successes += 1
        return self._successes >= self.spec.successes and self._on("proven", now_s)

    def failed(self, now_s: float, permit: int = 0) -> bool:
        """A fault of the endpoint's. Whether the state changed."""
        if self.state == CLOSED:
            self.consecutive += 1
            tripped = 0 < self.spec.failures <= self.consecutive
            if self.spec.rate:
                tripped = self._note(now_s, True) or tripped
            return tripped and self._on("tripped", now_s)
        if not self.give_back(permit):
            return False
        self.consecutive += 1
        return self._on("failed", now_s)

    def force_open(self, now_s: float) -> bool:
        """By hand; stays open until `reset`."""
        changed = self._on("forced", now_s)
        self.forced, self.until_s = True, FOREVER
        return changed

    def reset(self, now_s: float) -> bool:
        """By hand: closed, and everything counted is forgotten."""
        changed = self._on("reset", now_s)
        self._streak = 0
        return changed

    def inherit_state(self, other: Breaker) -> None:
        """Go on where another one of the same endpoint stands; permits that it lent stay its own."""
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
        self._outs = self._successes = 0
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
            self._streak = 0  # it was well for as long as it had been away
        grown = min(spec.open_s * GROWTH ** min(self._streak, 60), max(spec.open_s, spec.open_most_s))
        self._streak += 1
        self.openings += 1
        self._opened_for = grown * (1.0 - JITTER * self._chance())
        self.until_s = now_s + self._opened_for

    def _note(self, now_s: float, failure: bool) -> bool:
        """Count one exchange of the sliding window; whether its share of failures is too high."""
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
        seen, bad = sum(one[1] for one in slices), sum(one[2] for one in slices)
        return seen >= spec.minimum and bad >= spec.rate * seen
