"""The interface of an exchange to its gateway, and of the gateway to the store that the daemon provides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from relayd.limits.overload import Overload
from relayd.limits.request_buffers import RequestBuffers
from relayd.plan.plan import Plan
from relayd.protocols.dialect import Memory
from relayd.proxy.application import Application
from relayd.proxy.upgrade import Tunnel
from relayd.stores._faults import Failure
from relayd.telemetry.outcome import Record
from relayd.upstream.lease import Lease


class GatewayPort(Protocol):
    """The interface of an exchange to the gateway."""

    exchanges: set[Any]  # of Exchange, which imports this module
    draining: bool
    seal_key: bytes
    overload: Overload
    buffers: RequestBuffers
    admin: Application

    def current(self) -> Plan:
        """The plan in force."""

    def memory(self, space: str) -> Memory:
        """The stored data of one consumer."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after `delay_s` seconds. The returned function cancels it."""

    def tunnel(self, exchange: Any, lease: Lease, wire_target: bytes, fields: list[bytes]) -> Tunnel:
        """Send an Upgrade request over a new connection."""

    @property
    def account(self) -> Callable[[Record], None]: ...


class Store(Protocol):
    """Bounded memory between exchanges (relayd.stores)."""

    @property
    def notices(self) -> tuple[str, ...]: ...

    def space(self, name: str) -> Memory: ...
    def pop_failures(self) -> list[Failure]: ...
    def sweep(self) -> None: ...
    def close(self, wait: bool = True) -> None: ...
