"""Who an exchange belongs to: the gateway, as the rooms of the path see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from relayd.limits.overload import Overload
from relayd.plan.plan import Plan
from relayd.protocols.dialect import Memory
from relayd.stores._faults import Failure
from relayd.telemetry.outcome import Record


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


class Owner(Protocol):
    """What an exchange asks of its gateway."""

    exchanges: set[Any]
    draining: bool
    admin_handler: AdminHandler
    seal_key: bytes
    overload: Overload

    def current(self) -> Plan:
        """The plan in force."""

    def memory(self, space: str) -> Memory:
        """What is remembered for one consumer."""

    def later(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call it after a while; what is returned takes that back."""

    @property
    def account(self) -> Callable[[Record], None]: ...
