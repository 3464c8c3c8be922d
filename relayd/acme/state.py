"""The state of ACME on disk: accounts, certificates with their keys, attempts, pending challenges.

    accounts/HOST-DIGEST.json        one account per directory: its URL and its key
    certificates/NAME.pem            private key, certificate and intermediates in one file, so that they always match
    certificates/NAME.json           the Record: attempts, next attempt, time of renewal
    challenges/http-01/TOKEN         the response to a pending challenge
    challenges/tls-alpn-01/NAME.pem  the certificate for a pending challenge (RFC 8737)
    lock                             locked (flock) while an instance orders

1. Folders have mode 0700, files 0600. A file is replaced atomically: after a crash it has its old or new content.
2. Instances that share the folder share certificates and challenges; only the one with the lock writes certificates.
3. A damaged file is renamed to *.corrupt and treated as missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.schema.files import FileFault, read_file

MAX_BYTES = 1 << 20
RESERVED_BYTES = 32 * 1024  # more than a key and its chain need
TOKEN = lazy_regex(rb"[A-Za-z0-9_-]{1,256}")
CHALLENGE_PATH = b"/.well-known/acme-challenge/"
UNFINISHED = "an attempt has not finished"
FOLDERS = ("accounts", "certificates", "challenges/http-01", "challenges/tls-alpn-01")


class LockedByOther(Exception):
    """Another instance orders now."""


@dataclass(frozen=True, slots=True)
class Record:
    """The known state of the certificate of one name. Times are Unix seconds; 0 means never.

    `failures`: consecutive failed attempts. `next_try`: no attempt before. `renew_at`: the planned renewal, 0 without a
    certificate. `suggested` is true if the authority has suggested this time (ARI, RFC 9773), and `ask_at` the time to
    ask again. `held`: directories that asked for a pause, with its end. `origin`: the machine that has obtained the
    certificate, empty if it is this one.
    """

    directory: str = ""
    failures: int = 0
    tried_at: float = 0.0
    next_try: float = 0.0
    error: str = ""
    renew_at: float = 0.0
    suggested: bool = False
    ask_at: float = 0.0
    held: dict[str, float] = dataclasses.field(default_factory=dict)
    origin: str = ""

    @classmethod
    def of(cls, data: dict[str, Any]) -> Record:
        """The record of a JSON object. Unknown keys are ignored. Raises TypeError or ValueError."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        return cls(**{key: _converted(known[key].type, value) for key, value in data.items() if key in known})


