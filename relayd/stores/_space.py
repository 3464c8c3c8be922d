"""One name space of a store of any kind."""

from __future__ import annotations

from typing import Any, Protocol

from relayd.wire.json_steps import Steps, parse_text_steps, write_ascii_steps


class Backend(Protocol):
    """The operations that every kind of store provides to its spaces."""

    def get(self, space: str, key: str) -> Any: ...
    def text(self, space: str, key: str) -> str | None: ...
    def put(self, space: str, key: str, value: Any) -> None: ...
    def put_text(self, space: str, key: str, text: str) -> None: ...
    def delete(self, space: str, key: str) -> bool: ...
    def lost(self, space: str, key: str) -> str: ...


class Space:
    """A handle to the entries of one consumer."""

    __slots__ = ("_name", "_store")

    def __init__(self, store: Backend, name: str) -> None:
        self._store, self._name = store, name

    def get(self, key: str) -> Any:
        """The value, or None if it is unknown, expired or was evicted."""
        return self._store.get(self._name, key)

    def get_steps(self, key: str) -> Steps[Any]:
        """The same in steps, for values that may be large."""
        text = self._store.text(self._name, key)
        if text is None:
            return None
        try:
            return (yield from parse_text_steps(text))
        except ValueError:
            return self.get(key)  # which knows what to do with a damaged value

    def put(self, key: str, value: Any) -> None:
        """Store a value of plain JSON data. If that fails, `lost` returns the reason."""
        self._store.put(self._name, key, value)

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        """The same in steps, for values that may be large."""
        self._store.put_text(self._name, key, (yield from write_ascii_steps(value)))

    def delete(self, key: str) -> bool:
        """Delete the entry. Returns True if it existed."""
        return self._store.delete(self._name, key)

    def lost(self, key: str) -> str:
        """The reason why a value was not stored, as text for the client; empty if none is known."""
        return self._store.lost(self._name, key)
