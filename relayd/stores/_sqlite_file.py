"""The file of the SQLite store: its schema, the operations on it, and its replacement. Used by one thread at a time.

1. Every method is one short transaction. If it raises sqlite3.Error, the file is unchanged.
2. OperationalError means a temporary condition (locked, full, read-only); every other DatabaseError means that the
   file is unusable.
3. The column `used_s` is the time at which an entry expires, minus a day. For an entry with the default time to live
   that is its last use.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

VERSION = 1
OPEN_WAIT_S = 5.0  # at startup, before any client is served
LARGEST_SHARE = 4
_SWEPT_AT_ONCE = 64
_SWEPT_BY_ASKING = 1000
_PAGES_GIVEN_BACK = 1024
_SWITCHES = 32

DAY_S = 86400.0

Touch = tuple[float, str, str]
"""An access: the new time of expiry in seconds, space, key."""

_SCHEMA = (
    "CREATE TABLE entries (space TEXT NOT NULL, key TEXT NOT NULL, used_s REAL NOT NULL, size_bytes INTEGER NOT NULL,"
    " value TEXT NOT NULL, PRIMARY KEY (space, key))",
    "CREATE INDEX entries_by_use ON entries (used_s)",
    "CREATE INDEX entries_of_space_by_use ON entries (space, used_s)",
    "CREATE TABLE totals (space TEXT PRIMARY KEY, entries INTEGER NOT NULL, size_bytes INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TRIGGER count_new AFTER INSERT ON entries BEGIN INSERT INTO totals VALUES (new.space, 1, new.size_bytes)"
    " ON CONFLICT (space) DO UPDATE SET entries = entries + 1, size_bytes = size_bytes + new.size_bytes; END",
    "CREATE TRIGGER count_gone AFTER DELETE ON entries BEGIN"
    " UPDATE totals SET entries = entries - 1, size_bytes = size_bytes - old.size_bytes WHERE space = old.space;"
    " DELETE FROM totals WHERE space = old.space AND entries = 0; END",
    f"PRAGMA user_version = {VERSION}",
)


class Value(NamedTuple):
    """What is stored under a key: the JSON text, its size in the store, the time of expiry."""

    text: str
    size_bytes: int
    expires_s: float


class File:
    """The write connection. `generation` counts replacements of the file, `locked` the changes that have got its lock.
    Raises OSError if no file can be created."""

    def __init__(self, path: str, max_entries: int, max_bytes: int, wait_s: float) -> None:
        self.path = path
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self.generation = self.locked = 0
        self.notices: list[str] = []
        self._file = self._opened(wait_s)

    # ---- operations

    def put(
        self, space: str, key: str, value: Value, now_s: float, touches: Iterable[Touch], most_bytes: int = 0
    ) -> None:
        """Store a value, after evicting entries to make room for it. `most_bytes` bounds the space, 0 does not."""
        with self._transaction():
            self._touch(touches)
            self._replace(space, key, value, now_s, most_bytes)

    def swap(
        self, space: str, key: str, expected: str | None, value: Value | None, now_s: float, touches: Iterable[Touch]
    ) -> bool:
        """Store a value, or with None delete it, if the text of the present one is `expected`; None is absent. Returns
        False if it is another one."""
        with self._transaction():
            self._touch(touches)
            row = self._file.execute(
                f"SELECT value FROM entries WHERE space = ? AND key = ? AND used_s >= ? - {DAY_S}", (space, key, now_s)
            ).fetchone()
            if (None if row is None else row[0]) != expected:
                return False
            if value is None:
                self._file.execute("DELETE FROM entries WHERE space = ? AND key = ?", (space, key))
            else:
                self._replace(space, key, value, now_s)
            return True

    def delete(self, space: str, key: str) -> None:
        """Delete a value."""
        with self._transaction():
            self._file.execute("DELETE FROM entries WHERE space = ? AND key = ?", (space, key))

    def touch(self, touches: Iterable[Touch]) -> None:
        """Record the times of accesses."""
        with self._transaction():
            self._touch(touches)

    def sweep(self, now_s: float, touches: Iterable[Touch]) -> None:
        """Delete expired entries and return free pages to the disk; bounded, so that other jobs are not delayed."""
        self.touch(touches)
        self._forget_old(now_s, _SWEPT_BY_ASKING)
        self._file.executescript(f"PRAGMA incremental_vacuum({_PAGES_GIVEN_BACK})")  # execute would take one step only

    def check(self) -> None:
        """Read the whole file. Raises sqlite3.DatabaseError if it is damaged."""
        found = self._file.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    def replace(self, why: str) -> None:
        """Rename a damaged file and create a new one. Raises OSError, sqlite3.Error."""
        self._file.close()
        self._move_aside(why)
        self._file = self._opened(0.0)
        self.generation += 1

    def reader(self) -> sqlite3.Connection:
        """A read-only connection that never waits for a lock."""
        file = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        file.execute("PRAGMA query_only = ON")
        return file

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _replace(self, space: str, key: str, value: Value, now_s: float, most_bytes: int = 0) -> None:
        self._file.execute("DELETE FROM entries WHERE space = ? AND key = ?", (space, key))
        self._forget_old(now_s, _SWEPT_AT_ONCE)
        size_bytes = value.size_bytes
        while most_bytes:
            row = self._file.execute("SELECT size_bytes FROM totals WHERE space = ?", (space,)).fetchone()
            if row is None or not row[0] or row[0] + size_bytes <= most_bytes:
                break
            self._file.execute(
                "DELETE FROM entries WHERE rowid ="
                " (SELECT rowid FROM entries WHERE space = ? ORDER BY used_s, rowid LIMIT 1)", (space,),
            )
        while True:
            entries, held_bytes = self._file.execute(
                "SELECT coalesce(sum(entries), 0), coalesce(sum(size_bytes), 0) FROM totals"
            ).fetchone()
            if entries < self._max_entries and held_bytes + size_bytes <= self._max_bytes:
                break
            measure = "size_bytes" if held_bytes + size_bytes > self._max_bytes else "entries"
            self._file.execute(
                "DELETE FROM entries WHERE rowid = (SELECT rowid FROM entries WHERE space ="
                f" (SELECT space FROM totals ORDER BY {measure} DESC LIMIT 1) ORDER BY used_s, rowid LIMIT 1)"
            )
        self._file.execute(
            f"INSERT INTO entries (space, key, used_s, size_bytes, value) VALUES (?, ?, ? - {DAY_S}, ?, ?)",
            (space, key, value.expires_s, size_bytes, value.text),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        self.locked += 1
        try:
            yield
            self._file.execute("COMMIT")
        except BaseException:  # rescue door: every exception rolls the transaction back and is raised again
            with contextlib.suppress(sqlite3.Error):  # SQLite has already rolled back if the disk is full
                self._file.execute("ROLLBACK")
            raise

    def _touch(self, touches: Iterable[Touch]) -> None:
        self._file.executemany(f"UPDATE entries SET used_s = ? - {DAY_S} WHERE space = ? AND key = ?", touches)

    def _forget_old(self, now_s: float, most: int) -> None:
        self._file.execute(
            "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE used_s < ? ORDER BY used_s LIMIT ?)",
            (now_s - DAY_S, most),
        )

    # ---- opening

    def _opened(self, wait_s: float) -> sqlite3.Connection:
        file = self._connected(wait_s)
        try:
            make_ready(file)
        except sqlite3.OperationalError as fault:
            file.close()
            raise OSError(f"{self.path}: {fault}") from None
        except sqlite3.DatabaseError as fault:
            file.close()
            self._move_aside(str(fault))
            file = self._connected(wait_s)
            make_ready(file)
        file.execute("PRAGMA busy_timeout = 0")
        return file

    def _connected(self, wait_s: float) -> sqlite3.Connection:
        try:  # mode 0600; an existing file is not opened, because closing it would release SQLite's locks
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        try:
            return sqlite3.connect(self.path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as fault:
            raise OSError(f"{self.path}: {fault}") from None

    def _move_aside(self, fault: str) -> None:
        aside = f"{self.path}.unusable"
        os.replace(self.path, aside)
        for ending in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + ending)
        self.notices.append(f"{self.path} cannot be used ({fault}): renamed to {aside}, and a new file was created")


def make_ready(file: sqlite3.Connection) -> None:
    """Set the pragmas and create the schema. Raises sqlite3.DatabaseError if the file is unusable."""
    _switch_to_wal(file)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("PRAGMA journal_size_limit = 4194304")
    file.execute("BEGIN IMMEDIATE")  # two instances may start at the same time
    try:
        version = file.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA:
                file.execute(statement)
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"schema version {version} instead of {VERSION}")
    finally:
        file.execute("COMMIT")


def _switch_to_wal(file: sqlite3.Connection) -> None:
    """Switch to WAL mode. The switch needs an exclusive lock and fails immediately if another instance switches too."""
    for _ in range(_SWITCHES):
        try:
            if file.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            file.execute("PRAGMA auto_vacuum = INCREMENTAL")
            file.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            file.execute("BEGIN IMMEDIATE")  # waits for the other instance
            file.execute("COMMIT")
