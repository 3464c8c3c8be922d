"""The state directory: opens the configured store, names the folders of certificates and of issued keys, and loads the
key that seals data which clients hold for relayd.

1. Instances of one host (relayd@NAME.service) share the store, the key and both folders, because each request of a
   client may reach another instance. The ledger and the generations belong to one instance.
2. A store that cannot be opened makes the configuration invalid, unless it is the default one: then data is stored in
   memory.
3. A key that cannot be stored is reported and is used by this process only; data sealed with it cannot be opened after
   a restart, nor by another instance.
"""

from __future__ import annotations

import fcntl
import os
import secrets

from relayd import registry
from relayd.config.store import MEMORY, SQLITE, STORES
from relayd.config.store import Store as StoreSection
from relayd.daemon.generations import SYSTEM_STATE
from relayd.errors import ConfigError, Finding, OptionError
from relayd.proxy.ports import Store
from relayd.schema.plugins import options_of
from relayd.stores import Bounds

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


def open_store(section: StoreSection, *, serving: bool = False) -> Store:
    """Open the configured store. While relayd is `serving`, it does not wait for locks. Raises ConfigError."""
    bounds = Bounds(
        section.entries, int(section.size), float(section.ttl), shared_folder() or SYSTEM_STATE, may_wait=not serving
    )
    if section.kind is None:
        return _open_default(section, bounds)
    try:
        return _open_kind(section, section.kind, bounds)
    except ImportError as error:
        raise ConfigError([Finding("", 0, 0, "store.kind", f"needs the Python package {error.name}")]) from error
    except OptionError as error:
        raise ConfigError([Finding("", 0, 0, f"store.{error.key}", error.message)]) from error


def _open_default(section: StoreSection, bounds: Bounds) -> Store:
    """The store of a configuration that names no kind: a file in the state directory, or memory."""
    if not shared_folder():
        return _open_kind(section, MEMORY, bounds)
    try:
        return _open_kind(section, SQLITE, bounds)
    except OptionError as error:
        memory = registry.load(STORES, MEMORY).Store.open(options_of(section, STORES, MEMORY), bounds)
        memory.notices = (f"{error.message}; data is stored in memory and is lost when relayd ends",)
        store: Store = memory
        return store


def _open_kind(section: StoreSection, kind: str, bounds: Bounds) -> Store:
    """Open a store. Raises ImportError, OptionError."""
    store: Store = registry.load(STORES, kind).Store.open(options_of(section, STORES, kind), bounds)
    return store


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
