"""The state directory: names the folders of the store, of certificates and of issued keys, and loads the key that seals
data which clients hold for relayd.

1. Instances of one host (relayd@NAME.service) share the store, the key and both folders, because each request of a
   client may reach another instance. The ledger and the generations belong to one instance.
2. A key that cannot be stored is reported and is used by this process only; data sealed with it cannot be opened after
   a restart, nor by another instance.
"""

from __future__ import annotations

import fcntl
import os
import secrets

from relayd.daemon.generations import SYSTEM_STATE

KEY_FILE, KEY_BYTES = "seal.key", 32
ACME, KEYS, SHARED = "acme", "keys", "shared"


def state_folder() -> str:
    """The state directory that systemd passes to the service (StateDirectory=); empty without one."""
    return os.environ.get("STATE_DIRECTORY", "").partition(":")[0]


def acme_folder() -> str:
    """The folder of ACME certificates."""
    return _shared_folder(ACME)


def keys_folder() -> str:
    """The folder of the key store."""
    return _shared_folder(KEYS)


def shared_folder() -> str:
    """The folder of the store and of the sealing key; empty without a state directory."""
    return _granted_folder(SHARED) or state_folder()


def _shared_folder(name: str) -> str:
    """A folder in the state directory, or the one that instances share."""
    return _granted_folder(name) or os.path.join(state_folder() or SYSTEM_STATE, name)


def _granted_folder(name: str) -> str:
    """The state directory of this name that instances share (StateDirectory=relayd/NAME relayd/acme relayd/keys
    relayd/shared); empty if systemd passes none."""
    for folder in os.environ.get("STATE_DIRECTORY", "").split(":"):
        if os.path.basename(folder) == name:
            return folder
    return ""


def seal_key() -> tuple[bytes, str]:
    """Load or create the key. Returns it and the error why it could not be stored, or an empty string.

    Of several instances that start at the same time, the first one creates it.
    """
    folder = shared_folder()
    if not folder:
        return secrets.token_bytes(KEY_BYTES), ""
    path = os.path.join(folder, KEY_FILE)
    try:
        return _stored_key(path) or _create_key(path), ""
    except OSError as error:
        return secrets.token_bytes(KEY_BYTES), f"{path}: {error.strerror}"


def _stored_key(path: str) -> bytes:
    """The key in a file; empty if there is none, or if it is damaged. Raises OSError."""
    try:
        with open(path, "rb") as file:
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        return b""
    return key if len(key) == KEY_BYTES else b""


def _create_key(path: str) -> bytes:
    """Write a new key, unless another instance has written one. Returns the key of the file. Raises OSError."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held until the file is closed, so its content is complete
        key = file.read(KEY_BYTES + 1)
        if len(key) != KEY_BYTES:
            key = secrets.token_bytes(KEY_BYTES)
            file.seek(0)
            file.write(key)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        return key
