"""In a file of the state directory: the contents survive restarts, and several instances on one host may share it.

1. The file is a cache: it is written without waiting for the disk (WAL, synchronous=OFF). A process that dies loses
   nothing; a host that loses power may lose the file, and relayd then creates a new one.
2. A file that cannot be read, or has the schema of another version, is renamed and a new one is created; `notices`
   reports it.
3. The event loop does not wait for the disk or for a lock. A thread writes (`_writer`). `put` and `delete` wait for it
   at most ANSWER_WAIT_S, and only if it is idle. Reads never wait for a lock, and return values not yet written from
   memory.
4. Failures to store a value are reported: `lost` does so immediately for a lock, a full disk or a read-only file. A
   value that met a lock is returned only after it has been written. A failure of a slow disk is detected later.
5. A value to be deleted, or that a newer value failed to replace, is no longer returned, even while it is still in
   the file.

Cost on the loop, measured on a small server, including the conversion to JSON text and back: 180 microseconds for a
`put` of a short answer, 20 for a `get`; 0.9 and 0.7 milliseconds for a string of 320 KiB, 2.8 and 2 for 1 MiB. The
longest `put` took 6 milliseconds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import Any

from relayd import clock
from relayd.errors import OptionError
from relayd.schema import section, setting
from relayd.stores import Bounds, Listed
from relayd.stores._faults import CLOSED, DAMAGED, LOCKED, SLOW, TOO_LARGE, Failure, Fault, Losses, fault_of
from relayd.stores._space import Space
from relayd.stores._sqlite_file import DAY_S, LARGEST_SHARE, OPEN_WAIT_S, VERSION, File, Touch, Value
from relayd.stores._writer import Job, Verb, Writer
from relayd.wire.json_steps import Steps

ANSWER_WAIT_S = 0.005
LOCK_WAIT_S = 0.02  # if the thread has neither got nor met a lock: on such a busy machine the loop is late anyway
SETTLE_S = 10.0
CLOSE_S = 5.0
ENTRY_BYTES = 200  # size of an entry in the file in addition to its texts
WAITING_BYTES, WAITING_JOBS = 32 * 1024 * 1024, 4096
PIECE_BYTES = 256 * 1024  # of a value that is read in steps
RETRY_S, _RETRY_BATCH = 0.25, 64
_ACCESS_BATCH, _MAX_ACCESSES = 256, 8192

SWAP_PAUSE_S = 0.001
_PAUSE = threading.Event()  # never set
_LISTED_AT_ONCE = 200
_EXPIRES = f"used_s + {DAY_S}"
_HIGHEST = "\U0010ffff"  # sorts behind every other character

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

EntryKey = tuple[str, str]


@section()
class Options:
    """The SQLite file."""

    path: str | None = setting(
        default=None, example="/var/lib/relayd/store.sqlite", pattern="/.*",
        doc="The SQLite file. Default is store.sqlite in the state directory.",
    )


def file_of(options: Options, bounds: Bounds) -> str:
    """The path of this store's file."""
    return options.path or os.path.join(bounds.folder, "store.sqlite")


