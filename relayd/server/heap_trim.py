"""Returns freed heap memory to the system after many clients have left or large request bodies have been released.

The allocator keeps freed blocks that lie between blocks in use, so a process that once held thousands of streams would
keep their memory for good. Trimming takes about 10 ms per thousand streams, so it runs once, when the load is low.
"""

from __future__ import annotations

import ctypes
import gc

MANY_CONNECTIONS = 500  # fewer connections free too little memory to justify the pause
LARGE_BYTES = 64 * 1024 * 1024  # the same for request bodies
STABLE_UPDATES = 4

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it


class DropDetector:
    """Detects that a large number has fallen and stays low. Owned by a HeapTrim."""

    __slots__ = ("_large", "_last", "_peak", "_stable")

    def __init__(self, large: int) -> None:
        self._large = large
        self._last = self._peak = self._stable = 0

    def update(self, number: int) -> bool:
        """True once a large number has fallen by three quarters and has not fallen further for a second."""
        self._peak = max(self._peak, number)
        self._stable = self._stable + 1 if number >= self._last else 0
        self._last = number
        if self._peak < self._large or number > self._peak // 4 or self._stable < STABLE_UPDATES:
            return False
        self._peak = number
        return True


class HeapTrim:
    """Observes the number of connections and the memory of bodies. Owned by the ListenerSet, called by its sweep."""

    __slots__ = ("_bodies", "_connections")

    def __init__(self) -> None:
        self._connections, self._bodies = DropDetector(MANY_CONNECTIONS), DropDetector(LARGE_BYTES)

    def update(self, connections: int, body_bytes: int = 0) -> bool:
        """Trim the heap if a drop was detected. Returns True if it was trimmed."""
        connections_dropped, bodies_dropped = self._connections.update(connections), self._bodies.update(body_bytes)
        if not connections_dropped and not bodies_dropped:
            return False
        gc.collect()
        if _trim is not None:
            _trim(0)
        return True
