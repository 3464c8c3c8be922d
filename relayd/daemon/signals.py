"""Signals of the daemon: HUP reloads, USR1 reopens log files, TERM and INT drain, a second one ends immediately."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

BLOCKED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
HANDLED = (*BLOCKED, signal.SIGTERM, signal.SIGINT)


def block_signals() -> None:
    """Block these signals until their handlers are installed: unhandled they would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


class Signals:
    """The signal handlers of the process while it serves. Owned by the lifecycle."""

    def __init__(
        self, on_reload: Callable[[], None], on_stop: Callable[[str, bool], None],
        on_reopen: Callable[[], object] = lambda: None, on_upgrade: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_stop` gets the name of the signal, and True if it is repeated."""
        self._on_reopen, self._on_upgrade = on_reopen, on_upgrade
        self._on_reload = on_reload
        self._on_stop = on_stop
        self._stop_requested = False

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Install the handlers and unblock the signals; pending ones are handled now."""
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGUSR1, self._on_reopen)
        loop.add_signal_handler(signal.SIGUSR2, self._on_upgrade)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number.name)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)  # a parent may have blocked some

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remove the handlers, and ignore the signals from now on.

        The process ends already. The default action of a repeated SIGTERM, or of the SIGUSR1 of a log rotation, would
        change its exit status.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        for number in HANDLED:
            loop.remove_signal_handler(number)  # restores the default action
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def _stop(self, name: str) -> None:
        repeated, self._stop_requested = self._stop_requested, True
        self._on_stop(name, repeated)