class Store:
    """The store in the file `path`; owned by the daemon, used on the loop.

    `faults` counts values that could not be written or read. Raises OSError if no file can be created.
    """

    must_fetch = False
    server: None = None

    def __init__(
        self, path: str, max_entries: int, max_bytes: int, ttl_s: float, now: Callable[[], float] = clock.wall,
        wait_s: float = OPEN_WAIT_S,
    ) -> None:
        """`wait_s` is the time to wait for a lock while the file is opened."""
        self._path = path
        self._max_entries, self._max_bytes, self._ttl_s, self._now = max_entries, max_bytes, ttl_s, now
        self._accesses: dict[EntryKey, float] = {}  # times of expiry not yet written to the file
        self._pending: dict[EntryKey, Job] = {}  # the last unfinished job of each key
        self._failed_deletions: list[EntryKey] = []
        self._retry_at_s = 0.0
        self._outstanding = self._waiting_bytes = 0
        self._closed = False
        self._losses = Losses()
        self._noticed: tuple[str, ...] = ()
        self._file = File(path, max_entries, max_bytes, wait_s)
        self._generation = self._file.generation
        self._reader = self._file.reader()
        self._writer = Writer(self._file)
        self._give(Job(Verb.CHECK), wait=True)

    @property
    def faults(self) -> int:
        """The number of values that could not be written or read."""
        self._collect()
        return self._losses.total

    @property
    def notices(self) -> tuple[str, ...]:
        """Messages about replacements of the file, the last eight."""
        for notice in self._file.notices:
            if notice not in self._noticed:
                self._noticed = (*self._noticed, notice)[-8:]
        return self._noticed

    @classmethod
    def open(cls, options: Options, bounds: Bounds) -> Store:
        """The store of a configuration. Raises OptionError."""
        path = file_of(options, bounds)
        try:
            return cls(
                path, bounds.entries, bounds.size_bytes, bounds.ttl_s, wait_s=OPEN_WAIT_S if bounds.may_wait else 0.0
            )
        except OSError as error:
            raise OptionError("path", f"{path} cannot be opened: {error.strerror or error}") from error

    @property
    def entries(self) -> int:
        """The number of entries. Waits for the writer."""
        return self._total("entries")

    @property
    def size_bytes(self) -> int:
        """The size of all entries in bytes. Waits for the writer."""
        return self._total("size_bytes")

    def describe(self) -> dict[str, object]:
        """The state, for status."""
        return {"kind": "sqlite", "degraded": self._writer.blocked}

    def space(self, name: str, ttl_s: float | None = None, most_bytes: int = 0) -> Space:
        """A handle to one name space. `ttl_s` is its time to live if it is not that of the store, `most_bytes` a bound
        of its own."""
        return Space(self, name, self._ttl_s if ttl_s is None else ttl_s, most_bytes)

    def sweep(self) -> None:
        """Delete expired entries."""
        self._give(Job(Verb.SWEEP, now_s=self._now(), touches=self._touches()), wait=False)

    def pop_failures(self) -> list[Failure]:
        """The failures since the last call. A timer calls this; it also retries failed deletions."""
        self._collect()
        return [
            Failure(fault._replace(cure=fault.cure.replace("{path}", self._path)), count, why)
            for fault, count, why in self._losses.pop_failures()
        ]

    def settle(self) -> None:
        """Wait until the writer is idle. Must not be called on the event loop."""
        job = Job(Verb.NOTHING)
        self._give(job, wait=False)
        job.ended.wait(SETTLE_S)
        self._collect()

    def close(self, wait: bool = True) -> None:
        """Complete all jobs and close the file; without `wait`, the writer thread does so in the background."""
        if self._closed:
            return
        if self._accesses:
            self._give(Job(Verb.TOUCH, touches=self._touches()), wait=False)
        self._closed = True
        self._writer.stop(CLOSE_S if wait else 0.0)
        self._reader.close()

    def get(self, space: str, key: str, ttl_s: float) -> Any:
        """See Space.get."""
        text = self.text(space, key, ttl_s)
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as fault:
            self._damaged((_stored(space), _stored(key)), str(fault))
            return None

    def text(self, space: str, key: str, ttl_s: float) -> str | None:
        """The value as JSON text, or None."""
        self._collect()
        entry_key = (_stored(space), _stored(key))
        pending = self._pending.get(entry_key)
        if pending is not None:
            if pending.verb is not Verb.PUT or pending.met_lock or self._writer.blocked:
                return None
            self._accesses[entry_key] = self._now() + ttl_s
            return pending.text
        row = self._read(f"SELECT value, {_EXPIRES} FROM entries WHERE space = ? AND key = ?", entry_key, entry_key)
        return str(row[0]) if row is not None and self._use(entry_key, row[1], ttl_s) else None

    def text_steps(self, space: str, key: str, ttl_s: float) -> Steps[str | None]:
        """As `text`, in steps. A large value is read in pieces, on a connection of its own: all of them are of the same
        moment, and other reads see later changes."""
        entry_key = (_stored(space), _stored(key))
        row = self._read("SELECT size_bytes FROM entries WHERE space = ? AND key = ?", entry_key)
        if entry_key in self._pending or row is None or row[0] <= PIECE_BYTES:
            return self.text(space, key, ttl_s)
        yield
        pieces: list[bytes] = []
        try:
            with contextlib.closing(self._file.reader()) as file:
                file.execute("BEGIN")
                statement = f"SELECT rowid, {_EXPIRES} FROM entries WHERE space = ? AND key = ?"
                row = file.execute(statement, entry_key).fetchone()
                if row is None or not self._use(entry_key, row[1], ttl_s):
                    return None
                with file.blobopen("entries", "value", row[0], readonly=True) as blob:
                    while piece := blob.read(PIECE_BYTES):
                        pieces.append(piece)
                        yield
        except sqlite3.Error:
            return self.text(space, key, ttl_s)  # which records the failure
        text = b"".join(pieces)
        yield
        return str(text, "utf-8")

    def _use(self, entry_key: EntryKey, expires_s: float, ttl_s: float) -> bool:
        """Record an access to a value that would expire then. Returns False if the value has expired."""
        now_s = self._now()
        if now_s > self._expires_s(entry_key, expires_s):
            return False
        self._accesses[entry_key] = now_s + ttl_s
        if len(self._accesses) >= _ACCESS_BATCH and not self._outstanding:
            self._give(Job(Verb.TOUCH, touches=self._touches()), wait=False)
        elif len(self._accesses) > _MAX_ACCESSES:
            self._accesses.clear()
        self._losses.found(entry_key)
        return True

    def put(self, space: str, key: str, value: Any, ttl_s: float) -> None:
        """See Space.put."""
        self.put_text(space, key, _encode(value), ttl_s)

    def put_text(self, space: str, key: str, text: str, ttl_s: float, most_bytes: int = 0) -> None:
        """Store a value as its JSON text in ASCII. `most_bytes` bounds the space."""
        self._collect()
        entry_key = (_stored(space), _stored(key))
        now_s = self._now()
        value = _value(entry_key, text, now_s + ttl_s)
        fault, why = self._fault_of(value)
        if fault is CLOSED:
            self._losses.lose(entry_key, fault, why)
        elif fault is not None:
            self._lose(entry_key, fault, why)
        else:
            self._losses.found(entry_key)
            self._change(Job(Verb.PUT, entry_key, value, now_s, self._touches(), most_bytes=most_bytes))

    def fetch_steps(self, space: str, keys: Iterable[str], ttl_s: float) -> Steps[None]:
        """See Space.fetch_steps. `get` finds every entry."""
        yield from ()

    def swap_steps(self, space: str, key: str, expected: str | None, text: str | None, ttl_s: float) -> Steps[bool]:
        """See Space.swap_steps. The writer compares; the steps wait for it."""
        self._collect()
        entry_key = (_stored(space), _stored(key))
        now_s = self._now()
        value = None if text is None else _value(entry_key, text, now_s + ttl_s)
        fault, why = self._fault_of(value)
        if fault is not None:
            self._losses.lose(entry_key, fault, why)
            return False
        used = self._accesses.get(entry_key)
        touches = self._touches() if used is None else (*self._touches(), (used, *entry_key))
        job = Job(Verb.SWAP, entry_key, value, now_s, touches, expected=expected)
        self._waiting_bytes += len(job.text)
        self._give(job, wait=True)
        while not job.finished:
            _PAUSE.wait(SWAP_PAUSE_S)
            yield
        self._collect()
        if job.fault is not None:
            self._losses.lose(entry_key, job.fault, job.why)
        elif job.swapped:
            self._accesses.pop(entry_key, None)
            self._losses.found(entry_key)
        return job.swapped

    def _fault_of(self, value: Value | None) -> tuple[Fault | None, str]:
        """Why a change is refused before the writer gets it, and the details for the log; None if it is not."""
        if self._closed:
            return CLOSED, ""
        size_bytes, length = (0, 0) if value is None else (value.size_bytes, len(value.text))
        if size_bytes * LARGEST_SHARE > self._max_bytes or self._max_entries < 1:
            return TOO_LARGE, f"{size_bytes} bytes"
        if self._waiting_bytes + length > WAITING_BYTES or self._outstanding >= WAITING_JOBS:
            return SLOW, f"{self._outstanding} changes wait"
        return None, ""

    def delete(self, space: str, key: str) -> bool:
        """See Space.delete."""
        self._collect()
        entry_key = (_stored(space), _stored(key))
        self._losses.found(entry_key)
        pending = self._pending.get(entry_key)
        if pending is not None:
            there = pending.verb is Verb.PUT
        else:
            row = self._read(f"SELECT {_EXPIRES} FROM entries WHERE space = ? AND key = ?", entry_key, entry_key)
            if row is None:
                return False
            there = self._now() <= self._expires_s(entry_key, row[0])
        self._accesses.pop(entry_key, None)
        self._change(Job(Verb.DELETE, entry_key))
        return there

    def lost(self, space: str, key: str) -> str:
        """See Space.lost."""
        self._collect()
        entry_key = (_stored(space), _stored(key))
        pending = self._pending.get(entry_key)
        if pending is not None and pending.verb is Verb.PUT and (pending.met_lock or self._writer.blocked):
            return LOCKED.client_message
        return self._losses.client_message(entry_key)

    # ---- the writer

    def _change(self, job: Job) -> None:
        self._pending[job.entry_key] = job
        self._waiting_bytes += len(job.text)
        self._give(job, wait=True)

    def _give(self, job: Job, *, wait: bool) -> None:
        if self._closed:
            return
        idle, locked = not self._outstanding, self._file.locked
        self._outstanding += 1
        self._writer.give(job)
        if wait and idle:
            if not job.ended.wait(ANSWER_WAIT_S) and not job.met_lock and self._file.locked == locked:
                job.ended.wait(LOCK_WAIT_S)
            self._collect()

    def _collect(self) -> None:
        """Process the jobs that the writer completed since the last call."""
        if self._generation != self._file.generation and not self._closed:
            self._generation = self._file.generation
            self._reader.close()
            self._reader = self._file.reader()
            self._losses.count(DAMAGED, self._file.notices[-1])
        done = self._writer.done
        while done:
            job = done.popleft()
            self._outstanding -= 1
            self._waiting_bytes -= len(job.text)
            if job.fault is None:
                for expires_s, space, key in job.touches:
                    if self._accesses.get((space, key)) == expires_s:
                        del self._accesses[space, key]
            elif job.verb not in (Verb.PUT, Verb.SWAP) and not job.again:
                self._losses.count(job.fault, job.why)
            if self._pending.get(job.entry_key) is not job:
                continue
            if job.fault is None:
                del self._pending[job.entry_key]
            elif job.verb is Verb.PUT:
                del self._pending[job.entry_key]
                self._lose(job.entry_key, job.fault, job.why)
            else:
                self._failed_deletions.append(job.entry_key)
        if self._failed_deletions and not self._outstanding and clock.monotonic() >= self._retry_at_s:
            self._retry_at_s = clock.monotonic() + RETRY_S
            self._repeat()

    def _repeat(self) -> None:
        """Retry failed deletions, _RETRY_BATCH at a time."""
        entry_keys = self._failed_deletions[:_RETRY_BATCH]
        self._failed_deletions = self._failed_deletions[_RETRY_BATCH:]
        for entry_key in entry_keys:
            if entry_key in self._pending:
                job = self._pending[entry_key] = Job(Verb.DELETE, entry_key, again=True)
                self._give(job, wait=False)

    def _lose(self, entry_key: EntryKey, fault: Fault, why: str) -> None:
        """Record that a value cannot be stored, and delete the value that it would have replaced."""
        self._losses.lose(entry_key, fault, why)
        statement = "SELECT 1 FROM entries WHERE space = ? AND key = ?"
        if entry_key in self._pending or self._read(statement, entry_key) is not None:
            self._change(Job(Verb.DELETE, entry_key))

    def _touches(self) -> tuple[Touch, ...]:
        first = itertools.islice(self._accesses.items(), _ACCESS_BATCH)
        return tuple((expires_s, space, key) for (space, key), expires_s in first)

    # ---- reading

    def list_steps(self, prefix: str, most: int) -> Steps[list[Listed]]:
        """See relayd.stores. Changes that were not written yet are not included."""
        self._collect()
        first, end = _stored(prefix), _stored(prefix) + _HIGHEST
        at: EntryKey = (first, "")
        listed: list[Listed] = []
        while len(listed) < most:
            rows = self._read_all(
                f"SELECT space, key, size_bytes, {_EXPIRES} FROM entries WHERE (space, key) > (?, ?) AND space < ?"
                " ORDER BY space, key LIMIT ?", (*at, end, _LISTED_AT_ONCE),
            )
            now_s = self._now()
            for space, key, size_bytes, expires_s in rows:
                left_s = self._expires_s((space, key), expires_s) - now_s
                if left_s >= 0:
                    listed.append(Listed(space, key, size_bytes, left_s))
            if len(rows) < _LISTED_AT_ONCE:
                break
            at = rows[-1][:2]
            yield
        return listed[:most]

    def count_steps(self, prefix: str) -> Steps[int]:
        """See relayd.stores."""
        yield from ()
        first = _stored(prefix)
        row = self._read(
            "SELECT coalesce(sum(entries), 0) FROM totals WHERE space >= ? AND space < ?", (first, first + _HIGHEST)
        )
        return 0 if row is None else int(row[0])

    def _expires_s(self, entry_key: EntryKey, expires_s: float) -> float:
        return max(self._accesses.get(entry_key, expires_s), expires_s)

    def _read_all(self, statement: str, values: tuple[object, ...]) -> list[Any]:
        """All rows; none if the file cannot be read."""
        if self._closed:
            return []
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error:
            return []

    def _read(self, statement: str, values: tuple[object, ...], entry_key: EntryKey | None = None) -> Any:
        """A row, or None. A read error returns None too; with `entry_key`, its cause is recorded."""
        if self._closed:
            return None
        try:
            return self._reader.execute(statement, values).fetchone()
        except sqlite3.OperationalError as error:
            if entry_key is not None:
                self._losses.lose(entry_key, fault_of(error), str(error))
        except sqlite3.DatabaseError as error:
            self._damaged(entry_key, str(error))
        return None

    def _damaged(self, entry_key: EntryKey | None, why: str) -> None:
        if entry_key is not None:
            self._losses.lose(entry_key, DAMAGED, why)
        self._give(Job(Verb.REPLACE, generation=self._generation, why=why), wait=False)

    def _total(self, measure: str) -> int:
        self.settle()
        row = self._read(f"SELECT coalesce(sum({measure}), 0) FROM totals", ())
        return 0 if row is None else int(row[0])


def _value(entry_key: EntryKey, text: str, expires_s: float) -> Value:
    return Value(text, len(text) + 2 * (len(entry_key[0]) + len(entry_key[1])) + ENTRY_BYTES, expires_s)


def _stored(text: str) -> str:
    """The text as SQLite can store it: lone surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


__all__ = ["VERSION", "Store"]
