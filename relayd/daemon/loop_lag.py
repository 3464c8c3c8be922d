"""Measures the lag of the event loop: the delay of a timer beyond its due time, four times a second.

Every client waits for this time in addition. It is shown in /health and in the metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relayd import clock

INTERVAL_S = 0.25


class LoopLag:
    """Measures the running loop. Owned by the lifecycle. /status reads `current_s` and `worst_s`."""

    __slots__ = ("_due", "_handle", "_report", "_since", "_worst", "last_s")

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._handle: asyncio.TimerHandle | None = None
        self._due = self._since = self._worst = 0.0
        self.last_s = 0.0

    @property
    def worst_s(self) -> float:
        """The largest lag of about the last minute, including a current delay."""
        return max(self._worst, self.current_s)

    @property
    def current_s(self) -> float:
        """The last measured lag, or the current delay if it is longer."""
        late = clock.monotonic() - self._due if self._handle is not None else 0.0
        return max(self.last_s, late)

    def start(self) -> None:
        self._since = clock.monotonic()
        self._arm()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self._due = clock.monotonic() + INTERVAL_S
        self._handle = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)

    def _tick(self) -> None:
        now = clock.monotonic()
        self.last_s = max(0.0, now - self._due)
        if now - self._since > 60.0:
            self._since, self._worst = now, 0.0
        self._worst = max(self._worst, self.last_s)
        self._report(self.last_s)
        self._arm()
