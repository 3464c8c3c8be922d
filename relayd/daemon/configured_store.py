"""Opens the store of the configuration. A store that cannot be opened makes the configuration invalid, unless it is the
default one: then data is stored in memory.
"""

from __future__ import annotations

from relayd import registry
from relayd.config.store import MEMORY, SQLITE, STORES
from relayd.config.store import Store as StoreSection
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.state_dir import shared_folder
from relayd.errors import ConfigError, Finding, OptionError
from relayd.proxy.ports import Store
from relayd.schema.plugins import options_of
from relayd.stores import Bounds


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
