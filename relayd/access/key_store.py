"""The key store as the daemon reads it: the keys that `relayd keys` issues, by digest.

1. A change is in force for the next request: each look-up compares the status of the file (one os.stat). Changes are
   appended to the file, so that only they are read. A revocation needs no reload and no message to the daemon.
2. A look-up costs the same for any number of keys.
3. Many changes at once, as after an import, are read in steps: `find` raises KeysBehind, and the caller tries again
   after them. Until then no key of the store is accepted, because a revocation may be among the changes.
4. A file that cannot be read leaves the known keys in force and is reported (`problem`); a damaged line is left out. A
   file that was removed contains no keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from relayd import clock
from relayd.access.key_record import KeyRecord
from relayd.wire.json_steps import Steps

FILE = "keys.jsonl"
HEADER = b'{"relayd_keys":1,"file":"'
HEADER_BYTES = len(HEADER) + 32 + len(b'"}\n')
STEP_BYTES = 24 * 1024  # some 80 lines, a third of a millisecond
INLINE_STEPS = 2  # what one look-up may read without waiting
Status = tuple[int, int, int] | None  # inode, size, time of modification (ns); None without a file


class KeysBehind(Exception):
    """There are too many changes to be read at once. `steps` reads them."""

    def __init__(self, steps: Steps[None]) -> None:
        super().__init__()
        self.steps = steps


class _Table:
    """The keys of one file, up to `offset`."""

    __slots__ = ("active", "by_digest", "damaged", "header", "inode", "lines", "offset", "records")

    def __init__(self, inode: int = 0, header: bytes = b"") -> None:
        self.inode, self.header = inode, header
        self.offset = len(header)
        self.lines = self.active = 0  # active: keys that are not revoked
        self.damaged: list[int] = []  # numbers of damaged lines
        self.records: dict[str, KeyRecord] = {}
        self.by_digest: dict[bytes, tuple[bytes, KeyRecord, float]] = {}  # the digest again, its key, its end

    def put(self, record: KeyRecord) -> None:
        """Add a key, or replace it by its new state."""
        by_digest, old = self.by_digest, self.records.get(record.id)
        for digest, _ in () if old is None else old.digests():
            if (found := by_digest.get(digest)) is not None and found[1] is old:
                del by_digest[digest]
        self.active += (not record.revoked_s) - (old is not None and not old.revoked_s)
        self.records[record.id] = record
        for digest, end_s in record.digests():
            by_digest[digest] = (digest, record, end_s)

    def parse(self, data: bytes) -> None:
        """Read the complete lines of a piece."""
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            self.lines += 1
            try:
                self.put(KeyRecord.of_line(line))
            except ValueError:
                self.damaged.append(self.lines + 1)  # behind the header
        self.offset += end


class KeyStore:
    """The keys of one folder. One per process. Never writes."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, FILE)
        self.problem = ""  # why the file, or a part of it, cannot be read
        self.used: dict[str, float] = {}  # last use by id (Unix seconds), emptied by its reader
        self._table = _Table()
        self._incoming: _Table | None = None  # of a file that was replaced, until it is read
        self._status: Status = None

    @property
    def is_empty(self) -> bool:
        """True if no key was ever issued."""
        return not self._table.records

    @property
    def active(self) -> int:
        """The number of keys that are not revoked."""
        return self._table.active

    def records(self) -> Iterator[KeyRecord]:
        """All known keys, including revoked ones, in the order of their creation."""
        return iter(self._table.records.values())

    @property
    def lines(self) -> int:
        """The number of lines that were read."""
        return self._table.lines

    def load(self) -> None:
        """Read the whole file now, if there is one."""
        if os.path.lexists(self.path):
            for _ in self._read():
                pass

    def refresh(self) -> None:
        """Read the changes. Raises KeysBehind if that takes longer than one turn of the event loop may."""
        try:
            status = _status(os.stat(self.path))
        except FileNotFoundError:
            if self._status is not None:
                self._table, self._incoming, self._status, self.problem = _Table(), None, None, ""
            return
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
            return
        if status != self._status:
            steps = self._read()
            for _ in range(INLINE_STEPS):
                if next(steps, self) is self:
                    return
            raise KeysBehind(steps)

    def find(self, digest: bytes) -> tuple[bytes, KeyRecord] | None:
        """The stored digest and the valid key that it identifies, or None. Raises KeysBehind."""
        self.refresh()
        found = self._table.by_digest.get(digest)
        if found is None:
            return None
        stored, record, end_s = found
        now_s = clock.wall()
        if now_s >= end_s:
            return None
        self.used[record.id] = now_s
        return stored, record

    def _read(self) -> Steps[None]:
        """Read the file from where the last reading ended, or a replaced file from its beginning."""
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                self.problem = f"{self.path}: {error.strerror}"
                return
            try:
                if self._read_piece(descriptor):
                    return
            except OSError as error:
                self.problem = f"{self.path}: {error.strerror}"
                return
            finally:
                os.close(descriptor)
            yield

    def _read_piece(self, descriptor: int) -> bool:
        """Read a piece of the file. Returns True at its end."""
        state = os.fstat(descriptor)
        header = os.pread(descriptor, HEADER_BYTES, 0)
        if not header.startswith(HEADER) or len(header) < HEADER_BYTES:
            self.problem = f"{self.path}: is no key store of relayd"
            self._status = _status(state)
            return True
        table = self._incoming or self._table
        if table.inode != state.st_ino or table.header != header or table.offset > state.st_size:
            table = self._incoming = _Table(state.st_ino, header)
        data = os.pread(descriptor, STEP_BYTES, table.offset)
        before = table.offset
        table.parse(data)
        if len(data) == STEP_BYTES and table.offset == before:
            self.problem = f"{self.path}: line {table.lines + 2} is too long"
            self._status = _status(state)
            return True
        if len(data) == STEP_BYTES:
            return False
        self._table, self._incoming, self._status = table, None, _status(state)
        lines = ", ".join(map(str, table.damaged[:5]))
        self.problem = f"{self.path}: damaged lines, which are left out: {lines}" if table.damaged else ""
        return True


def _status(state: os.stat_result) -> Status:
    return state.st_ino, state.st_size, state.st_mtime_ns
