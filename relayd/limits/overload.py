"""Overload of relayd itself: which share of the load is turned away, and whose.

Laws:
1. It is fed with readings (how late the event loop is, memory, descriptors) at even intervals and decides between them
   without looking at anything; each reading is put in relation to its bound, and the worst one counts.
2. Above its bound the share that is turned away grows with each reading, the faster the further above; below
   CALM of it the share shrinks; between the two it stays, so that it does not swing.
3. The share is taken from the lowest priorities first: all of one priority before any of the next higher one. Within
   the priority in which it ends, it is spread evenly, not by chance.
4. Never everything is turned away: MOST is left out, so that relayd sees whether it is still too much.
"""

from __future__ import annotations

from dataclasses import dataclass

from relayd.limits.ticket import Refused

OVERLOAD = "overload"
CALM = 0.8  # of the bound
MOST = 0.95
SMALLEST_STEP, LARGEST_STEP = 0.05, 0.5
SHRINK = 0.05
FORGET = 0.5  # of what is known about arrivals, with each reading


@dataclass(frozen=True, slots=True)
class Bounds:
    """From where on it is too much; 0 means that this is not looked at.

    `loop_lag_s` is how late the event loop may be, `memory_bytes` how much of it the process may have resident,
    `descriptors` how many files and sockets it may have open.
    """

    loop_lag_s: float = 0.25
    memory_bytes: int = 0
    descriptors: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of the process at one moment."""

    loop_lag_s: float = 0.0
    memory_bytes: int = 0
    descriptors: int = 0


class Overload:
    """One per process; owned by the daemon, which feeds it, asked by the path for each request."""

    __slots__ = ("_arrived", "_carry", "_cut", "_part", "bounds", "interval_s", "pressure", "refused", "share", "why")

    def __init__(self, bounds: Bounds, interval_s: float) -> None:
        """`interval_s` is the time between two readings."""
        self.bounds = bounds
        self.interval_s = interval_s
        self.pressure = 0.0  # the worst reading through its bound
        self.why = ""  # which one that is
        self.share = 0.0  # of the arrivals, turned away
        self.refused = 0
        self._arrived: dict[int, float] = {}  # lately, by priority
        self._cut = 0  # priorities below are turned away, those above are not
        self._part = 0.0  # of those at the cut
        self._carry = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is turned away."""
        return self.share > 0

    def feed(self, reading: Reading) -> None:
        """A new reading; the decisions until the next one follow from it."""
        bounds = self.bounds
        self.pressure, self.why = max(
            (part(reading.loop_lag_s, bounds.loop_lag_s), "loop_lag"),
            (part(reading.memory_bytes, bounds.memory_bytes), "memory"),
            (part(reading.descriptors, bounds.descriptors), "descriptors"),
        )
        if self.pressure > 1:
            step = min(LARGEST_STEP, max(SMALLEST_STEP, (self.pressure - 1) / 2))
            self.share = min(MOST, self.share + step)
        elif self.pressure < CALM:
            self.share = max(0.0, self.share - SHRINK)
            if self.share < 1e-9:  # what subtracting leaves of nothing
                self.share = 0.0
        self._draw_cut()
        self._arrived = {priority: count * FORGET for priority, count in self._arrived.items() if count > 0.01}

    def admit(self, priority: int) -> None:
        """Let one request pass. Raises Refused."""
        arrived = self._arrived
        arrived[priority] = arrived.get(priority, 0.0) + 1.0
        if not self.share or priority > self._cut:
            return
        if priority == self._cut:
            self._carry += self._part
            if self._carry < 1:
                return
            self._carry -= 1
        self.refused += 1
        raise Refused(OVERLOAD, self.retry_after_s())

    def retry_after_s(self) -> float:
        """When nothing will be turned away any more if it is calm from now on."""
        return self.share / SHRINK * self.interval_s

    def describe(self) -> dict[str, object]:
        """What status shows."""
        return {
            "active": self.active, "share": round(self.share, 3), "pressure": round(self.pressure, 3),
            "why": self.why if self.active else "", "below_priority": self._cut if self.active else None,
            "refused": self.refused,
        }

    def _draw_cut(self) -> None:
        """Which priority the share reaches up to, by what has arrived lately."""
        wanted = self.share * sum(self._arrived.values())
        self._cut, self._part = min(self._arrived, default=0), self.share
        for priority in sorted(self._arrived):
            count = self._arrived[priority]
            self._cut = priority
            if wanted <= count:
                self._part = wanted / count
                return
            wanted -= count


def part(value: float, bound: float) -> float:
    """How much of its bound a reading is; 0 where there is no bound."""
    return value / bound if bound else 0.0
