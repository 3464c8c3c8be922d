"""What a relayd that does not run has stored about consumers in its state directory, and its deletion.

1. The files are those of the SQLite store and of the ledger, also of instances. None is created.
2. A store in Redis, or at another path of `store: path`, is not known here: the running relayd is asked about it.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from relayd import registry
from relayd.config.store import SQLITE, STORES
from relayd.limits.counter import is_of, owner_of
from relayd.limits.ledger_file import FILE, LedgerFile
from relayd.limits.limit_set import network_of
from relayd.server.admin_state import CACHED, KINDS, MOST_ENTRIES, kind_of
from relayd.stores import Listed

STORE = "store.sqlite"
UNBOUNDED = 1 << 60  # nothing is evicted
TTL_S = 86400.0  # of entries that are written, of which there are none


def show(folder: str) -> list[dict[str, Any]]:
    """One item for each kind and consumer, as the running relayd shows them. Raises OSError, sqlite3.Error."""
    entries, size_bytes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for store in _stores(folder):
        for one in _listed(store):
            kind, consumer = kind_of(one)
            entries[consumer, kind] += 1
            size_bytes[consumer, kind] += one.size_bytes
    for ledger in _ledgers(folder):
        entries.update({(consumer, "spend"): rows for consumer, rows in ledger.rows().items()})
        entries.update((owner, "window") for key in _windows(ledger) if (owner := owner_of(key)))
    return [
        {"consumer": consumer, "kind": kind, "entries": count, "bytes": size_bytes[consumer, kind]}
        for (consumer, kind), count in sorted(entries.items())
    ]


def forget(folder: str, consumer: str, *, dry_run: bool) -> dict[str, int]:
    """Delete the data of a consumer. Returns the numbers of deleted entries by kind. Raises OSError, sqlite3.Error."""
    found = dict.fromkeys((*(kind for kind, _ in KINDS), CACHED, "window", "spend"), 0)
    for store in _stores(folder):
        for one in _listed(store):
            kind, owner = kind_of(one)
            if owner == consumer:
                found[kind] += 1
                if not dry_run:
                    store.space(one.space).delete(one.key)
        store.settle()
    owner = network_of(consumer[1:]) if consumer.startswith("@") else consumer
    for ledger in _ledgers(folder):
        keys = [key for key in _windows(ledger) if is_of(key, owner)]
        found["window"] += len(keys)
        found["spend"] += ledger.rows().get(consumer, 0) if dry_run else ledger.forget(consumer)
        if not dry_run:
            ledger.write((), [(key, None) for key in keys])
    return found


def _listed(store: Any) -> list[Listed]:
    steps = store.list_steps("", MOST_ENTRIES)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            listed: list[Listed] = end.value
            return listed


def _stores(folder: str) -> Iterator[Any]:
    for path in (os.path.join(folder, STORE), os.path.join(folder, "shared", STORE)):
        if os.path.exists(path):
            store = registry.load(STORES, SQLITE).Store(path, UNBOUNDED, UNBOUNDED, TTL_S)
            with contextlib.closing(store):
                yield store


def _ledgers(folder: str) -> Iterator[LedgerFile]:
    for path in sorted((*glob.glob(os.path.join(folder, FILE)), *glob.glob(os.path.join(folder, "*", FILE)))):
        with contextlib.closing(LedgerFile(path)) as ledger:
            yield ledger


def _windows(ledger: LedgerFile) -> list[str]:
    """The keys of windows in which something is used."""
    return [key for key, state in ledger.windows() if state and state[1]]
