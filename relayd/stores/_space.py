"""One name space of a store of any kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from relayd.wire.json_steps import Steps, parse_text_steps, write_ascii_steps


class Backend(Protocol):
    """The operations that every kind of store provides to its spaces. `ttl_s` is the time to live from now on."""

    must_fetch: bool

    def get(self, space: str, key: str, ttl_s: float) -> Any: ...
    def text_steps(self, space: str, key: str, ttl_s: float) -> Steps[str | None]: ...
    def fetch_steps(self, space: str, keys: Iterable[str], ttl_s: float) -> Steps[None]: ...
    def put(self, space: str, key: str, value: Any, ttl_s: float) -> None: ...
    def put_text(self, space: str, key: str, text: str, ttl_s: float, most_bytes: int = 0) -> None: ...
    def swap_steps(self, space: str, key: str, expected: str | None, text: str | None, ttl_s: float) -> Steps[bool]: ...
    def delete(self, space: str, key: str) -> bool: ...
    def lost(self, space: str, key: str) -> str: ...


class Space:
    """A handle to the entries of one consumer. An access renews an entry for `ttl_s`. `put_steps` keeps the space below
    `most_bytes`, without which only the bounds of the store apply."""

    __slots__ = ("_most_bytes", "_name", "_store", "_ttl_s")

    def __init__(self, store: Backend, name: str, ttl_s: float, most_bytes: int = 0) -> None:
        self._store, self._name, self._ttl_s, self._most_bytes = store, name, ttl_s, most_bytes

    @property
    def must_fetch(self) -> bool:
        """True if the store must be asked: `get` then finds only what this process has put or fetched."""
        return self._store.must_fetch

    def get(self, key: str) -> Any:
        """The value, or None if it is unknown, expired or was evicted. See `must_fetch`."""
        return self._store.get(self._name, key, self._ttl_s)

    def get_steps(self, key: str) -> Steps[Any]:
        """The value in steps, which may wait for the store. Always the current one."""
        text = yield from self.text_steps(key)
        if text is None:
            return None
        try:
            return (yield from parse_text_steps(text))
        except (ValueError, RecursionError):
            return self.get(key)  # which knows what to do with a damaged value

    def text_steps(self, key: str) -> Steps[str | None]:
        """The value as its JSON text in ASCII, in steps; None as in `get`."""
        return (yield from self._store.text_steps(self._name, key, self._ttl_s))

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        """Fetch entries that `get` shall find, with one round trip if the store must be asked, else nothing."""
        yield from self._store.fetch_steps(self._name, keys, self._ttl_s)

    def put(self, key: str, value: Any) -> None:
        """Store a value of plain JSON data. If that fails, `lost` returns the reason."""
        self._store.put(self._name, key, value, self._ttl_s)

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        """The same in steps, for values that may be large."""
        text = yield from write_ascii_steps(value)
        self._store.put_text(self._name, key, text, self._ttl_s, self._most_bytes)

    def swap_steps(self, key: str, expected: str | None, text: str | None) -> Steps[bool]:
        """Replace the JSON text `expected` by `text`, which is JSON in ASCII, if it is still the value; in steps. None
        means absent: `expected` None creates the entry, `text` None deletes it. Returns False if the value is another
        one, or if it could not be stored: then `lost` returns the reason."""
        return (yield from self._store.swap_steps(self._name, key, expected, text, self._ttl_s))

    def delete(self, key: str) -> bool:
        """Delete the entry. Returns True if it existed."""
        return self._store.delete(self._name, key)

    def lost(self, key: str) -> str:
        """The reason why a value was not stored, as text for the client; empty if none is known."""
        return self._store.lost(self._name, key)
