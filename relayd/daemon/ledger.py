"""A service that writes spend, and the windows of rates and budgets, to the ledger's file in the state directory.

1. It writes every FLUSH_S, and when the process ends: a process that is killed loses at most what happened since the
   last write. Many changed windows are written in batches of MOST_WINDOWS, so that no turn of the loop is long.
2. Records that cannot be written stay in memory and are written later; requests are served meanwhile.
3. Without a state directory nothing is written, and what has changed is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from relayd import clock
from relayd.daemon.ledger_writer import Batch, Ended, LedgerWriter
from relayd.daemon.timers import Timers
from relayd.limits.ledger_file import FILE, LedgerFile
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.stores._faults import fault_of
from relayd.telemetry.journal import Journal

FLUSH_S = 1.0
MOST_WINDOWS = 1000  # of one batch
WRITTEN_S = 0.02  # between two looks whether a batch is written
CLOSE_S = 5.0
FAILED_S = 60.0  # between two log lines about one cause

T = TypeVar("T")


class Windows(Protocol):
    """The windows of rates and budgets in memory."""

    @property
    def is_dirty(self) -> bool:
        """True if `dirty` has something to return."""

    def dirty(self, most: int) -> list[tuple[str, Any]]:
        """Key and state of at most `most` windows that have changed since they were returned. The state is a list whose
        last item is empty if the window is no longer needed."""

    def load(self, items: Iterable[tuple[str, Any]]) -> list[str]:
        """Add saved states. Returns the keys of those that cannot be read."""


class Ledger:
    """Owned by the lifecycle. `folder` is the state directory; empty without one."""

    def __init__(self, gateway: Gateway, journal: Journal, folder: str, windows: Windows | None = None) -> None:
        self._gateway, self._journal, self._windows = gateway, journal, windows
        self._unwritten: dict[str, Any] = {}  # windows of batches that failed
        self._file = LedgerFile(os.path.join(folder, FILE)) if folder else None
        self._writer = None if self._file is None else LedgerWriter(self._file)
        self._is_closing = False
        self._fault: tuple[str, str] | None = None  # why the last batch could not be written, and the cure
        self._noticed = 0
        if folder:
            gateway.saved_spend = self

    def restore(self) -> None:
        """Read the saved windows. Called once, before the first plan comes into force; may wait for a lock."""
        file, windows = self._file, self._windows
        if file is None or windows is None or not os.path.exists(file.path):
            return
        try:
            unreadable = windows.load(file.windows())
        except sqlite3.Error as error:
            self._log_notices(file)
            self._log_failure(file, error)
            return
        self._unwritten = dict.fromkeys(unreadable)

    def commit(self, plan: Plan) -> None:
        """Nothing depends on the plan."""

    def start(self, timers: Timers) -> None:
        timers.every("ledger", FLUSH_S, self.tick)

    def tick(self) -> None:
        """Write the changes, unless the last batch is still being written."""
        if self._writer is None:
            self._gateway.spend.pop()
            if self._windows is not None and self._windows.dirty(MOST_WINDOWS) and self._windows.is_dirty:
                self._gateway.call_later(WRITTEN_S, self.tick)
            return
        if not self._writer.idle and not self._collect(self._writer.ended()):
            return
        states, self._unwritten = self._unwritten, {}
        windows = None if self._gateway.leaving else self._windows  # they are those of the next process
        if windows is not None:
            states |= {key: state if state[-1] else None for key, state in windows.dirty(MOST_WINDOWS)}
        batch = Batch(self._gateway.spend.pop(), states)
        if batch.rows or batch.windows:
            self._writer.give(batch)
        if windows is not None and windows.is_dirty and not self._is_closing:
            self._gateway.call_later(WRITTEN_S, self._write_more)

    def _write_more(self) -> None:
        """Write a further batch, as soon as the last one is written."""
        if self._is_closing or self._writer is None:
            return
        if self._writer.idle or self._collect(self._writer.ended()):
            if self._fault is None:
                self.tick()
        else:
            self._gateway.call_later(WRITTEN_S, self._write_more)

    def describe(self) -> dict[str, str]:
        """The entry of /status."""
        why, cure = self._fault or ("", "")
        return {"file": "" if self._file is None else self._file.path, "fault": why, "cure": cure}

    async def rows(self) -> dict[str, int]:
        """The number of rows of spend by consumer. Raises sqlite3.Error."""
        return await asyncio.to_thread(self._with_file, LedgerFile.rows)

    async def forget(self, consumer: str) -> int:
        """Delete the rows of spend of a consumer; what is being written now is waited for. Raises sqlite3.Error."""
        assert self._writer is not None
        while not self._writer.idle and not self._collect(self._writer.ended()):
            await asyncio.sleep(WRITTEN_S)
        self._gateway.spend.forget(consumer)  # what could not be written
        return await asyncio.to_thread(self._with_file, partial(LedgerFile.forget, consumer=consumer))

    def _with_file(self, use: Callable[[LedgerFile], T]) -> T:
        """Use the file over a connection of its own. Blocks."""
        assert self._file is not None
        with contextlib.closing(LedgerFile(self._file.path)) as file:
            return use(file)

    def _collect(self, ended: Ended | None) -> bool:
        """Take note of the end of a batch. Returns False if it is still being written."""
        if ended is None or self._file is None:
            return False
        self._log_notices(self._file)
        if ended.error is None:
            if self._fault is not None:
                self._fault = None
                self._journal.info("ledger_written", "Spend is written again, nothing is missing.")
            return True
        self._gateway.spend.restore(ended.batch.rows)
        self._unwritten = {**ended.batch.windows, **self._unwritten}
        self._log_failure(self._file, ended.error)
        return True

    def _log_failure(self, file: LedgerFile, error: sqlite3.Error) -> None:
        fault = fault_of(error)
        cure = fault.cure.replace("{path}", file.path)
        self._fault = str(error), cure
        self._gateway.telemetry.metrics.add("relayd.spend.failed", cause=fault.cause)
        self._journal.limited(
            f"ledger_failed:{fault.cause}", FAILED_S, "warning", "ledger_failed",
            "Spend stays in memory until it can be written. " + cure,
            cause=fault.cause, why=str(error),
        )

    def _log_notices(self, file: LedgerFile) -> None:
        for notice in file.notices[self._noticed :]:
            self._journal.warning("ledger_set_aside", notice)
        self._noticed = len(file.notices)

    def gauges(self) -> None:
        """None."""

    def close(self) -> None:
        """Write the rest."""
        if self._writer is None:
            return
        self._is_closing, end_s = True, clock.monotonic() + CLOSE_S
        while self._writer.idle or self._collect(self._writer.ended(max(WRITTEN_S, end_s - clock.monotonic()))):
            self.tick()
            if self._writer.idle or self._fault is not None:
                break
        if not self._writer.idle:
            self._collect(self._writer.ended(CLOSE_S))
        self._writer.stop(CLOSE_S)
