"""The store in Redis: reads with a round trip, writes behind, a local copy, and what happens while Redis is away.

1. `get` returns what this process has put or fetched; it never waits. `get_steps` asks Redis, and `fetch_steps` fetches
   what `get` shall find. Entries that several processes change are read with `get_steps`.
2. Changes of one entry are written one after the other (_redis_writes); a change that was not written yet is what reads
   of this process return.
3. Deletions are repeated until Redis confirms them, whatever `on_failure` is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from relayd import clock
from relayd.errors import ExchangeError
from relayd.stores import Listed
from relayd.stores._faults import CLOSED, SLOW, TOO_LARGE, UNREACHABLE, Failure, Losses
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_scripts import GET, LIST, SCRIPTS, SWAP
from relayd.stores._redis_server import RedisServer, Script
from relayd.stores._redis_settings import RedisSettings
from relayd.stores._redis_writes import Change, Writes
from relayd.stores._space import Space
from relayd.stores.memory import Store as MemoryStore
from relayd.wire.json_steps import Steps
from relayd.wire.waiting import Waiting

ENTRY_BYTES = 200  # size of an entry in Redis in addition to its texts
LARGEST_SHARE = 4
LOCAL_BYTES = 64 * 1024 * 1024  # of the local copy, at most
MOST_FETCHED = 1024
_SPACES_AT_ONCE = 64

OnFailure = Literal["local", "open", "closed"]
EntryKey = tuple[str, str]

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class RedisStore:
    """Used on the loop. `ahead_ms` is added to the clock of Redis, for tests."""

    must_fetch = True

    def __init__(
        self, settings: RedisSettings, max_entries: int, max_bytes: int, ttl_s: float, on_failure: OnFailure = "local",
        ahead_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.server = RedisServer(settings, scripts=SCRIPTS)
        self.notices: tuple[str, ...] = ()
        self._max_entries, self._max_bytes, self._ttl_s = max_entries, max_bytes, ttl_s
        self._on_failure, self._ahead_ms = on_failure, ahead_ms
        self._losses = Losses()
        self._local = MemoryStore(
            max_entries, min(max_bytes, LOCAL_BYTES), ttl_s, now=lambda: clock.monotonic() + ahead_ms() / 1000
        )
        self._writes = Writes(self.server, max_entries, max_bytes, ahead_ms, self._on_result)
        self._swept = 0
        self._closed = False

    # ---- the store

    @property
    def faults(self) -> int:
        """The number of values that could not be written or read."""
        return self._losses.total

    def pop_failures(self) -> list[Failure]:
        """The failures since the last call."""
        return self._losses.pop_failures()

    def describe(self) -> dict[str, object]:
        """The state, for status. `waiting` is the number of changes that Redis has not confirmed."""
        known = self.server.describe()
        return {
            "kind": "redis", "degraded": not self.server.available, "on_failure": self._on_failure,
            "waiting": self._writes.waiting, **known,
        }

    def space(self, name: str, ttl_s: float | None = None, most_bytes: int = 0) -> Space:
        """A handle to one name space."""
        return Space(self, name, self._ttl_s if ttl_s is None else ttl_s, most_bytes)

    def lost(self, space: str, key: str) -> str:
        """See Space.lost."""
        return self._losses.client_message((space, key))

    def sweep(self) -> None:
        """Delete expired entries of the next spaces, and repeat writes that have failed."""
        self._local.sweep()
        self._writes.pump()
        if not self.server.available:
            return

        def sweep_spaces(found: Any) -> None:
            spaces = _texts(found)
            self._swept = self._swept + len(spaces) if len(spaces) == _SPACES_AT_ONCE else 0
            for space in spaces:
                self._writes.shrink(space, 0)

        last = self._swept + _SPACES_AT_ONCE - 1
        self.server.command("ZRANGE", self._writes.index_keys[0], self._swept, last, on_done=sweep_spaces)

    def close(self, wait: bool = True) -> None:
        """Send the changes that wait, and close the connections."""
        self._closed = True
        self._writes.pump()
        self.server.close()
        self._local.close()

    # ---- reading

    def get(self, space: str, key: str, ttl_s: float) -> Any:
        """See Space.get. The value as this process knows it."""
        change = self._writes.pending((space, key))
        text = change.text if change is not None else None
        if change is None and (self.server.available or self._on_failure == "local"):
            text = self._local.text(space, key, ttl_s)
        return None if text is None else _value(text)

    def text_steps(self, space: str, key: str, ttl_s: float) -> Steps[str | None]:
        """See Space.text_steps."""
        entry_key = space, key
        change = self._writes.pending(entry_key)
        if change is not None:
            return change.text
        reply = yield from self._run(GET, space, (key, _ms(ttl_s), self._ahead_ms()))
        return self._fetched(entry_key, reply, ttl_s)

    def fetch_steps(self, space: str, keys: Iterable[str], ttl_s: float) -> Steps[None]:
        """See Space.fetch_steps. All unknown entries are fetched with one round trip."""
        unknown = [
            key for key in dict.fromkeys(keys)
            if self._writes.pending((space, key)) is None and self._local.text(space, key, ttl_s) is None
        ][:MOST_FETCHED]  # fmt: skip
        if not unknown or not self.server.available:
            return
        replies = [(key, self._start(GET, space, (key, _ms(ttl_s), self._ahead_ms()))) for key in unknown]
        for key, waiting in replies:
            yield waiting
            if not isinstance(waiting.result, RedisFailure):
                self._fetched((space, key), waiting.result, ttl_s)

    def list_steps(self, prefix: str, most: int) -> Steps[list[Listed]]:
        """See relayd.stores. Changes that were not written yet are not included. Raises ExchangeError if Redis fails
        meanwhile."""
        if not self.server.available:
            return (yield from self._local.list_steps(prefix, most))
        listed: list[Listed] = []
        for space in (yield from self._spaces_steps(prefix)):
            reply = replied((yield from self._run(LIST, space, (most - len(listed), self._ahead_ms()))))
            for key, size, left_ms in reply if isinstance(reply, list) else ():
                listed.append(Listed(space, _text(key), int(size), int(left_ms) / 1000))
            if len(listed) >= most:
                break
        return listed

    def count_steps(self, prefix: str) -> Steps[int]:
        """See relayd.stores."""
        if not self.server.available:
            return (yield from self._local.count_steps(prefix))
        counts = []
        for space in (yield from self._spaces_steps(prefix)):
            counts.append(self._command("ZCARD", self._writes.keys_of(space)[0]))
        found = 0
        for waiting in counts:
            yield waiting
            found += replied(waiting.result)
        return found

    def _spaces_steps(self, prefix: str) -> Steps[list[str]]:
        waiting = self._command("ZRANGE", self._writes.index_keys[0], 0, -1)
        yield waiting
        return sorted(space for space in _texts(replied(waiting.result)) if space.startswith(prefix))

    def _fetched(self, entry_key: EntryKey, reply: Any, ttl_s: float) -> str | None:
        """The text of a reply to GET, as far as nothing has changed meanwhile. Raises ExchangeError."""
        change = self._writes.pending(entry_key)
        if change is not None:
            return change.text
        if isinstance(reply, RedisFailure):
            text = self._local.text(*entry_key, ttl_s) if self._on_failure == "local" else None
            if self._on_failure == "closed" or (text is None and reply.cause == "overloaded"):
                raise ExchangeError("store_unavailable", detail=reply.text)
            self._losses.lose(entry_key, UNREACHABLE, reply.text)
            return text
        self._losses.found(entry_key)
        if reply is None:
            self._local.delete(*entry_key)
            return None
        text = _text(reply)
        if self._local.text(*entry_key, ttl_s) != text:
            self._local.put_text(*entry_key, text, ttl_s)
        return text

    # ---- writing

    def put(self, space: str, key: str, value: Any, ttl_s: float) -> None:
        """See Space.put."""
        self.put_text(space, key, _encode(value), ttl_s)

    def put_text(self, space: str, key: str, text: str, ttl_s: float, most_bytes: int = 0) -> None:
        """Store a value as its JSON text in ASCII. `most_bytes` bounds the space."""
        entry_key, size_bytes = (space, key), _size(space, key, text)
        if self._closed:
            self._losses.lose(entry_key, CLOSED, "")
            return
        if size_bytes * LARGEST_SHARE > self._max_bytes or self._max_entries < 1:
            self._losses.lose(entry_key, TOO_LARGE, f"{size_bytes} bytes")
        elif not self.server.available and self._on_failure != "local":
            self._losses.lose(entry_key, UNREACHABLE, self.server.cause.text)
        elif self._writes.has_room(size_bytes) or not self.server.available:
            self._losses.found(entry_key)
            self._local.put_text(space, key, text, ttl_s, most_bytes)
            self._writes.add(entry_key, Change(text, size_bytes, ttl_s, most_bytes))
            return
        else:
            self._losses.lose(entry_key, SLOW, f"{self._writes.waiting} changes wait")
        self._local.delete(space, key)
        self._writes.add(entry_key, Change(None, 0, ttl_s))

    def delete(self, space: str, key: str) -> bool:
        """See Space.delete. Returns True if this process knew the entry."""
        entry_key = space, key
        self._losses.found(entry_key)
        change = self._writes.pending(entry_key)
        known = self._local.delete(space, key)
        self._writes.add(entry_key, Change(None, 0, self._ttl_s))
        return change.text is not None if change is not None else known

    def swap_steps(self, space: str, key: str, expected: str | None, text: str | None, ttl_s: float) -> Steps[bool]:
        """See Space.swap_steps. While Redis is away, the local copy is compared and changed."""
        entry_key, size_bytes = (space, key), 0 if text is None else _size(space, key, text)
        if size_bytes * LARGEST_SHARE > self._max_bytes:
            self._losses.lose(entry_key, TOO_LARGE, f"{size_bytes} bytes")
            return False
        while self.server.available and self._writes.pending(entry_key) is not None:
            yield self._writes.written(entry_key)
        if not self.server.available:
            return self._swap_locally(entry_key, expected, text, ttl_s)
        arguments = (key, *_optional(expected), *_optional(text), size_bytes, _ms(ttl_s), self._ahead_ms(),
                 self._max_bytes, self._max_entries)  # fmt: skip
        reply = yield from self._run(SWAP, space, arguments)
        if isinstance(reply, RedisFailure):
            if not reply.unknown:
                return self._swap_locally(entry_key, expected, text, ttl_s)
            self._losses.lose(entry_key, UNREACHABLE, reply.text)
            return False
        changed, totals = reply
        self._writes.index(space, totals)
        self._local.delete(space, key)
        if changed and text is not None:
            self._local.put_text(space, key, text, ttl_s)
        if changed:
            self._losses.found(entry_key)
        return bool(changed)

    def _swap_locally(self, entry_key: EntryKey, expected: str | None, text: str | None, ttl_s: float) -> bool:
        if self._on_failure != "local":
            self._losses.lose(entry_key, UNREACHABLE, self.server.cause.text)
            return False
        change = self._writes.pending(entry_key)
        present = change.text if change is not None else self._local.text(*entry_key, ttl_s)
        if present != expected:
            return False
        if text is None:
            self.delete(*entry_key)
        else:
            self.put_text(*entry_key, text, ttl_s)
        return True

    def _on_result(self, entry_key: EntryKey, change: Change, failure: RedisFailure) -> bool:
        """A change could not be written. Returns True if it is to be repeated."""
        if failure.cause == "overloaded" and self._writes.has_room(0):
            return True
        if failure.is_server_failure and (change.text is None or self._on_failure == "local"):
            return True
        self._losses.lose(entry_key, UNREACHABLE, failure.text)
        self._local.delete(*entry_key)
        return False

    # ---- round trips

    def _start(self, script: Script, space: str, args: Sequence[str | int]) -> Waiting:
        waiting = Waiting()
        self.server.call(script, self._writes.keys_of(space), args, waiting.set, bulk=True)
        return waiting

    def _run(self, script: Script, space: str, args: Sequence[str | int]) -> Steps[Any]:
        waiting = self._start(script, space, args)
        yield waiting
        return RedisFailure("timeout", "the caller cannot wait") if waiting.is_given_up else waiting.result

    def _command(self, *arguments: str | int) -> Waiting:
        waiting = Waiting()
        self.server.command(*arguments, on_done=waiting.set, bulk=True)
        return waiting


def replied(result: Any) -> Any:
    """The reply to an operation. Raises ExchangeError if it has failed."""
    if isinstance(result, RedisFailure):
        raise ExchangeError("store_unavailable", detail=result.text)
    return result


def _size(space: str, key: str, text: str) -> int:
    return len(text) + 2 * (len(space) + len(key)) + ENTRY_BYTES


def _ms(ttl_s: float) -> int:
    return max(1, int(ttl_s * 1000))


def _optional(text: str | None) -> tuple[int, str]:
    return (0, "") if text is None else (1, text)


def _text(raw: bytes) -> str:
    """The text of these bytes; empty, which is no JSON, if somebody else has written other bytes than UTF-8."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ""


def _texts(reply: Any) -> list[str]:
    return [_text(one) for one in reply] if isinstance(reply, list) else []


def _value(text: str) -> Any:
    """The value of a text; None for a text that is not JSON, which somebody else has written."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
