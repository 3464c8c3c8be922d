"""Memory goes back to the system when a crowd of clients has left.

The allocator keeps what was freed between what is still in use. A process that once held thousands of streams would
keep their memory for good; to hand it back takes some 10 ms for each thousand, so it is done once, when it is quiet.
"""

from __future__ import annotations

import ctypes
import gc

CROWD = 500  # fewer than this leave too little behind to be worth a pause
QUIET_LOOKS = 4

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others do without


class Release:
    """Watches how many connections there are; owned by the ListenerSet, asked by its sweep."""

    __slots__ = ("_last", "_most", "_quiet")

    def __init__(self) -> None:
        self._last = self._most = self._quiet = 0

    def look(self, connections: int) -> bool:
        """True when memory was given back: three quarters of a crowd have left, and for a second nobody followed."""
        self._most = max(self._most, connections)
        self._quiet = self._quiet + 1 if connections >= self._last else 0
        self._last = connections
        if self._most < CROWD or connections > self._most // 4 or self._quiet < QUIET_LOOKS:
            return False
        self._most = connections
        gc.collect()
        if _trim is not None:
            _trim(0)
        return True
