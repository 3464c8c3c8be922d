"""The request for a new process that takes over (`relayd upgrade`), from the request to its result."""

from __future__ import annotations

import asyncio

from relayd.daemon.notify import Notifier
from relayd.telemetry.journal import Journal


class Upgrade:
    """Owned by the lifecycle. Concurrent requests share one upgrade and its result."""

    def __init__(self, notifier: Notifier, journal: Journal) -> None:
        self._notifier, self._journal = notifier, journal
        self._result: asyncio.Future[str] | None = None

    async def request(self) -> str:
        """Ask the keeper for a new process. Returns the fault; empty once another process has taken over."""
        if self._result is None:
            self._result = asyncio.get_running_loop().create_future()
            self._notifier.upgrade()
        return await asyncio.shield(self._result)

    def complete(self, fault: str) -> None:
        """Answer the request. `fault`: empty if another process has taken over."""
        if fault:
            self._journal.error("upgrade_refused", fault)
        if self._result is not None and not self._result.done():
            self._result.set_result(fault)
        self._result = None
