"""The mean time for which permits are held, and the waiting time estimated from it.

The first hold times have equal weight. Later ones enter an exponentially weighted mean, which follows a change within a
few dozen samples. The throughput of a full gate is its permits divided by the mean hold time, whatever the variance, so
the request at queue position k waits about k * mean / permits (renewal theory; `margin` covers the estimate's error).
"""

from __future__ import annotations

WARMUP_SAMPLES = 48  # hold times that have equal weight
WEIGHT = 1 / WARMUP_SAMPLES
MIN_SAMPLES = 8  # hold times needed before the estimate may refuse a request
UNKNOWN_S = 1.0  # the estimate without any sample; only used for Retry-After


class ServiceTime:
    """The mean hold time in seconds. Owned by one gate."""

    __slots__ = ("count", "mean_s")

    def __init__(self) -> None:
        self.count = 0
        self.mean_s = 0.0

    @property
    def known(self) -> bool:
        """True if there are enough samples to refuse a request because of the estimate."""
        return self.count >= MIN_SAMPLES

    def observe(self, held_s: float) -> None:
        """Record that a permit was held for `held_s` seconds."""
        count = self.count = self.count + 1
        self.mean_s += (held_s - self.mean_s) * (WEIGHT if count >= WARMUP_SAMPLES else 1 / count)

    def wait_s(self, position: int, permits: int, unchanged_s: float) -> float:
        """The expected wait in seconds at this queue position (1 is the next), with `permits` permits all in use.

        `unchanged_s` is the time since a permit was last acquired or released. Every permit has been held for at least
        that long, so a back-end that stopped responding raises the estimate before its first permit is released.
        """
        mean_s = self.mean_s if self.count else UNKNOWN_S
        return position * max(mean_s, unchanged_s) / max(1, permits)


def margin(position: int) -> float:
    """The fraction by which the estimate for this position is reduced before it may refuse a request.

    The wait at the first positions depends on one or two permits that may be released soon. The wait at later positions
    is a sum whose errors cancel out; a margin there would only admit requests that time out in the queue.
    """
    return 1 / (1 + position)
