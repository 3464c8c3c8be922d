"""What the gateway is given by the daemon besides the plan: the store."""

from __future__ import annotations

from typing import Protocol

from relayd.protocols.dialect import Memory
from relayd.stores._faults import Failure


class Store(Protocol):
    """Where things are remembered (relayd.stores)."""

    @property
    def notices(self) -> tuple[str, ...]: ...

    def space(self, name: str) -> Memory: ...
    def taken(self) -> list[Failure]: ...
    def sweep(self) -> None: ...
    def close(self, wait: bool = True) -> None: ...
