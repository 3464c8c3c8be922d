"""Signals as the daemon understands them: HUP reloads, TERM and INT drain, a second one ends at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def hold_back() -> None:
    """Keep SIGHUP waiting until there is somebody to hear it: unheard it would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


class Signals:
    """The signal handlers of the process while it serves. Owned by the lifecycle."""

    def __init__(self, on_reload: Callable[[], None], on_stop: Callable[[str, bool], None]) -> None:
        """`on_stop` is told the signal's name, and whether it asks again."""
        self._on_reload = on_reload
        self._on_stop = on_stop
        self._asked = False

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen; what was held back is heard now."""
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number.name)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def _stop(self, name: str) -> None:
        again, self._asked = self._asked, True
        self._on_stop(name, again)
