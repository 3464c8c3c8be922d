"""Memory goes back to the system when a crowd of clients has left, or much of what request bodies held.

The allocator keeps what was freed between what is still in use. A process that once held thousands of streams would
keep their memory for good; to hand it back takes some 10 ms for each thousand, so it is done once, when it is quiet.
"""

from __future__ import annotations

import ctypes
import gc

MANY_CONNECTIONS = 500  # fewer than this leave too little behind to be worth a pause
LARGE_BYTES = 64 * 1024 * 1024  # likewise of request bodies
STABLE_UPDATES = 4

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others do without


class DropDetector:
    """Sees when a number that was large has fallen and stays low; owned by a Release."""

    __slots__ = ("_large", "_last", "_peak", "_stable")

    def __init__(self, large: int) -> None:
        self._large = large
        self._last = self._peak = self._stable = 0

    def update(self, number: int) -> bool:
        """True once, when three quarters of a large number have gone and it has not fallen further for a second."""
        self._peak = max(self._peak, number)
        self._stable = self._stable + 1 if number >= self._last else 0
        self._last = number
        if self._peak < self._large or number > self._peak // 4 or self._stable < STABLE_UPDATES:
            return False
        self._peak = number
        return True


class HeapTrim:
    """Watches how many connections there are and what bodies hold; owned by the ListenerSet, asked by its sweep."""

    __slots__ = ("_bodies", "_connections")

    def __init__(self) -> None:
        self._connections, self._bodies = DropDetector(MANY_CONNECTIONS), DropDetector(LARGE_BYTES)

    def update(self, connections: int, body_bytes: int = 0) -> bool:
        """True when memory was given back."""
        connections_dropped, bodies_dropped = self._connections.update(connections), self._bodies.update(body_bytes)
        if not connections_dropped and not bodies_dropped:
            return False
        gc.collect()
        if _trim is not None:
            _trim(0)
        return True
