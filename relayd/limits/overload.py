"""Overload of relayd itself: which share of the load is turned away, and whose.

Laws:
1. It is fed with readings (how late the event loop is, memory, descriptors) at even intervals and decides between them
   without looking at anything; each reading is put in relation to its bound, and the worst one counts.
2. Above its bound what is turned away grows with each reading, the faster the further above; below CALM of it, it
   shrinks; between the two it stays, so that it does not swing.
3. It is taken from the lowest priorities first: all of one priority before any of the next higher one, which is begun
   only if a whole reading without the lower ones was too much as well: a crowd of little importance does not push out
   those of more. Within the priority in which it ends, it is spread evenly, not by chance.
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
    `descriptors` how many files and sockets it may have open, `request_buffers_bytes` how much the bodies may take that
    are held whole.
    """

    loop_lag_s: float = 0.25
    memory_bytes: int = 0
    descriptors: int = 0
    request_buffers_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of the process at one moment."""

    loop_lag_s: float = 0.0
    memory_bytes: int = 0
    descriptors: int = 0
    request_buffers_bytes: int = 0


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
        return self._part > 0

    def feed(self, reading: Reading) -> None:
        """A new reading; the decisions until the next one follow from it."""
        bounds = self.bounds
        self.pressure, self.why = max(
            (part(reading.loop_lag_s, bounds.loop_lag_s), "loop_lag"),
            (part(reading.memory_bytes, bounds.memory_bytes), "memory"),
            (part(reading.descriptors, bounds.descriptors), "descriptors"),
            (part(reading.request_buffers_bytes, bounds.request_buffers_bytes), "request_buffers"),
        )
        if self.pressure > 1:
            step = min(LARGEST_STEP, max(SMALLEST_STEP, (self.pressure - 1) / 2))
            self._grow(step)
        elif self.pressure < CALM and self._part:
            self._shrink()
        self._measure()
        self._arrived = {priority: count * FORGET for priority, count in self._arrived.items() if count > 0.01}

    def admit(self, priority: int) -> None:
        """Let one request pass. Raises Refused."""
        arrived = self._arrived
        arrived[priority] = arrived.get(priority, 0.0) + 1.0
        if not self._part or priority > self._cut:
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
        wholly = sum(1 for priority in self._arrived if priority < self._cut) if self._part else 0
        return (wholly + self._part) / SHRINK * self.interval_s

    def describe(self) -> dict[str, object]:
        """What status shows."""
        return {
            "active": self.active, "share": round(self.share, 3), "pressure": round(self.pressure, 3),
            "why": self.why if self.active else "", "below_priority": self._cut if self.active else None,
            "refused": self.refused,
        }

    def _grow(self, step: float) -> None:
        """Turn more away. A priority is begun only after a reading that was too much without all of those below it."""
        arrived = self._arrived
        if not self._part:
            self._cut, self._part = min(arrived, default=0), 0.0
        higher = [priority for priority in arrived if priority > self._cut]
        if self._part >= 1 and higher:
            self._cut, self._part = min(higher), min(step, MOST)
            return
        # All of a priority only if there are enough above it, by which the rest is seen (law 4).
        enough = sum(arrived[priority] for priority in higher) >= (1 - MOST) * sum(arrived.values())
        self._part = min(1.0 if higher and enough else MOST, self._part + step)

    def _shrink(self) -> None:
        """Turn less away: first of the priority that was begun last."""
        self._part -= SHRINK
        if self._part < 1e-9:  # what subtracting leaves of nothing
            lower = [priority for priority in self._arrived if priority < self._cut]
            self._cut, self._part = (max(lower), 1.0) if lower else (self._cut, 0.0)

    def _measure(self) -> None:
        """What share of the arrivals that is; the arrivals may have changed so that it would be all of them."""
        arrived, total = self._arrived, sum(self._arrived.values())
        if not self._part or not total:
            self.share = min(MOST, self._part)
            return
        lower = {priority: count for priority, count in arrived.items() if priority < self._cut}
        if sum(lower.values()) > MOST * total:
            self._cut, self._part = max(lower), MOST
            lower.pop(self._cut)
        self.share = (sum(lower.values()) + self._part * arrived.get(self._cut, 0.0)) / total
        if self.share > MOST:
            self._part, self.share = min(self._part, MOST), MOST


def part(value: float, bound: float) -> float:
    """How much of its bound a reading is; 0 where there is no bound."""
    return value / bound if bound else 0.0
