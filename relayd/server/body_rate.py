"""The rate at which a client sends a request body: a client that trickles bytes does not hold a connection for ever."""

from __future__ import annotations

from relayd import clock

MIN_BYTES_PER_S = 500
WINDOW_S = 30.0  # the least time over which the rate is averaged


class BodyRate:
    """The bytes of one body since a time; owned by its connection."""

    __slots__ = ("_since_s", "received")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Measure afresh: the client could not send during a pause."""
        self._since_s = clock.monotonic()
        self.received = 0

    def is_too_slow(self, now_s: float, silence_s: float) -> bool:
        """True if the rate of the last window, which is at least as long as the permitted silence, was too low. Begins
        the next window."""
        span_s = now_s - self._since_s
        if span_s <= max(silence_s, WINDOW_S):
            return False
        too_slow = self.received < MIN_BYTES_PER_S * span_s
        self._since_s, self.received = now_s, 0
        return too_slow


NO_BODY = BodyRate()
"""For connections whose bodies have arrived with their heads; what it counts is not used."""
