"""The thread that writes the ledger's file, so that neither a lock nor a disk blocks the event loop.

One batch is written at a time; the owner gives the next one when the writer is idle, and reads how the last one ended.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from relayd.limits.ledger_file import LedgerFile
from relayd.limits.spend import SpendRow


class Batch(NamedTuple):
    """One batch: sums to add, and states of windows by key (None deletes one)."""

    rows: Sequence[SpendRow]
    windows: dict[str, Any]


class Ended(NamedTuple):
    """A batch that was written, or the error because of which nothing of it was."""

    batch: Batch
    error: sqlite3.Error | None


class LedgerWriter:
    """The thread; owned by its service. It starts with the first batch."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.idle = True

    def give(self, batch: Batch) -> None:
        """Write a batch. The writer must be idle."""
        assert self.idle
        self.idle = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="relayd-ledger", daemon=True)
            self._thread.start()
        self._batches.put(batch)

    def ended(self, wait_s: float = 0.0) -> Ended | None:
        """How the last batch ended; None if it has not ended within `wait_s`."""
        try:
            found = self._ended.get(timeout=wait_s) if wait_s else self._ended.get_nowait()
        except queue.Empty:
            return None
        self.idle = True
        return found

    def stop(self, wait_s: float) -> None:
        """Close the file and end the thread."""
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(wait_s)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._ended.put(Ended(batch, self._write(batch)))
        self._file.close()

    def _write(self, batch: Batch) -> sqlite3.Error | None:
        try:
            try:
                self._file.write(batch.rows, batch.windows.items())
            except sqlite3.Error as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise
                self._file.write(batch.rows, batch.windows.items())  # the damaged file was set aside
        except sqlite3.Error as error:
            return error
        return None
