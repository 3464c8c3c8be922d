"""What the gateway is given by the daemon: the admin application and the store."""

from __future__ import annotations

from typing import Protocol

from relayd.protocols.dialect import Memory
from relayd.stores._faults import Failure


class AdminHandler(Protocol):
    """Answers an admin path: status, content type, body."""

    def __call__(self, method: str, path: str, *, write: bool) -> tuple[int, str, bytes]: ...


class Store(Protocol):
    """Where things are remembered (relayd.stores)."""

    @property
    def notices(self) -> tuple[str, ...]: ...

    def space(self, name: str) -> Memory: ...
    def taken(self) -> list[Failure]: ...
    def sweep(self) -> None: ...
    def close(self, wait: bool = True) -> None: ...
