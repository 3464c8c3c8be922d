"""Storage between exchanges: bounded, with a time to live, and a separate name space for each consumer.

A kind is a module with a docstring (its manual entry), `Options` (its keys of `store:`) and a class `Store`, made by
`Store.open(options, bounds)`, which raises OptionError. A kind that writes a file returns its path from
`file_of(options, bounds)`. Every kind fulfils the same contract (tests/unit/stores/test_contract.py):

    store.space(name, ttl_s, most_bytes) -> a Space: get_steps(key), put(key, value), delete(key), lost(key); values are
        plain JSON data. get(key) does not wait: if the store must be asked, it finds what this process has put or
        fetched before with fetch_steps(keys)
    store.sweep()     -> deletes expired entries; called periodically by the owner of the store
    store.list_steps(prefix, most) -> up to `most` entries (Listed) of the spaces whose names begin with `prefix`
    store.count_steps(prefix) -> the number of these entries; it may include expired ones that were not swept yet
    store.notices, store.describe() -> the state for status: at least `kind` and `degraded`
    store.entries, store.size_bytes: kinds that need not be asked
    store.close()

1. `get` returns a copy of the value, so changing it does not change the store.
2. An access renews an entry for the `ttl_s` of the space through which it is accessed; the default is that of the
   store. An entry that was not accessed for this time expires. Spaces of one store may have different times, also times
   that exceed the store's. Listing and counting do not renew.
3. If the store is full, the least recently used entry of the largest space is evicted first, so a consumer that fills
   the store evicts its own entries.
4. A value larger than a quarter of the store is not stored, and the value that it would have replaced is deleted.
5. The contents of a store cause no exception: a value that cannot be written or read counts as absent.
6. `Space.swap_steps` compares and changes in one atomic step, also between processes that share the store. A change
   that cannot be stored leaves the old value, and `lost` returns the reason.
7. A space may have a bound of its own (`most_bytes`): before a value is added by `put_steps`, the least recently used
   entries of this space are evicted until it fits.
"""

from __future__ import annotations

from typing import NamedTuple

from relayd.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a store: entries, bytes and time to live. `folder` is the state directory for the store's files.
    `may_wait` is true before any client is served, so that opening may wait for a lock."""

    entries: int
    size_bytes: int
    ttl_s: float
    folder: str
    may_wait: bool = True


class Listed(NamedTuple):
    """An entry, as `list_steps` returns it. `size_bytes` is what it counts in the store, `expires_in_s` the time after
    which it expires if it is not accessed before."""

    space: str
    key: str
    size_bytes: int
    expires_in_s: float
