"""Work that is continued in later turns of the event loop, so that no connection keeps the others waiting.

Laws:
1. All work that waits here together gets `SHARE_S` of one turn; then the loop looks at its descriptors and timers.
2. The order is first in, first out: a step that puts itself again goes behind everybody else.
3. A step is short (about a millisecond at most): it bounds its own work and puts the rest here.
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
        """Run this step in a later turn. A step that raises ends nothing but itself: the loop logs it."""
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
