"""Work that continues in later turns of the event loop, so that no connection blocks the others.

Laws:
1. All queued steps together get `SHARE_S` of one turn; then the loop polls its descriptors and timers.
2. The order is first in, first out: a step that queues itself again runs after all other queued steps.
3. A step is short (about a millisecond at most): it bounds its own work and queues a step for the rest.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from relayd import clock

SHARE_S = 0.003


class WorkQueue:
    """One per event loop; owned by the StreamClient. `schedule` calls a function in the next turn of the loop."""

    __slots__ = ("_is_scheduled", "_schedule", "_steps")

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        self._schedule = schedule
        self._steps: collections.deque[Callable[[], None]] = collections.deque()
        self._is_scheduled = False

    def put(self, step: Callable[[], None]) -> None:
        """Run this step in a later turn. The loop logs an exception of a step; other steps are not affected."""
        self._steps.append(step)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self._run)

    def _run(self) -> None:
        steps = self._steps
        end_s = clock.monotonic() + SHARE_S
        try:
            while steps:
                steps.popleft()()
                if clock.monotonic() >= end_s:
                    break
        finally:
            self._is_scheduled = bool(steps)
            if steps:
                self._schedule(self._run)
