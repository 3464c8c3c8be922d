"""The ledger's file in the state directory: what requests have cost, and how much of rates and budgets is used.

1. Several processes may share the file. Each adds its sums to the rows of `spend`, so nothing is counted twice or lost.
   The windows of rates and budgets are those of one process: the last one that wrote a window determines it.
2. It is written in one transaction per flush, with a write-ahead log: a process that is killed loses what it has not
   flushed. A host that loses power may lose the last transactions, but not the file.
3. A file that cannot be read is renamed with the time, and a new one is created; `notices` has a message. It is never
   deleted.

All methods of LedgerFile block and raise sqlite3.Error. One thread at a time calls them (daemon/ledger_writer).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from relayd import clock

FILE = "ledger.sqlite"
VERSION = 1
WAIT_S = 1.0  # for a lock that another process holds
KEYS = ("day", "consumer", "grp", "route", "upstream", "model", "currency")
SUMS = ("requests", "unpriced", "input", "output", "cached_read", "cache_write", "reasoning", "cost_nano", "estimated")
ADDED = "estimated"  # a column that files of earlier versions do not have

Row = tuple[Sequence[str], Sequence[int]]
"""Values of KEYS, and of SUMS."""

_REPLACE = "INSERT INTO windows VALUES (?, ?) ON CONFLICT DO UPDATE SET state = excluded.state"
_SCHEMA = (
    f"CREATE TABLE spend ({', '.join(f'{key} TEXT NOT NULL' for key in KEYS)},"
    f" {', '.join(f'{name} INTEGER NOT NULL' for name in SUMS)}, PRIMARY KEY ({', '.join(KEYS)})) WITHOUT ROWID",
    "CREATE TABLE windows (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)
_ADD = (
    f"INSERT INTO spend ({', '.join((*KEYS, *SUMS))}) VALUES ({', '.join('?' * (len(KEYS) + len(SUMS)))})"
    " ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
)


class LedgerFile:
    """The write connection, opened when it is needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.notices: list[str] = []
        self._file: sqlite3.Connection | None = None
        self._inode = 0

    def write(self, rows: Iterable[Row], windows: Iterable[tuple[str, Any]]) -> None:
        """Add the sums, and replace the windows; all or nothing. A window whose state is None is deleted."""
        with self._mended(), self._transaction() as file:
            file.executemany(_ADD, ([*key, *sums] for key, sums in rows))
            for key, state in windows:
                if state is None:
                    file.execute("DELETE FROM windows WHERE key = ?", (key,))
                else:
                    file.execute(_REPLACE, (key, json.dumps(state, separators=(",", ":"))))

    def forget(self, consumer: str) -> int:
        """Delete the rows of a consumer. Returns their number."""
        with self._mended(), self._transaction() as file:
            return file.execute("DELETE FROM spend WHERE consumer = ?", (consumer,)).rowcount

    def rows(self) -> dict[str, int]:
        """The number of rows by consumer."""
        with self._mended():
            return dict(self._opened().execute("SELECT consumer, count(*) FROM spend GROUP BY consumer"))

    def windows(self) -> list[tuple[str, Any]]:
        """The saved windows; a state that cannot be read is None."""
        with self._mended():
            return [(key, _state(text)) for key, text in self._opened().execute("SELECT key, state FROM windows")]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    @contextlib.contextmanager
    def _mended(self) -> Iterator[None]:
        """Set the file aside if it proves to be damaged; the caller repeats its call. After a fault the file is opened
        anew."""
        try:
            yield
        except sqlite3.Error as error:
            self.close()
            if type(error) is sqlite3.DatabaseError:  # every other condition has a class of its own
                self._set_aside(str(error))
            raise
        except OSError as error:
            raise sqlite3.OperationalError(f"unable to open: {error}") from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        file = self._opened()
        file.execute("BEGIN IMMEDIATE")
        try:
            yield file
            file.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):  # SQLite has already rolled back if the disk is full
                file.execute("ROLLBACK")
            raise

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that has the path now: another process may have set a damaged one aside."""
        if self._file is not None and self._inode != inode_of(self.path):
            self.close()
        if self._file is not None:
            return self._file
        try:  # mode 0600; an existing file is not opened, because closing it would release SQLite's locks
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            for ending in ("-wal", "-shm"):  # of a file that was removed: they must not be applied to this one
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self.path + ending, f"{self.path}.removed{ending}")
        except FileExistsError:
            pass
        except OSError as error:
            raise sqlite3.OperationalError(f"unable to open: {error.strerror}") from None
        file = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(file)
        except sqlite3.Error:
            file.close()
            raise
        self._file, self._inode = file, inode_of(self.path)
        return file

    def _set_aside(self, why: str) -> None:
        """Rename the file and its companions."""
        stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(clock.wall()))
        aside = f"{self.path}.{stamp}"
        try:
            for ending in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self.path + ending, aside + ending)
        except OSError as error:
            raise sqlite3.OperationalError(f"unable to open: {why}; it cannot be renamed: {error.strerror}") from None
        self.notices.append(f"{self.path} cannot be read ({why}); it was renamed to {aside}, and a new one was created")


def _state(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def inode_of(path: str) -> int:
    """The inode of a file, 0 if it does not exist."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _prepare(file: sqlite3.Connection) -> None:
    """Create or check the tables."""
    version = file.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, VERSION):
        raise sqlite3.DatabaseError(f"it has the format {version} of another version of relayd")
    if (found := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(str(found))
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    if version == VERSION and _has_added(file):
        return
    file.execute("BEGIN IMMEDIATE")
    if file.execute("PRAGMA user_version").fetchone()[0] == 0:  # another process may have been faster
        for statement in _SCHEMA:
            file.execute(statement)
    elif not _has_added(file):
        file.execute(f"ALTER TABLE spend ADD COLUMN {ADDED} INTEGER NOT NULL DEFAULT 0")
    file.execute("COMMIT")


def _has_added(file: sqlite3.Connection) -> bool:
    return any(column[1] == ADDED for column in file.execute("PRAGMA table_info(spend)"))


def read_spend(path: str, since: str, until: str) -> Iterator[Row]:
    """The rows of these days, both included, read without changing the file. Raises sqlite3.Error."""
    file = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=WAIT_S)
    with contextlib.closing(file):
        if file.execute("PRAGMA user_version").fetchone()[0] == 0:
            return  # created on a full disk: it has no tables yet
        columns = ", ".join((*KEYS, *SUMS) if _has_added(file) else (*KEYS, *SUMS[:-1], "0"))
        found = file.execute(f"SELECT {columns} FROM spend WHERE day >= ? AND day <= ? ORDER BY day", (since, until))
        for row in found:
            yield row[: len(KEYS)], row[len(KEYS) :]


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
