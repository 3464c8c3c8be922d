"""The periodic calls of the process, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """Owned by the lifecycle. A name has one timer: scheduling it again replaces the interval."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def every(self, name: str, interval_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` every `interval_s` seconds, for the first time after one interval."""

        def tick() -> None:
            self._handles[name] = self._loop.call_later(interval_s, tick)
            callback()

        if name in self._handles:
            self._handles[name].cancel()
        self._handles[name] = self._loop.call_later(interval_s, tick)

    def close(self) -> None:
        """Cancel all timers."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
