"""Key documents of issuers in the state directory, so that tokens are verified after a restart while an issuer is down.

1. A document is kept as it was received, in a file named by a digest of its URL; the time of the file is that of the
   reading. It is parsed like a received one.
2. Files that were not written for LONGEST_KEPT_S are removed.
3. Instances and readings of one URL may write at the same time: each writes a file of its own, which then takes the
   place of the document.

All functions block.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile

from relayd import clock
from relayd.access.key_set import MAX_BYTES
from relayd.schema.files import FileFault, read_file

FOLDER = "issuer_keys"
LONGEST_KEPT_S = 30 * 86_400.0


def path_of(state: str, url: str) -> str:
    """The file of a URL below a state directory."""
    return os.path.join(state, FOLDER, f"{hashlib.sha256(url.encode()).hexdigest()[:40]}.json")


def read_document(state: str, url: str, keep_s: float) -> tuple[bytes, float] | None:
    """The document of a URL and its age in seconds; None without one, or if it is older than `keep_s`."""
    try:
        data, status = read_file(path_of(state, url), MAX_BYTES)
    except FileFault:
        return None
    age_s = max(0.0, clock.wall() - status.st_mtime)
    return (data, age_s) if age_s <= keep_s else None


def write_document(state: str, url: str, data: bytes) -> str:
    """Keep a document. Returns the reason if that fails, else an empty text."""
    path = path_of(state, url)
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        descriptor, new = tempfile.mkstemp(".new", f"{name}.", folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(new, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        _remove_old(folder)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _remove_old(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another instance was faster
                if clock.wall() - entry.stat().st_mtime > LONGEST_KEPT_S:
                    os.unlink(entry.path)
