"""The thread that writes to the file of the SQLite store, so that neither a lock nor a disk blocks the event loop.

1. Jobs are done in the order of submission. The submitter may wait briefly for a job; every job is appended to `done`.
2. A job that meets a lock is retried for PATIENCE_S. After SHORT_S, which is more than another instance needs for a
   change, the writer is `blocked`; values submitted while it is blocked may be lost. If a lock lasts longer than
   PATIENCE_S, a program holds the file: for HELD_S every job is then tried only once.
3. A damaged file is replaced by a new one, and the job that detected the damage is repeated once on the new file.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections import deque
from enum import Enum

from relayd import clock
from relayd.stores._faults import FAILED, LOCKED, Fault, fault_of
from relayd.stores._sqlite_file import File, Touch, Value

SHORT_S = 0.003
PATIENCE_S = 0.25
HELD_S = 1.0


class Verb(Enum):
    """The operation of a job."""

    PUT = "put"
    SWAP = "swap"
    DELETE = "delete"
    TOUCH = "touch"
    SWEEP = "sweep"
    CHECK = "check"
    REPLACE = "replace"
    STOP = "stop"
    NOTHING = "nothing"


class Job:
    """One operation on the file; written by the loop, then by the writer, then read by the loop. `value` is that of a
    PUT or SWAP, `expected` the text that a SWAP replaces; `fault` is None if the job succeeded, else the cause of its
    failure; `most_bytes` bounds the space of a PUT, 0 for no bound of its own; `generation` is the one that a REPLACE
    replaces; `again` is true for a repeated job. The writer sets
    `met_lock`, `swapped` and `finished`, and `ended` when waiting for the job is no longer useful."""

    __slots__ = (
        "again", "ended", "entry_key", "expected", "fault", "finished", "generation", "met_lock", "most_bytes", "now_s",
        "swapped", "touches", "value", "verb", "why",
    )

    def __init__(
        self, verb: Verb, entry_key: tuple[str, str] = ("", ""), value: Value | None = None, now_s: float = 0.0,
        touches: tuple[Touch, ...] = (), generation: int = 0, why: str = "", again: bool = False,
        expected: str | None = None, most_bytes: int = 0,
    ) -> None:
        self.verb, self.entry_key, self.value, self.expected, self.now_s = verb, entry_key, value, expected, now_s
        self.touches, self.generation, self.again, self.most_bytes = touches, generation, again, most_bytes
        self.ended = threading.Event()
        self.finished = self.swapped = False
        self.met_lock = False
        self.fault: Fault | None = None
        self.why = why

    @property
    def text(self) -> str:
        """The text to store; empty if there is none."""
        return "" if self.value is None else self.value.text


class Writer:
    """The thread and its queue; owned by its store. `done` holds the ended jobs for the loop. `blocked` is true if the
    current job, or the last one, met a lock that is held for longer than another instance needs it.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.done: deque[Job] = deque()
        self.blocked = False
        self._patient_again_s = 0.0
        self._never = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relayd-store", daemon=True)
        self._thread.start()

    def give(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def stop(self, wait_s: float) -> bool:
        """Complete all queued jobs, close the file and end the thread. Returns True if that took at most `wait_s`."""
        self._jobs.put(Job(Verb.STOP))
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        job = Job(Verb.NOTHING)
        while job.verb is not Verb.STOP:
            job = self._jobs.get()
            self._do(job)
            job.finished = True
            self.done.append(job)
            job.ended.set()

    def _do(self, job: Job) -> None:
        try:
            try:
                self._perform_in_time(job)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as damage:
                self._file.replace(str(damage))
                self._perform_in_time(job)
        except sqlite3.Error as error:
            job.fault, job.why = fault_of(error), str(error)
        except Exception as error:  # rescue door: no failure of a file ends the thread
            job.fault, job.why = FAILED, str(error)

    def _perform_in_time(self, job: Job) -> None:
        """Perform a job, with retries while the file is locked. Raises sqlite3.Error and OSError."""
        began_s = clock.monotonic()
        patient_s = PATIENCE_S if began_s >= self._patient_again_s else 0.0
        pause_s = 0.0005
        while True:
            try:
                self._perform(job)
            except sqlite3.OperationalError as error:
                spent_s = clock.monotonic() - began_s
                if fault_of(error) is not LOCKED:
                    raise
                job.met_lock = True
                if spent_s >= patient_s:
                    self.blocked = True
                    if patient_s:
                        self._patient_again_s = clock.monotonic() + HELD_S
                    raise
                if spent_s >= SHORT_S and not self.blocked:
                    self.blocked = True
                    job.ended.set()  # the submitter stops waiting
                self._never.wait(pause_s)
                pause_s = min(2 * pause_s, 0.01)
            else:
                if job.verb is not Verb.NOTHING:
                    self.blocked, self._patient_again_s = False, 0.0
                return

    def _perform(self, job: Job) -> None:
        file, verb = self._file, job.verb
        if verb is Verb.PUT and job.value is not None:
            file.put(*job.entry_key, job.value, job.now_s, job.touches, job.most_bytes)
        elif verb is Verb.SWAP:
            job.swapped = file.swap(*job.entry_key, job.expected, job.value, job.now_s, job.touches)
        elif verb is Verb.DELETE:
            file.delete(*job.entry_key)
        elif verb is Verb.TOUCH:
            file.touch(job.touches)
        elif verb is Verb.SWEEP:
            file.sweep(job.now_s, job.touches)
        elif verb is Verb.CHECK:
            file.check()
        elif verb is Verb.REPLACE and job.generation == file.generation:
            file.replace(job.why)
        elif verb is Verb.STOP:
            file.close()
