"""The service of the key store: notices changes without requests, reports faults, and writes the times of last use.

1. The file is only read here, except for the times of last use, which a thread writes: a slow disk delays no request.
2. Times of last use that cannot be written are kept for the next attempt.
"""

from __future__ import annotations

import threading

from relayd.access.key_journal import KeyJournal
from relayd.access.key_store import KeysBehind, KeyStore
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.telemetry.journal import Journal

TICK_S = 1.0
WRITE_TICKS = 30  # ticks between two writes of the times of last use


class IssuedKeys:
    """A service."""

    def __init__(self, gateway: Gateway, folder: str, journal: Journal) -> None:
        self._gateway, self._journal = gateway, journal
        self._writes = KeyJournal(folder)
        self.store = gateway.keys = KeyStore(folder)
        self.store.load()
        self._problem = ""
        self._ticks = 0
        self._thread: threading.Thread | None = None

    def tick(self) -> None:
        """Read changes, report faults. Called by a timer."""
        self._ticks += 1
        try:
            self.store.refresh()
        except KeysBehind:
            self._gateway.call_later(0.0, self.tick)
        if self.store.problem != self._problem:
            self._problem = self.store.problem
            self.report()
        if self._ticks % WRITE_TICKS == 0:
            self._write_used()

    def report(self) -> None:
        """Log the condition of the key store."""
        if self._problem:
            message = "Keys that were known before stay in force; changes are not noticed."
            self._journal.error("key_store_unreadable", message, why=self._problem)
        else:
            self._journal.info("key_store_readable", "All keys are known again.")

    def _write_used(self) -> None:
        if not self.store.used or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._write, args=(self._pop_used(),), name="keys", daemon=True)
        self._thread.start()

    def _pop_used(self) -> dict[str, float]:
        used, self.store.used = self.store.used, {}
        return used

    def _write(self, used: dict[str, float]) -> None:
        known = [record.id for record in list(self.store.records())]
        try:
            self._writes.write_used(used, known)
        except OSError:
            for name, at in used.items():
                self.store.used.setdefault(name, at)

    # ---- the service

    def commit(self, plan: Plan) -> None:
        """Nothing to do: the plan reads the key store itself."""

    def start(self, timers: Timers) -> None:
        self.tick()
        timers.every("issued_keys", TICK_S, self.tick)

    def gauges(self) -> None:
        """It has none."""

    def close(self) -> None:
        """Write the last times of use."""
        if self.store.used:
            self._write(self._pop_used())
