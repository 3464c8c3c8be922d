"""Where things are remembered between exchanges: bounded, with a time to live, each consumer in a space of its own.

A kind is a module with a docstring (its manual entry), `Options` (its keys of `store:`) and a class `Store`, made by
`Store.open(options, bounds)`, which raises OptionError. A kind that writes a file says where in
`file_of(options, bounds)`. Every kind keeps the same contract
(tests/unit/stores/test_contract.py):

    store.space(name) -> a memory with get(key), put(key, value), delete(key); values are plain JSON data
    store.sweep()     -> forgets what is too old; whoever owns the store calls it now and then
    store.entries, store.size_bytes, store.notices
    store.close()

1. What get gives is a copy of what was put: nobody changes the store by changing a value.
2. An access makes an entry young again. What nobody asked for within `ttl_s` is forgotten.
3. Where there is no room, the space that holds most gives way first, its longest unused entry before the others: a
   consumer who fills the store pushes out its own.
4. A value that is larger than a quarter of the store is not kept, and what it would have replaced is forgotten too.
5. None of this raises for what is in a store: what cannot be kept or read is as if it were forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a store may keep and for how long; `folder` is the state directory, where a store may keep files.
    `may_wait`: nobody is being served yet, so that opening may wait for a lock."""

    entries: int
    size_bytes: int
    ttl_s: float
    folder: str
    may_wait: bool = True
