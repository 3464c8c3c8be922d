"""Storage between exchanges: bounded, with a time to live, and a separate name space for each consumer.

A kind is a module with a docstring (its manual entry), `Options` (its keys of `store:`) and a class `Store`, made by
`Store.open(options, bounds)`, which raises OptionError. A kind that writes a file returns its path from
`file_of(options, bounds)`. Every kind fulfils the same contract (tests/unit/stores/test_contract.py):

    store.space(name) -> a Space with get(key), put(key, value), delete(key), lost(key); values are plain JSON data
    store.sweep()     -> deletes expired entries; called periodically by the owner of the store
    store.entries, store.size_bytes, store.notices
    store.close()

1. `get` returns a copy of the value, so changing it does not change the store.
2. An access renews an entry. An entry that was not accessed for `ttl_s` expires.
3. If the store is full, the least recently used entry of the largest space is evicted first, so a consumer that fills
   the store evicts its own entries.
4. A value larger than a quarter of the store is not stored, and the value that it would have replaced is deleted.
5. The contents of a store cause no exception: a value that cannot be written or read counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a store: entries, bytes and time to live. `folder` is the state directory for the store's files.
    `may_wait` is true before any client is served, so that opening may wait for a lock."""

    entries: int
    size_bytes: int
    ttl_s: float
    folder: str
    may_wait: bool = True
