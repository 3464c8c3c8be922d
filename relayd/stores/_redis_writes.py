"""The changes of the Redis store on their way to Redis, and the index of its spaces.

1. At most one change of an entry is under way; a later one waits and replaces those that wait already.
2. A change that was not executed, or of which that is not known, is repeated when Redis is available: putting the same
   value twice, and deleting twice, is harmless.
3. What waits is bounded. Beyond the bounds the oldest new value is lost; a deletion only if nothing else waits.
4. A change that was refused because too many operations wait for Redis waits for OVERLOADED_S.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_scripts import DELETE, INDEX, PUT, SHRINK
from relayd.stores._redis_server import RedisServer
from relayd.wire.waiting import Waiting

MOST_WRITING = 256
WAITING_BYTES, WAITING_CHANGES = 32 * 1024 * 1024, 8192
SHRUNK_AT_ONCE = 64
OVERLOADED_S = 0.05

EntryKey = tuple[str, str]


class Change(NamedTuple):
    """A new text of an entry, or None for its deletion; its size and time to live, and the bound of its space if that
    is not the store's."""

    text: str | None
    size_bytes: int
    ttl_s: float
    most_bytes: int = 0


class Writes:
    """Owned by the store. `failed` gets a change that could not be written. It returns True if it is to be repeated."""

    def __init__(
        self, server: RedisServer, max_entries: int, max_bytes: int, ahead_ms: Callable[[], int],
        failed: Callable[[EntryKey, Change, RedisFailure], bool],
    ) -> None:
        self._server, self._max_entries, self._max_bytes = server, max_entries, max_bytes
        self._ahead_ms, self._failed = ahead_ms, failed
        self._waiting: OrderedDict[EntryKey, Change] = OrderedDict()  # oldest first
        self._values: OrderedDict[EntryKey, None] = OrderedDict()  # those of them that are no deletions
        self._is_overloaded = False
        self._writing: dict[EntryKey, Change] = {}
        self._next: dict[EntryKey, Change] = {}  # changes of entries that are being written
        self._watchers: dict[EntryKey, list[Waiting]] = {}
        self._bytes = 0
        self._is_shrinking = False
        self.index_keys = [server.key("index", name) for name in ("sizes", "expiries", "sum")]
        server.on_change(self._on_change)

    @property
    def waiting(self) -> int:
        """The number of changes that Redis has not confirmed."""
        return len(self._waiting) + len(self._writing) + len(self._next)

    def has_room(self, size_bytes: int) -> bool:
        """True if a further change does not exceed the bounds."""
        return self.waiting < WAITING_CHANGES and self._bytes + size_bytes <= WAITING_BYTES

    def keys_of(self, space: str) -> list[str]:
        """The keys of a space, which share a slot."""
        tag = "s:" + space.replace("%", "%25").replace("}", "%7D")
        return [self._server.spread_key(tag, name) for name in ("expiries", "texts", "sizes")]

    def pending(self, entry_key: EntryKey) -> Change | None:
        """The latest change of an entry that Redis has not confirmed."""
        return self._next.get(entry_key) or self._waiting.get(entry_key) or self._writing.get(entry_key)

    def written(self, entry_key: EntryKey) -> Waiting:
        """Done when the current change of this entry has ended, or Redis is not available."""
        waiting = Waiting()
        self._watchers.setdefault(entry_key, []).append(waiting)
        return waiting

    def add(self, entry_key: EntryKey, change: Change) -> None:
        """Write a change as soon as possible."""
        if entry_key in self._writing:
            self._bytes -= self._next[entry_key].size_bytes if entry_key in self._next else 0
            self._next[entry_key] = change
        else:
            self._forget(entry_key)
            self._enqueue(entry_key, change)
        self._bytes += change.size_bytes
        while self._waiting and (self.waiting > WAITING_CHANGES or self._bytes > WAITING_BYTES):
            oldest = next(iter(self._values or self._waiting))
            self._failed(oldest, self._waiting[oldest], RedisFailure("overloaded", f"{self.waiting} changes wait"))
            self._forget(oldest)
            self._wake(oldest)
        self.pump()

    def _enqueue(self, entry_key: EntryKey, change: Change, last: bool = True) -> None:
        self._waiting[entry_key] = change
        self._waiting.move_to_end(entry_key, last)
        if change.text is not None:
            self._values[entry_key] = None
            self._values.move_to_end(entry_key, last)

    def _forget(self, entry_key: EntryKey) -> None:
        self._values.pop(entry_key, None)
        change = self._waiting.pop(entry_key, None)
        if change is not None:
            self._bytes -= change.size_bytes

    def pump(self) -> None:
        """Send waiting changes."""
        while (
            self._waiting and self._server.available and len(self._writing) < MOST_WRITING and not self._is_overloaded
        ):
            entry_key, change = self._waiting.popitem(last=False)
            self._values.pop(entry_key, None)
            self._writing[entry_key] = change
            (space, key), ahead_ms = entry_key, self._ahead_ms()
            done = partial(self._on_done, entry_key, change)
            if change.text is None:
                self._server.call(DELETE, self.keys_of(space), (key, ahead_ms), done, bulk=True)
            else:
                args = (key, change.text, change.size_bytes, max(1, int(change.ttl_s * 1000)), ahead_ms)
                bounds = change.most_bytes or self._max_bytes, self._max_entries
                self._server.call(PUT, self.keys_of(space), (*args, *bounds), done, bulk=True)

    def _on_done(self, entry_key: EntryKey, change: Change, result: Any) -> None:
        del self._writing[entry_key]
        later = self._next.pop(entry_key, None)
        if isinstance(result, RedisFailure):
            if result.cause == "overloaded" and not self._is_overloaded:
                self._is_overloaded = True
                asyncio.get_running_loop().call_later(OVERLOADED_S, self._end_overload)
            if later is None and self._failed(entry_key, change, result):
                later = change
                self._bytes += change.size_bytes
        else:
            self.index(entry_key[0], result)
        self._bytes -= change.size_bytes
        if later is not None:
            self._enqueue(entry_key, later, last=False)
        self._wake(entry_key)
        self.pump()

    def _end_overload(self) -> None:
        self._is_overloaded = False
        self.pump()

    def _wake(self, entry_key: EntryKey) -> None:
        """The change of an entry has ended: resume the steps that wait for it."""
        for waiting in self._watchers.pop(entry_key, ()):
            waiting.set(None)

    def _on_change(self, available: bool) -> None:
        if available:
            self.pump()
        else:
            watchers, self._watchers = self._watchers, {}
            for one in watchers.values():
                for waiting in one:
                    waiting.set(None)

    # ---- the index

    def index(self, space: str, totals: Any) -> None:
        """Note the entries, the size and the last expiry of a space after a change of it."""
        if isinstance(totals, list) and len(totals) == 3:
            entries, size_bytes, left_ms = totals
            args = (space, entries, size_bytes, left_ms, self._ahead_ms())
            self._server.call(INDEX, self.index_keys, args, self._on_index)

    def _on_index(self, result: Any) -> None:
        """Make room in the largest space if all of them together are too large."""
        if isinstance(result, list) and result[0] > self._max_bytes and result[1] and not self._is_shrinking:
            self._is_shrinking = True
            self.shrink(bytes(result[1]).decode("utf-8", "surrogatepass"), result[0] - self._max_bytes)

    def shrink(self, space: str, size_bytes: int) -> None:
        """Delete expired entries of a space, and so many bytes of those that expire first."""
        args = (SHRUNK_AT_ONCE, size_bytes, self._ahead_ms())
        self._server.call(SHRINK, self.keys_of(space), args, partial(self._on_shrunk, space, size_bytes), bulk=True)

    def _on_shrunk(self, space: str, size_bytes: int, totals: Any) -> None:
        if size_bytes:
            self._is_shrinking = False
        self.index(space, totals)
