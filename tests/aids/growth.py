"""How work grows with its input, told by comparison: a bound in seconds holds on one machine only, and there on some days."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

TIMES = 16  # how much larger the large input is
TRIES = 6
LINEAR = 1.5  # half-way between linear (1) and quadratic (2), as a power of the input's size
LEAST_S = 1e-4  # below this the clock measures itself


def linear(work: Callable[[int], object], size: int) -> bool:
    """Whether work(16 * size) costs less than 64 times what work(size) costs: linear work 16 times, quadratic 256.

    Another process may slow a measurement down and cannot make it quicker: the quickest runs count, and one comparison
    that shows linear growth is enough, for quadratic growth shows none.
    """
    small = large = float("inf")
    for _ in range(TRIES):
        small = min(small, *(_cost(work, size) for _ in range(2)))
        large = min(large, _cost(work, TIMES * size))
        if large <= max(small, LEAST_S) * TIMES**LINEAR:
            return True
    return False


def _cost(work: Callable[[int], object], size: int) -> float:
    """Seconds of this thread's processor time. What relayd does in the daemon's loop it does in one thread."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        begun = time.thread_time()
        work(size)
        return time.thread_time() - begun
    finally:
        if collecting:
            gc.enable()
