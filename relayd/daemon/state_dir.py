"""The state directory: opens the configured store, and loads the key that seals data which clients hold for relayd.

1. A store that cannot be opened makes the configuration invalid.
2. A key that cannot be stored is reported and is used by this process only; data sealed with it cannot be opened after
   a restart.
"""

from __future__ import annotations

import os
import secrets

from relayd import registry
from relayd.config.store import STORES
from relayd.config.store import Store as StoreSection
from relayd.daemon.generations import SYSTEM_STATE
from relayd.errors import ConfigError, Finding, OptionError
from relayd.proxy.ports import Store
from relayd.schema.plugins import options_of
from relayd.stores import Bounds

KEY_FILE, KEY_BYTES = "seal.key", 32


def state_folder() -> str:
    """The state directory that systemd passes to the service (StateDirectory=); empty without one."""
    return os.environ.get("STATE_DIRECTORY", "").partition(":")[0]


def open_store(section: StoreSection, *, serving: bool = False) -> Store:
    """Open the configured store. While relayd is `serving`, it does not wait for locks. Raises ConfigError."""
    bounds = Bounds(
        section.entries, int(section.size), float(section.ttl), state_folder() or SYSTEM_STATE, may_wait=not serving
    )
    try:
        store: Store = registry.load(STORES, section.kind).Store.open(options_of(section, STORES, section.kind), bounds)
        return store
    except ImportError as error:
        raise ConfigError([Finding("", 0, 0, "store.kind", f"needs the Python package {error.name}")]) from error
    except OptionError as error:
        raise ConfigError([Finding("", 0, 0, f"store.{error.key}", error.message)]) from error


def seal_key() -> tuple[bytes, str]:
    """Load or create the key. Returns it and the error why it could not be stored, or an empty string."""
    folder = state_folder()
    if not folder:
        return secrets.token_bytes(KEY_BYTES), ""
    path = os.path.join(folder, KEY_FILE)
    try:
        with open(path, "rb") as file:
            key = file.read(KEY_BYTES + 1)
        if len(key) == KEY_BYTES:
            return key, ""
    except FileNotFoundError:
        pass
    except OSError as error:
        return secrets.token_bytes(KEY_BYTES), f"{path}: {error.strerror}"
    key = secrets.token_bytes(KEY_BYTES)
    try:
        store = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(store, "wb") as file:
            file.write(key)
        os.replace(path + ".new", path)
    except OSError as error:
        return key, f"{path}: {error.strerror}"
    return key, ""
