"""One name space of a store, whatever kind of store that is."""

from __future__ import annotations

from typing import Any, Protocol


class Backend(Protocol):
    """What every kind of store does for its spaces."""

    def get(self, space: str, key: str) -> Any: ...
    def put(self, space: str, key: str, value: Any) -> None: ...
    def delete(self, space: str, key: str) -> bool: ...
    def lost(self, space: str, key: str) -> str: ...


class Space:
    """A handle that anybody may keep: the memory of one consumer."""

    __slots__ = ("_name", "_store")

    def __init__(self, store: Backend, name: str) -> None:
        self._store, self._name = store, name

    def get(self, key: str) -> Any:
        """The value, or None when it is unknown, too old or was pushed out."""
        return self._store.get(self._name, key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value of plain JSON data; `lost` tells if that could not be done."""
        self._store.put(self._name, key, value)

    def delete(self, key: str) -> bool:
        """Forget it; whether it was there."""
        return self._store.delete(self._name, key)

    def lost(self, key: str) -> str:
        """Why a value that was put is not kept, in words for its client; empty where nothing is known."""
        return self._store.lost(self._name, key)
