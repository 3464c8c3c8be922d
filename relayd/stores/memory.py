"""In the memory of the process: fast and private; the contents are lost when the process ends.

Cost, measured on one core of a small server: `put` and `get` turn the value into JSON text and back, which takes 7 and
4 microseconds for a short answer, 2 milliseconds and 1 for a conversation of 320 KiB, 4 and 1 for 1 MiB of one string
(an image). All other work is a few dictionary operations. An eviction searches for the largest space, which takes a few
microseconds per hundred spaces.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from relayd import clock
from relayd.schema import section
from relayd.stores import Bounds
from relayd.stores._faults import TOO_LARGE, Failure, Losses
from relayd.stores._space import Space

ENTRY_BYTES = 400  # memory of an entry in addition to its texts
LARGEST_SHARE = 4
_SWEPT_AT_ONCE = 64

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@section()
class Options:
    """No options."""


class _Entry:
    """A stored value; owned by its store."""

    __slots__ = ("size_bytes", "text", "used_s")

    def __init__(self, text: str, size_bytes: int, used_s: float) -> None:
        self.text, self.size_bytes, self.used_s = text, size_bytes, used_s


class Store:
    """The bounded store; owned by the daemon, used on the loop."""

    def __init__(
        self, max_entries: int, max_bytes: int, ttl_s: float, now: Callable[[], float] = clock.monotonic
    ) -> None:
        self._max_entries, self._max_bytes, self._ttl_s, self._now = max_entries, max_bytes, ttl_s, now
        self._order: OrderedDict[tuple[str, str], None] = OrderedDict()  # of all spaces, least recently used first
        self._spaces: dict[str, OrderedDict[str, _Entry]] = {}  # each in the same order, least recently used first
        self._sizes: dict[str, int] = {}
        self.size_bytes = 0
        self.notices: tuple[str, ...] = ()
        self._losses = Losses()

    @classmethod
    def open(cls, options: Options, bounds: Bounds) -> Store:
        """The store of a configuration."""
        return cls(bounds.entries, bounds.size_bytes, bounds.ttl_s)

    @property
    def entries(self) -> int:
        """The number of entries."""
        return len(self._order)

    def space(self, name: str) -> Space:
        """A handle to one name space; an empty space takes no memory."""
        return Space(self, name)

    def sweep(self) -> None:
        """Delete all expired entries."""
        self._sweep(len(self._order))

    @property
    def faults(self) -> int:
        """The number of values that could not be stored."""
        return self._losses.total

    def pop_failures(self) -> list[Failure]:
        """The failures since the last call."""
        return self._losses.pop_failures()

    def lost(self, space: str, key: str) -> str:
        """See Space.lost."""
        return self._losses.client_message((space, key))

    def close(self, wait: bool = True) -> None:
        """Delete all entries."""
        self._order.clear()
        self._spaces.clear()
        self._sizes.clear()
        self.size_bytes = 0

    def get(self, space: str, key: str) -> Any:
        """See Space.get."""
        text = self.text(space, key)
        return None if text is None else json.loads(text)

    def text(self, space: str, key: str) -> str | None:
        """The value as JSON text, or None."""
        entries = self._spaces.get(space)
        entry = entries.get(key) if entries is not None else None
        if entries is None or entry is None:
            return None
        now_s = self._now()
        if now_s - entry.used_s > self._ttl_s:
            self.delete(space, key)
            return None
        entry.used_s = now_s
        self._order.move_to_end((space, key))
        entries.move_to_end(key)
        return entry.text

    def put(self, space: str, key: str, value: Any) -> None:
        """See Space.put."""
        self.put_text(space, key, _encode(value))

    def put_text(self, space: str, key: str, text: str) -> None:
        """Store a value as its JSON text in ASCII: one byte in memory for each character."""
        self._sweep(_SWEPT_AT_ONCE)
        self.delete(space, key)
        size_bytes = len(text) + 2 * (len(space) + len(key)) + ENTRY_BYTES
        if size_bytes * LARGEST_SHARE > self._max_bytes or self._max_entries < 1:
            self._losses.lose((space, key), TOO_LARGE, f"{size_bytes} bytes")
            return
        self._losses.found((space, key))
        while self.size_bytes + size_bytes > self._max_bytes or len(self._order) >= self._max_entries:
            self._make_room(by_bytes=self.size_bytes + size_bytes > self._max_bytes)
        self._order[space, key] = None
        self._spaces.setdefault(space, OrderedDict())[key] = _Entry(text, size_bytes, self._now())
        self._sizes[space] = self._sizes.get(space, 0) + size_bytes
        self.size_bytes += size_bytes

    def delete(self, space: str, key: str) -> bool:
        """See Space.delete."""
        entries = self._spaces.get(space)
        entry = entries.pop(key, None) if entries is not None else None
        if entries is None or entry is None:
            return False
        del self._order[space, key]
        self.size_bytes -= entry.size_bytes
        if entries:
            self._sizes[space] -= entry.size_bytes
        else:
            del self._spaces[space], self._sizes[space]
        return self._now() - entry.used_s <= self._ttl_s

    def _sweep(self, most: int) -> None:
        limit_s = self._now() - self._ttl_s
        for _ in range(most):
            if not self._order:
                return
            space, key = next(iter(self._order))
            if self._spaces[space][key].used_s >= limit_s:
                return
            self.delete(space, key)

    def _make_room(self, by_bytes: bool) -> None:
        if by_bytes:
            space = max(self._sizes, key=self._sizes.__getitem__)
        else:
            space = max(self._spaces, key=lambda name: len(self._spaces[name]))
        self.delete(space, next(iter(self._spaces[space])))