class State:
    """The folder of one or several instances. Methods may be used from any thread; only challenge responses are read on
    the event loop. They raise OSError if the disk or the rights are the cause."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Create missing folders."""
        for name in ("", "challenges", *FOLDERS):
            os.makedirs(os.path.join(self.folder, name), mode=0o700, exist_ok=True)

    # ---- certificates

    def certificate_file(self, name: str) -> str:
        return os.path.join(self.folder, "certificates", f"{file_name(name)}.pem")

    def read_record(self, name: str) -> Record:
        data = self._read_json(self._record_file(name))
        try:
            return Record.of(data)
        except (TypeError, ValueError):
            self._set_aside(self._record_file(name))
            return Record()

    def write_record(self, name: str, record: Record) -> None:
        write_atomically(self._record_file(name), json.dumps(dataclasses.asdict(record), indent=1).encode() + b"\n")

    def _record_file(self, name: str) -> str:
        return os.path.join(self.folder, "certificates", f"{file_name(name)}.json")

    @contextlib.contextmanager
    def reserve(self, name: str) -> Iterator[None]:
        """Reserve disk space for a certificate before it is ordered, so that it can be stored."""
        path = self.certificate_file(name) + ".reserved"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
            yield
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def write_certificate(self, name: str, pem: bytes) -> None:
        """Store a key with its chain. The space that `reserve` holds is released first."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.certificate_file(name) + ".reserved")
        write_atomically(self.certificate_file(name), pem)

    def set_certificate_aside(self, name: str) -> None:
        """Rename a damaged certificate file."""
        self._set_aside(self.certificate_file(name))

    # ---- accounts

    def read_account(self, directory: str) -> dict[str, Any]:
        """The account at a directory; empty without one."""
        data = self._read_json(self._account_file(directory))
        return data if data.get("directory") == directory else {}

    def write_account(self, directory: str, account: dict[str, Any]) -> None:
        text = json.dumps({"directory": directory, **account}, indent=1)
        write_atomically(self._account_file(directory), text.encode() + b"\n")

    def _account_file(self, directory: str) -> str:
        host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(directory).netloc)
        digest = hashlib.sha256(directory.encode()).hexdigest()[:8]
        return os.path.join(self.folder, "accounts", f"{host}-{digest}.json")

    # ---- challenges

    def add_challenge(self, kind: str, key: str, content: bytes) -> None:
        """Answer a challenge from now on. `key`: the token of http-01, the name of tls-alpn-01."""
        write_atomically(self._challenge_file(kind, key), content)

    def remove_challenge(self, kind: str, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._challenge_file(kind, key))

    def remove_challenges(self) -> None:
        """Remove the challenges that a killed process has left. Only while `lock` is held."""
        for kind in ("http-01", "tls-alpn-01"):
            folder = os.path.join(self.folder, "challenges", kind)
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))

    def http_response(self, path: bytes) -> bytes | None:
        """The response to a request of http-01 (RFC 8555 8.3); None if no such challenge is pending."""
        token = path.removeprefix(CHALLENGE_PATH)
        if TOKEN.fullmatch(token) is None:
            return None
        try:
            return read_file(self._challenge_file("http-01", token.decode("ascii")), MAX_BYTES)[0]
        except FileFault:
            return None

    def tls_challenges(self) -> bool:
        """True if a challenge of tls-alpn-01 is pending."""
        try:
            with os.scandir(os.path.join(self.folder, "challenges/tls-alpn-01")) as entries:
                return any(entry.name.endswith(".pem") for entry in entries)
        except OSError:
            return False

    def tls_challenge_file(self, name: str) -> str:
        return self._challenge_file("tls-alpn-01", name)

    def _challenge_file(self, kind: str, key: str) -> str:
        name = key if kind == "http-01" else f"{file_name(key)}.pem"
        return os.path.join(self.folder, "challenges", kind, name)

    # ---- the lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude all other instances. Raises LockedByOther without waiting."""
        descriptor = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "rb"):  # its close releases the lock
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedByOther from None
            yield

    # ---- files

    def _read_json(self, path: str) -> dict[str, Any]:
        if not os.path.exists(path):
            return {}
        try:
            data = json.loads(read_file(path, MAX_BYTES)[0])
            if isinstance(data, dict):
                return data
        except FileFault as fault:
            raise OSError(f"{path}: cannot be read: {fault}") from None
        except (ValueError, RecursionError):
            pass
        self._set_aside(path)
        return {}

    def _set_aside(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, f"{path}.corrupt")


def file_name(name: str) -> str:
    """The stem of the files of a DNS name. It is `_.example.org` for `*.example.org`; host names have no underscore."""
    return name.lower().replace("*", "_")


def write_atomically(path: str, content: bytes) -> None:
    """Replace a file, or leave it as it is. Raises OSError."""
    new = f"{path}.new"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _converted(kind: object, value: Any) -> Any:
    """A value of a record. Raises TypeError or ValueError for another type."""
    if kind == "dict[str, float]":
        return {str(key): float(one) for key, one in value.items()} if isinstance(value, dict) else _wrong()
    if kind == "float" and not isinstance(value, bool) and isinstance(value, (int, float)):
        return float(value)
    if {"str": str, "int": int, "bool": bool}.get(str(kind)) is type(value):
        return value
    return _wrong()


def _wrong() -> Any:
    raise TypeError
