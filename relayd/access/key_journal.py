"""The key store as `relayd keys` writes it: a journal of records, and the times of last use.

    keys.jsonl     a header, then one line per change: the new state of one key
    used.json      the last use of each key, by id
    lock           locked (flock) while one of them is written

1. A change is on disk (fsync) before the command reports it. The journal grows by whole lines. It is replaced
   atomically when most of its lines are outdated, or when its last line is incomplete after a crash.
2. Files have mode 0600 and belong to the owner of the folder, also if root writes them. They contain digests, no keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping

from relayd.access.key_record import KeyRecord
from relayd.access.key_store import FILE, HEADER, KeyStore

LOCK, USED = "lock", "used.json"
OUTDATED_LINES = 1000  # more outdated lines than this, and than keys, are removed
RETENTION_S = 90 * 86400.0  # how long revoked and expired keys are listed


class JournalFault(Exception):
    """The journal cannot be used; the message says why."""


class KeyJournal:
    """The folder of the key store, for writing. Used by commands, and by the daemon for the times of last use."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self) -> KeyStore:
        """The present keys. Raises JournalFault if the file cannot be read."""
        store = KeyStore(self.folder)
        store.load()
        if store.problem and store.is_empty:
            raise JournalFault(store.problem)
        return store

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process writes, and let none write meanwhile. Raises OSError."""
        self._make_folder()
        descriptor = os.open(os.path.join(self.folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._give_to_owner(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def append(self, store: KeyStore, records: Iterable[KeyRecord], now_s: float) -> None:
        """Write the new states of keys. `store` are the present keys; the caller holds the lock. Raises OSError."""
        lines = [record.line() for record in records]
        latest = {record.id: record for record in store.records()}
        is_torn = not _ends_with_newline(store.path)
        if is_torn or store.problem or store.lines - len(latest) > max(OUTDATED_LINES, len(latest)):
            changed = {record.id: record for record in map(KeyRecord.of_line, lines)}
            lines = [record.line() for record in (latest | changed).values() if not is_forgotten(record, now_s)]
            self._replace(FILE, _header() + b"".join(lines))
            return
        descriptor = os.open(store.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            _write_all(descriptor, b"".join(lines), store.path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # ---- last use

    def read_used(self) -> dict[str, float]:
        """The last use by id (Unix seconds); empty if it is unknown."""
        try:
            with open(os.path.join(self.folder, USED), "rb") as file:
                found = json.load(file)
            return {str(name): float(at) for name, at in found.items() if math.isfinite(float(at))}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def write_used(self, used: Mapping[str, float], known: Iterable[str]) -> None:
        """Add times of use; those of several instances are merged. `known` are the ids that are kept. Raises
        OSError."""
        with self.locked():
            found = self.read_used()
            for name, at in used.items():
                found[name] = max(at, found.get(name, 0.0))
            latest = {name: int(found[name]) for name in known if name in found}
            self._replace(USED, json.dumps(latest, separators=(",", ":")).encode() + b"\n")

    # ---- files

    def _make_folder(self) -> None:
        if os.path.isdir(self.folder):
            return
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            parent = os.stat(os.path.dirname(self.folder))
            os.chown(self.folder, parent.st_uid, parent.st_gid)

    def _give_to_owner(self, descriptor: int) -> None:
        """Root gives its files to the owner of the folder, which is the user of the service."""
        if os.geteuid() == 0:
            owner = os.stat(self.folder)
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _replace(self, name: str, data: bytes) -> None:
        """Replace a file: after a crash it has its old or its new content."""
        path = os.path.join(self.folder, name)
        new = path + ".new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._give_to_owner(descriptor)
            _write_all(descriptor, data, path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _header() -> bytes:
    return HEADER + secrets.token_hex(16).encode() + b'"}\n'


def is_forgotten(record: KeyRecord, now_s: float) -> bool:
    """True if a revoked or expired key need not be listed any more."""
    ends = [end for end in (record.revoked_s, record.expires_s) if end]
    return bool(ends) and now_s - min(ends) > RETENTION_S


def _ends_with_newline(path: str) -> bool:
    """False if the file does not exist, or if its last line is incomplete."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:
        return False


def _write_all(descriptor: int, data: bytes, path: str) -> None:
    """Write the data to a file. Raises OSError, which names its path."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view):]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
