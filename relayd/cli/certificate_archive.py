"""An archive of the ACME state, for backup and recovery: accounts, certificates with their keys, attempts.

1. The archive contains private keys: it is created with mode 0600, and an existing file is not replaced.
2. Nothing of an archive is used before all of it was checked. Names, sizes and types of its members are restricted.
3. A certificate that is valid longer than the one in the archive stays.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator

from relayd.acme.state import MAX_BYTES, State, write_atomically
from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.server.expiry import validity_of_all

MEMBER = lazy_regex(r"(accounts/[A-Za-z0-9._-]{1,300}\.json|certificates/[A-Za-z0-9._-]{1,260}\.(json|pem))")
MAX_MEMBERS = 10_000


class ArchiveFault(Exception):
    """The archive cannot be written or used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The names of certificates that were restored, and of those that stayed because they are valid longer."""

    restored: tuple[str, ...]
    retained: tuple[str, ...]


def export(state: State, file: str) -> int:
    """Write an archive. Returns the number of certificates. Raises ArchiveFault, OSError, LockedByOther."""
    with state.lock():
        members = list(_files(state.folder))
    if not members:
        raise ArchiveFault(f"{state.folder} contains no accounts and no certificates")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name in members:
                archive.add(os.path.join(state.folder, name), name, recursive=False)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(file)
        raise
    return sum(name.endswith(".pem") for name in members)


def restore(state: State, file: str) -> Imported:
    """Restore an archive. Raises ArchiveFault, OSError, LockedByOther."""
    contents = _checked(file)
    with _as_owner_of(state.folder if os.path.isdir(state.folder) else os.path.dirname(state.folder)):
        state.prepare()
        return _restored(state, contents)


def _restored(state: State, contents: dict[str, bytes]) -> Imported:
    restored, retained = [], []
    with state.lock():
        for name, content in sorted(contents.items()):
            stem = os.path.basename(name).rpartition(".")[0]
            pem = f"certificates/{stem}.pem"
            present = os.path.join(state.folder, pem)
            if name.startswith("certificates/") and _is_valid_longer(present, contents.get(pem, b"")):
                retained += [stem] if name.endswith(".pem") else []
                continue
            write_atomically(os.path.join(state.folder, name), content)
            restored += [stem] if name.endswith(".pem") else []
    return Imported(tuple(restored), tuple(retained))


@contextlib.contextmanager
def _as_owner_of(folder: str) -> Iterator[None]:
    """Let root write as the owner of a folder: the files belong to the daemon, and no link in it
    leads root elsewhere."""
    user, group = os.geteuid(), os.getegid()
    owner = os.stat(folder)
    if user == 0:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)
            os.setegid(group)


def _files(folder: str) -> list[str]:
    found = []
    for kind in ("accounts", "certificates"):
        with contextlib.suppress(FileNotFoundError):
            found += [f"{kind}/{name}" for name in sorted(os.listdir(os.path.join(folder, kind)))]
    return [name for name in found if MEMBER.fullmatch(name)]


def _checked(file: str) -> dict[str, bytes]:
    """The members of an archive. Raises ArchiveFault for anything that `export` does not write."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                if len(contents) >= MAX_MEMBERS:
                    raise ArchiveFault(f"{file}: contains more than {MAX_MEMBERS} files")
                if not member.isreg() or MEMBER.fullmatch(member.name) is None or member.size > MAX_BYTES:
                    raise ArchiveFault(f"{file}: {member.name[:100]!r} does not belong into an archive of certificates")
                source = archive.extractfile(member)
                contents[member.name] = b"" if source is None else source.read(MAX_BYTES)
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveFault(f"{file}: is not an archive of `relayd certs export`: {error}") from None
    for name, content in contents.items():
        try:
            if name.endswith(".json"):
                if not isinstance(json.load(io.BytesIO(content)), dict):
                    raise ValueError("contains no JSON object")
            else:
                validity_of_all(content)
                if b"PRIVATE KEY-----" not in content:
                    raise ValueError("contains no private key")
        except (ValueError, RecursionError) as error:
            raise ArchiveFault(f"{file}: {name} {error}") from None
    if not contents:
        raise ArchiveFault(f"{file}: is empty")
    return contents


def _is_valid_longer(file: str, other: bytes) -> bool:
    """True if a certificate file exists and ends later than another certificate."""
    try:
        with open(file, "rb") as mine:
            return validity_of_all(mine.read(MAX_BYTES)).ends_s > (validity_of_all(other).ends_s if other else 0.0)
    except (OSError, ValueError):
        return False
