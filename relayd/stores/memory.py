"""In the memory of the process: fast and private; the contents are lost when the process ends.

Cost, measured on one core of a small server: `put` and `get` turn the value into JSON text and back, which takes 7 and
4 microseconds for a short answer, 2 milliseconds and 1 for a conversation of 320 KiB, 4 and 1 for 1 MiB of one string
(an image). All other work is a few dictionary operations. An eviction searches for the largest space, which takes a few
microseconds per hundred spaces.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from relayd import clock
from relayd.schema import section
from relayd.stores import Bounds, Listed
from relayd.stores._faults import TOO_LARGE, Failure, Losses
from relayd.stores._space import Space
from relayd.wire.json_steps import Steps

ENTRY_BYTES = 400  # memory of an entry in addition to its texts
LARGEST_SHARE = 4
_SWEPT_AT_ONCE = 64
_LISTED_AT_ONCE = 200

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@section()
class Options:
    """No options."""


EntryKey = tuple[str, str]
"""Space and key."""


class _Entry:
    """A stored value; owned by its store."""

    __slots__ = ("expires_s", "size_bytes", "text", "ttl_s")

    def __init__(self, text: str, size_bytes: int, ttl_s: float, expires_s: float) -> None:
        self.text, self.size_bytes, self.ttl_s, self.expires_s = text, size_bytes, ttl_s, expires_s


class Store:
    """The bounded store; owned by the daemon, used on the loop."""

    must_fetch = False
    server: None = None

    def __init__(
        self, max_entries: int, max_bytes: int, ttl_s: float, now: Callable[[], float] = clock.monotonic
    ) -> None:
        self._max_entries, self._max_bytes, self._ttl_s, self._now = max_entries, max_bytes, ttl_s, now
        self._orders: dict[float, OrderedDict[EntryKey, None]] = {}  # by time to live, least recently used first
        self._spaces: dict[str, OrderedDict[str, _Entry]] = {}  # each least recently used first
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
        return sum(len(order) for order in self._orders.values())

    def describe(self) -> dict[str, object]:
        """The state, for status."""
        return {"kind": "memory", "degraded": False}

    def space(self, name: str, ttl_s: float | None = None, most_bytes: int = 0) -> Space:
        """A handle to one name space; an empty space takes no memory. `ttl_s` is its time to live if it is not that of
        the store, `most_bytes` a bound of its own."""
        return Space(self, name, self._ttl_s if ttl_s is None else ttl_s, most_bytes)

    def sweep(self) -> None:
        """Delete all expired entries."""
        self._sweep(self.entries)

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
        self._orders.clear()
        self._spaces.clear()
        self._sizes.clear()
        self.size_bytes = 0

    def get(self, space: str, key: str, ttl_s: float) -> Any:
        """See Space.get."""
        text = self.text(space, key, ttl_s)
        return None if text is None else json.loads(text)

    def text(self, space: str, key: str, ttl_s: float) -> str | None:
        """The value as JSON text, or None."""
        entries = self._spaces.get(space)
        entry = entries.get(key) if entries is not None else None
        if entries is None or entry is None:
            return None
        now_s = self._now()
        if now_s > entry.expires_s:
            self.delete(space, key)
            return None
        if ttl_s != entry.ttl_s:
            self._leave_order(entry.ttl_s, (space, key))
        entry.ttl_s, entry.expires_s = ttl_s, now_s + ttl_s
        order = self._orders.setdefault(ttl_s, OrderedDict())
        order[space, key] = None
        order.move_to_end((space, key))
        entries.move_to_end(key)
        return entry.text

    def text_steps(self, space: str, key: str, ttl_s: float) -> Steps[str | None]:
        """As `text`: a value in memory takes one step."""
        yield from ()
        return self.text(space, key, ttl_s)

    def put(self, space: str, key: str, value: Any, ttl_s: float) -> None:
        """See Space.put."""
        self.put_text(space, key, _encode(value), ttl_s)

    def fetch_steps(self, space: str, keys: Iterable[str], ttl_s: float) -> Steps[None]:
        """See Space.fetch_steps. `get` finds every entry."""
        yield from ()

    def swap_steps(self, space: str, key: str, expected: str | None, text: str | None, ttl_s: float) -> Steps[bool]:
        """See Space.swap_steps. It takes one step, so no other change can come in between."""
        yield from ()
        entry = self._spaces[space].get(key) if space in self._spaces else None
        present = None if entry is None or self._now() > entry.expires_s else entry.text
        if present != expected:
            return False
        if text is None:
            self.delete(space, key)
        elif fault := self._too_large(space, key, text):
            self._losses.lose((space, key), TOO_LARGE, fault)
            return False
        else:
            self.put_text(space, key, text, ttl_s)
        return True

    def list_steps(self, prefix: str, most: int) -> Steps[list[Listed]]:
        """See relayd.stores."""
        listed: list[Listed] = []
        for space in sorted(name for name in self._spaces if name.startswith(prefix)):
            for key, entry in list(self._spaces.get(space, {}).items()):
                left_s = entry.expires_s - self._now()
                if left_s >= 0:
                    listed.append(Listed(space, key, entry.size_bytes, left_s))
                if len(listed) >= most:
                    return listed
                if not len(listed) % _LISTED_AT_ONCE:
                    yield
        return listed

    def count_steps(self, prefix: str) -> Steps[int]:
        """See relayd.stores."""
        yield from ()
        return sum(len(entries) for name, entries in self._spaces.items() if name.startswith(prefix))

    def put_text(self, space: str, key: str, text: str, ttl_s: float, most_bytes: int = 0) -> None:
        """Store a value as its JSON text in ASCII: one byte in memory for each character. `most_bytes` bounds the
        space."""
        self._sweep(_SWEPT_AT_ONCE)
        self.delete(space, key)
        if fault := self._too_large(space, key, text):
            self._losses.lose((space, key), TOO_LARGE, fault)
            return
        self._losses.found((space, key))
        size_bytes = _size(space, key, text)
        while most_bytes and space in self._sizes and self._sizes[space] + size_bytes > most_bytes:
            self.delete(space, next(iter(self._spaces[space])))
        while self.size_bytes + size_bytes > self._max_bytes or self.entries >= self._max_entries:
            self._make_room(by_bytes=self.size_bytes + size_bytes > self._max_bytes)
        self._orders.setdefault(ttl_s, OrderedDict())[space, key] = None
        self._spaces.setdefault(space, OrderedDict())[key] = _Entry(text, size_bytes, ttl_s, self._now() + ttl_s)
        self._sizes[space] = self._sizes.get(space, 0) + size_bytes
        self.size_bytes += size_bytes

    def delete(self, space: str, key: str) -> bool:
        """See Space.delete."""
        entries = self._spaces.get(space)
        entry = entries.pop(key, None) if entries is not None else None
        if entries is None or entry is None:
            return False
        self._leave_order(entry.ttl_s, (space, key))
        self.size_bytes -= entry.size_bytes
        if entries:
            self._sizes[space] -= entry.size_bytes
        else:
            del self._spaces[space], self._sizes[space]
        return self._now() <= entry.expires_s

    def _too_large(self, space: str, key: str, text: str) -> str:
        """The size of a value that is too large for the store, for the log; empty if it is not."""
        size_bytes = _size(space, key, text)
        return f"{size_bytes} bytes" if size_bytes * LARGEST_SHARE > self._max_bytes or self._max_entries < 1 else ""

    def _leave_order(self, ttl_s: float, entry_key: EntryKey) -> None:
        order = self._orders[ttl_s]
        del order[entry_key]
        if not order:
            del self._orders[ttl_s]

    def _sweep(self, most: int) -> None:
        now_s = self._now()
        for order in list(self._orders.values()):
            for _ in range(most):
                if not order:
                    break
                space, key = next(iter(order))
                if self._spaces[space][key].expires_s >= now_s:
                    break
                self.delete(space, key)

    def _make_room(self, by_bytes: bool) -> None:
        if by_bytes:
            space = max(self._sizes, key=self._sizes.__getitem__)
        else:
            space = max(self._spaces, key=lambda name: len(self._spaces[name]))
        self.delete(space, next(iter(self._spaces[space])))


def _size(space: str, key: str, text: str) -> int:
    return len(text) + 2 * (len(space) + len(key)) + ENTRY_BYTES
