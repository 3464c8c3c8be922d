"""Memory goes back to the system when a crowd of clients has left, or much of what request bodies held.

The allocator keeps what was freed between what is still in use. A process that once held thousands of streams would
keep their memory for good; to hand it back takes some 10 ms for each thousand, so it is done once, when it is quiet.
"""

from __future__ import annotations

import ctypes
import gc

CROWD = 500  # fewer than this leave too little behind to be worth a pause
LARGE_BYTES = 64 * 1024 * 1024  # likewise of request bodies
QUIET_LOOKS = 4

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others do without


class Ebb:
    """Sees when a number that was large has fallen and stays low; owned by a Release."""

    __slots__ = ("_large", "_last", "_most", "_quiet")

    def __init__(self, large: int) -> None:
        self._large = large
        self._last = self._most = self._quiet = 0

    def look(self, number: int) -> bool:
        """True once, when three quarters of a large number have gone and it has not fallen further for a second."""
        self._most = max(self._most, number)
        self._quiet = self._quiet + 1 if number >= self._last else 0
        self._last = number
        if self._most < self._large or number > self._most // 4 or self._quiet < QUIET_LOOKS:
            return False
        self._most = number
        return True


class Release:
    """Watches how many connections there are and what bodies hold; owned by the ListenerSet, asked by its sweep."""

    __slots__ = ("_bodies", "_crowd")

    def __init__(self) -> None:
        self._crowd, self._bodies = Ebb(CROWD), Ebb(LARGE_BYTES)

    def look(self, connections: int, body_bytes: int = 0) -> bool:
        """True when memory was given back."""
        crowd, bodies = self._crowd.look(connections), self._bodies.look(body_bytes)
        if not crowd and not bodies:
            return False
        gc.collect()
        if _trim is not None:
            _trim(0)
        return True
