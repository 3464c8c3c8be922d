"""How long permits are held, and what that says about waiting.

The first holds are averaged evenly, later ones with a weight that lets the mean follow within some dozens of them.
Throughput of a gate that is full is its permits divided by the mean hold, whatever the spread, so the wait of the k-th
in line is about k * mean / permits (the renewal argument; reservations of its accuracy are in `doubt`).
"""

from __future__ import annotations

EVEN = 48  # so many holds are averaged evenly
WEIGHT = 1 / EVEN
ENOUGH = 8  # holds from which on somebody may be refused because of the estimate
UNKNOWN_S = 1.0  # a guess while nothing was measured, only ever told to who is refused anyway


class ServiceTime:
    """The mean hold in seconds; owned by one gate."""

    __slots__ = ("count", "mean_s")

    def __init__(self) -> None:
        self.count = 0
        self.mean_s = 0.0

    @property
    def known(self) -> bool:
        """Whether enough was measured to refuse somebody for it."""
        return self.count >= ENOUGH

    def observe(self, held_s: float) -> None:
        """One permit was given back after so long."""
        count = self.count = self.count + 1
        self.mean_s += (held_s - self.mean_s) * (WEIGHT if count >= EVEN else 1 / count)

    def wait_s(self, place: int, permits: int, still_s: float) -> float:
        """The expected wait of the `place`-th in line (1 is the next) before this many permits that are all taken.

        `still_s` is how long none has been given back or taken: each has been held at least that long, so that a
        back-end which has stopped answering is noticed before the first of its permits comes back.
        """
        mean_s = self.mean_s if self.count else UNKNOWN_S
        return place * max(mean_s, still_s) / max(1, permits)


def doubt(place: int) -> float:
    """By what share an estimate for this place may be too long before somebody is refused for it.

    The first places hang on the end of one or two holds that may be nearly over; later ones on a sum, whose spread
    goes both ways: leniency there would only fill the queue with waiting in vain.
    """
    return 1 / (1 + place)
