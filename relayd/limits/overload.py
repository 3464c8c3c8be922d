"""Overload protection of relayd itself: load shedding, by priority.

Laws:
1. `update` takes readings (event loop lag, memory, descriptors) at regular intervals; between them, decisions use the
   last reading only. Each value is divided by its bound, and the largest quotient is the pressure.
2. At a pressure above 1 the shed share grows with each reading, faster at higher pressure. Below LOW_WATERMARK it
   shrinks. Between the two it stays, to avoid oscillation.
3. Lower priorities are shed first. The next higher priority is shed only after a whole interval without all lower ones
   was still above the bound, so many unimportant requests do not displace important ones. Within the cut-off priority
   the refusals are spread evenly, not at random.
4. The shed share never exceeds MAX_SHARE, so that relayd can measure whether the overload persists.
"""

from __future__ import annotations

from relayd.dataclass import dataclass
from relayd.limits.ticket import Refused

OVERLOAD = "overload"
LOW_WATERMARK = 0.8  # pressure
MAX_SHARE = 0.95
MIN_STEP, MAX_STEP = 0.05, 0.5
SHRINK = 0.05
DECAY = 0.5  # factor applied to the arrival counts with each reading


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds above which relayd sheds load; 0 disables a bound.

    `loop_lag_s` is the lag of the event loop, `memory_bytes` the resident memory of the process, `descriptors` its open
    files and sockets, `request_buffers_bytes` the memory of buffered request bodies.
    """

    loop_lag_s: float = 0.25
    memory_bytes: int = 0
    descriptors: int = 0
    request_buffers_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of the process at one time."""

    loop_lag_s: float = 0.0
    memory_bytes: int = 0
    descriptors: int = 0
    request_buffers_bytes: int = 0


class Overload:
    """One per process; owned by the daemon, which calls `update`. The pipeline calls `admit` for each request."""

    __slots__ = (
        "_arrived", "_carry", "_cutoff", "_cutoff_share", "bounds", "interval_s", "pressure", "refused", "share",
        "why",
    )

    def __init__(self, bounds: Bounds, interval_s: float) -> None:
        """`interval_s` is the time between two readings."""
        self.bounds = bounds
        self.interval_s = interval_s
        self.pressure = 0.0  # the largest quotient of a value and its bound
        self.why = ""  # the name of that value
        self.share = 0.0  # of the arrivals, refused
        self.refused = 0
        self._arrived: dict[int, float] = {}  # recent arrivals by priority, decaying
        self._cutoff = 0  # lower priorities are refused, higher ones are not
        self._cutoff_share = 0.0  # of the requests at the cut-off priority, refused
        self._carry = 0.0

    @property
    def active(self) -> bool:
        """True while requests are being shed."""
        return self._cutoff_share > 0

    def update(self, reading: Reading) -> None:
        """Take a new reading, on which all decisions until the next one are based."""
        bounds = self.bounds
        self.pressure, self.why = max(
            (utilisation(reading.loop_lag_s, bounds.loop_lag_s), "loop_lag"),
            (utilisation(reading.memory_bytes, bounds.memory_bytes), "memory"),
            (utilisation(reading.descriptors, bounds.descriptors), "descriptors"),
            (utilisation(reading.request_buffers_bytes, bounds.request_buffers_bytes), "request_buffers"),
        )
        if self.pressure > 1:
            step = min(MAX_STEP, max(MIN_STEP, (self.pressure - 1) / 2))
            self._grow(step)
        elif self.pressure < LOW_WATERMARK and self._cutoff_share:
            self._shrink()
        self._update_share()
        self._arrived = {priority: count * DECAY for priority, count in self._arrived.items() if count > 0.01}

    def admit(self, priority: int) -> None:
        """Admit one request. Raises Refused."""
        arrived = self._arrived
        arrived[priority] = arrived.get(priority, 0.0) + 1.0
        if not self._cutoff_share or priority > self._cutoff:
            return
        if priority == self._cutoff:
            self._carry += self._cutoff_share
            if self._carry < 1:
                return
            self._carry -= 1
        self.refused += 1
        raise Refused(OVERLOAD, self.retry_after_s())

    def retry_after_s(self) -> float:
        """The time in seconds until shedding ends if the pressure stays low from now on."""
        wholly = sum(1 for priority in self._arrived if priority < self._cutoff) if self._cutoff_share else 0
        return (wholly + self._cutoff_share) / SHRINK * self.interval_s

    def describe(self) -> dict[str, object]:
        """The state for the admin application."""
        return {
            "active": self.active, "share": round(self.share, 3), "pressure": round(self.pressure, 3),
            "why": self.why if self.active else "", "below_priority": self._cutoff if self.active else None,
            "refused": self.refused,
        }

    def _grow(self, step: float) -> None:
        """Shed more. The next priority starts only after an interval without all lower ones was still overloaded."""
        arrived = self._arrived
        if not self._cutoff_share:
            self._cutoff, self._cutoff_share = min(arrived, default=0), 0.0
        higher = [priority for priority in arrived if priority > self._cutoff]
        if self._cutoff_share >= 1 and higher:
            self._cutoff, self._cutoff_share = min(higher), min(step, MAX_SHARE)
            return
        # A whole priority is shed only if enough requests of higher priority remain to measure the load (law 4).
        enough = sum(arrived[priority] for priority in higher) >= (1 - MAX_SHARE) * sum(arrived.values())
        self._cutoff_share = min(1.0 if higher and enough else MAX_SHARE, self._cutoff_share + step)

    def _shrink(self) -> None:
        """Shed less, beginning with the highest priority that is shed."""
        self._cutoff_share -= SHRINK
        if self._cutoff_share < 1e-9:  # a rounding error counts as 0
            lower = [priority for priority in self._arrived if priority < self._cutoff]
            self._cutoff, self._cutoff_share = (max(lower), 1.0) if lower else (self._cutoff, 0.0)

    def _update_share(self) -> None:
        """Recompute the share of the arrivals that is shed, and limit it: the mix of priorities may have changed."""
        arrived, total = self._arrived, sum(self._arrived.values())
        if not self._cutoff_share or not total:
            self.share = min(MAX_SHARE, self._cutoff_share)
            return
        lower = {priority: count for priority, count in arrived.items() if priority < self._cutoff}
        if sum(lower.values()) > MAX_SHARE * total:
            self._cutoff, self._cutoff_share = max(lower), MAX_SHARE
            lower.pop(self._cutoff)
        self.share = (sum(lower.values()) + self._cutoff_share * arrived.get(self._cutoff, 0.0)) / total
        if self.share > MAX_SHARE:
            self._cutoff_share, self.share = min(self._cutoff_share, MAX_SHARE), MAX_SHARE


def utilisation(value: float, bound: float) -> float:
    """The quotient of a value and its bound; 0 without a bound."""
    return value / bound if bound else 0.0
