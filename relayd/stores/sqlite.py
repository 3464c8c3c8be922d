"""In a file of the state directory: it survives restarts, and several instances on one host may share it.

1. The file is a cache: it is written without waiting for the disk (WAL, synchronous=OFF). A process that dies loses
   nothing; a host that loses power may lose the file, which then begins anew.
2. A file that cannot be read, or has the schema of another version, is moved aside and a new one begun; `notices` says
   so.
3. Nothing waits long: whoever finds the file locked by another instance gives up after LOCK_WAIT_S, and the value is as
   if it were forgotten.

Cost, measured on one core of a small server, turning the value into JSON text and back included: 70 microseconds for a
`put` of a short answer, 10 for a `get`; 3 and 1.5 milliseconds for a conversation of 320 KiB, 6 and 2 for 1 MiB of one
string. Now and then a put carries the journal over into the file: up to 25 milliseconds after much writing.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from typing import Any

from relayd import clock
from relayd.errors import OptionError
from relayd.schema import section, setting
from relayd.stores import Bounds
from relayd.stores._space import Space

VERSION = 1
LOCK_WAIT_S = 0.25
OPEN_WAIT_S = 5.0  # at the start, when nobody is being served yet
ENTRY_BYTES = 200  # what an entry costs in the file beside its texts
LARGEST_SHARE = 4
_TOUCHED_AT_ONCE = 256
_SWEPT_AT_ONCE = 64
_SWEPT_BY_ASKING = 1000
_PAGES_GIVEN_BACK = 1024
_SWITCHES = 32

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

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


@section()
class Options:
    """The file."""

    path: str | None = setting(
        default=None, example="/var/lib/relayd/store.sqlite", pattern="/.*",
        doc="The file of sqlite; without it store.sqlite in the state directory.",
    )


class Store:
    """The store in the file `path`; owned by the daemon, used on the loop.

    `faults` counts what could not be kept or read. Raises OSError when the file cannot be made at all.
    """

    def __init__(
        self, path: str, max_entries: int, max_bytes: int, ttl_s: float, now: Callable[[], float] = clock.wall
    ) -> None:
        self._path = path
        self._max_entries, self._max_bytes, self._ttl_s, self._now = max_entries, max_bytes, ttl_s, now
        self._touched: dict[tuple[str, str], float] = {}  # accesses that the file does not know yet
        self.faults = 0
        self.notices: tuple[str, ...] = ()
        self._file = self._opened()

    @classmethod
    def open(cls, options: Options, bounds: Bounds) -> Store:
        """The store of a configuration. Raises OptionError."""
        path = options.path or os.path.join(bounds.folder, "store.sqlite")
        try:
            return cls(path, bounds.entries, bounds.size_bytes, bounds.ttl_s)
        except OSError as error:
            raise OptionError("path", f"{path} cannot be opened: {error.strerror or error}") from error

    @property
    def entries(self) -> int:
        """How many are kept."""
        return self._total("entries")

    @property
    def size_bytes(self) -> int:
        """How much is kept."""
        return self._total("size_bytes")

    def space(self, name: str) -> Space:
        """The memory of one name space."""
        return Space(self, name)

    def sweep(self) -> None:
        """Forget what is too old and give its room back to the disk, so much of it at a time that the loop goes on."""
        self._guarded(self._sweep_all, None)

    def close(self) -> None:
        """Write what is still to be written and close the file."""
        self._guarded(self._write_touches, None)
        self._file.close()

    def get(self, space: str, key: str) -> Any:
        """See Space.get."""
        return self._guarded(lambda: self._get(_stored(space), _stored(key)), None)

    def put(self, space: str, key: str, value: Any) -> None:
        """See Space.put."""
        text = _encode(value)
        self._guarded(lambda: self._put(_stored(space), _stored(key), text), None)

    def delete(self, space: str, key: str) -> bool:
        """See Space.delete."""
        return bool(self._guarded(lambda: self._delete(_stored(space), _stored(key)), False))

    # ---- with a file that works

    def _get(self, space: str, key: str) -> Any:
        row = self._file.execute(
            "SELECT value, used_s FROM entries WHERE space = ? AND key = ?", (space, key)
        ).fetchone()
        now_s = self._now()
        if row is None or now_s - self._touched.get((space, key), row[1]) > self._ttl_s:
            return None
        self._touched[space, key] = now_s
        if len(self._touched) >= _TOUCHED_AT_ONCE:
            self._in_one(self._write_touches)
        return json.loads(row[0])

    def _put(self, space: str, key: str, text: str) -> None:
        size_bytes = len(text) + 2 * (len(space) + len(key)) + ENTRY_BYTES
        self._in_one(lambda: self._exchange(space, key, text, size_bytes))

    def _exchange(self, space: str, key: str, text: str, size_bytes: int) -> None:
        self._write_touches()
        self._file.execute("DELETE FROM entries WHERE space = ? AND key = ?", (space, key))
        if size_bytes * LARGEST_SHARE > self._max_bytes or self._max_entries < 1:
            return
        self._forget_old(_SWEPT_AT_ONCE)
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
        self._file.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (space, key, self._now(), size_bytes, text))

    def _delete(self, space: str, key: str) -> bool:
        touched_s = self._touched.pop((space, key), None)
        row = self._file.execute(
            "DELETE FROM entries WHERE space = ? AND key = ? RETURNING used_s", (space, key)
        ).fetchone()
        return row is not None and self._now() - max(row[0], touched_s or row[0]) <= self._ttl_s

    def _sweep_all(self) -> None:
        self._in_one(self._write_touches)
        self._forget_old(_SWEPT_BY_ASKING)
        self._file.executescript(f"PRAGMA incremental_vacuum({_PAGES_GIVEN_BACK})")  # execute would take one step only

    def _forget_old(self, most: int) -> None:
        self._file.execute(
            "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE used_s < ? ORDER BY used_s LIMIT ?)",
            (self._now() - self._ttl_s, most),
        )

    def _write_touches(self) -> None:
        if self._touched:
            rows = [(used_s, space, key) for (space, key), used_s in self._touched.items()]
            self._file.executemany("UPDATE entries SET used_s = ? WHERE space = ? AND key = ?", rows)
            self._touched.clear()

    def _in_one(self, action: Callable[[], None]) -> None:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            action()
        except BaseException:  # rescue door: a transaction ends, whatever ends it
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def _total(self, measure: str) -> int:
        return int(
            self._guarded(
                lambda: self._file.execute(f"SELECT coalesce(sum({measure}), 0) FROM totals").fetchone()[0], 0
            )
        )

    # ---- with one that may not

    def _guarded(self, action: Callable[[], Any], otherwise: Any) -> Any:
        """What the action gives; `otherwise` when the file is locked, full or damaged. A damaged one is replaced."""
        try:
            return action()
        except sqlite3.OperationalError as fault:
            self.faults += 1
            self._notice(f"{self._path}: {fault}")
        except (sqlite3.DatabaseError, ValueError) as fault:
            self.faults += 1
            self._file.close()
            self._touched.clear()
            self._move_aside(str(fault))
            self._file = self._opened()
        return otherwise

    def _opened(self) -> sqlite3.Connection:
        file = self._connected()
        try:
            self._make_ready(file)
        except sqlite3.OperationalError:
            file.close()
            raise OSError(f"{self._path} is locked or cannot be written") from None
        except sqlite3.DatabaseError as fault:
            file.close()
            self._move_aside(str(fault))
            file = self._connected()
            self._make_ready(file)
        return file

    def _connected(self) -> sqlite3.Connection:
        try:  # nobody else may read it; and a file that is there is not opened: closing it would drop SQLite's locks
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        return sqlite3.connect(self._path, timeout=OPEN_WAIT_S, isolation_level=None, check_same_thread=False)

    @staticmethod
    def _make_ready(file: sqlite3.Connection) -> None:
        """Raises sqlite3.DatabaseError for a file that cannot be used."""
        _switch_to_wal(file)
        file.execute("PRAGMA synchronous = OFF")
        file.execute("PRAGMA journal_size_limit = 4194304")
        file.execute("BEGIN IMMEDIATE")  # two instances may begin at once
        try:
            version = file.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA:
                    file.execute(statement)
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"schema version {version} instead of {VERSION}")
        finally:
            file.execute("COMMIT")
        found = file.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        file.execute(f"PRAGMA busy_timeout = {int(LOCK_WAIT_S * 1000)}")

    def _move_aside(self, fault: str) -> None:
        aside = f"{self._path}.unusable"
        os.replace(self._path, aside)
        for ending in ("-wal", "-shm"):
            try:
                os.unlink(self._path + ending)
            except FileNotFoundError:
                pass
        self._notice(f"{self._path} cannot be used ({fault}): moved to {aside}, a new one was begun")

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices = (*self.notices, text)[-8:]


def _switch_to_wal(file: sqlite3.Connection) -> None:
    """The switch needs the file for itself, and gives up at once where another instance is about to switch too."""
    for _ in range(_SWITCHES):
        try:
            if file.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            file.execute("PRAGMA auto_vacuum = INCREMENTAL")
            file.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            file.execute("BEGIN IMMEDIATE")  # waits for the other
            file.execute("COMMIT")


def _stored(text: str) -> str:
    """A text that SQLite can hold: half a surrogate pair is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
