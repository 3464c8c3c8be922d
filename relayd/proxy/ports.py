"""The interface of an exchange to its gateway, and of the gateway to the store that the daemon provides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from relayd.access.sessions import Sessions
from relayd.limits.failed_keys import FailedKeys
from relayd.limits.ledger import Ledger
from relayd.limits.overload import Overload
from relayd.limits.request_buffers import RequestBuffers
from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.spend import Spend
from relayd.plan.plan import Plan
from relayd.protocols.dialect import Memory
from relayd.proxy.application import Application
from relayd.proxy.attempt import Attempt
from relayd.proxy.cache_use import CacheCounts
from relayd.proxy.client_session import SessionCounts
from relayd.proxy.upgrade import Tunnel
from relayd.stores import Listed
from relayd.stores._faults import Failure
from relayd.stores._redis_server import RedisServer
from relayd.stores._space import Space
from relayd.telemetry.outcome import Record
from relayd.telemetry.trace import Tracing
from relayd.upstream.lease import Lease
from relayd.wire.json_steps import Steps


class AttemptObserver(Protocol):
    """Sees the attempts of exchanges (proxy/capture.py)."""

    def start_attempt(
        self, exchange: Any, attempt: Attempt, method: bytes, wire_target: bytes, fields: list[bytes],
        payload: bytes | None, length: int | None, *, new_connection: bool,
    ) -> None:
        """Start an attempt, as `Attempt.start` does, and observe it."""

    def note_tunnel(self, exchange: Any, lease: Lease, wire_target: bytes, fields: list[bytes]) -> None:
        """Note the request of an Upgrade."""


class GatewayPort(Protocol):
    """The interface of an exchange to the gateway. `observer` is None unless exchanges are captured."""

    exchanges: set[Any]  # of Exchange, which imports this module
    draining: bool
    seal_key: bytes
    overload: Overload
    buffers: RequestBuffers
    spend: Spend
    failed_keys: FailedKeys
    sessions: Sessions
    ledger: Ledger
    session_counts: SessionCounts
    cache_counts: CacheCounts
    shared: SharedLedger | None
    admin: Application
    tracing: Tracing
    challenge_response: Callable[[bytes], bytes | None] | None
    observer: AttemptObserver | None

    def current(self) -> Plan:
        """The plan in force."""

    def memory(self, space: str) -> Memory:
        """The stored data of one consumer."""

    def space(self, name: str, ttl_s: float, most_bytes: int = 0) -> Space:
        """A space of the store with a time to live of its own. `most_bytes` is its own bound, 0 without one."""

    def is_store_degraded(self) -> bool:
        """True if the store cannot be asked now, so that an unknown value may exist nevertheless."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after `delay_s` seconds. The returned function cancels it."""

    def tunnel(self, exchange: Any, lease: Lease, wire_target: bytes, fields: list[bytes]) -> Tunnel:
        """Send an Upgrade request over a new connection."""

    @property
    def account(self) -> Callable[[Record], None]: ...
    @property
    def begin(self) -> Callable[[Any], None]:
        """Run a new exchange through the phases."""


class SavedSpend(Protocol):
    """The spend that the daemon has written. What waits raises sqlite3.Error."""

    def describe(self) -> dict[str, str]:
        """The file; why it cannot be written, and the cure, both empty while it can."""

    async def rows(self) -> dict[str, int]:
        """The number of rows by consumer."""

    async def forget(self, consumer: str) -> int:
        """Delete the rows of a consumer. Returns their number."""


class Store(Protocol):
    """Bounded memory between exchanges (relayd.stores)."""

    @property
    def notices(self) -> tuple[str, ...]: ...
    @property
    def must_fetch(self) -> bool:
        """True if the store is in a server that must be asked."""

    @property
    def server(self) -> RedisServer | None:
        """The Redis server that the store uses, which limits share; None for other kinds."""


    def space(self, name: str, ttl_s: float | None = None, most_bytes: int = 0) -> Space: ...
    def list_steps(self, prefix: str, most: int) -> Steps[list[Listed]]: ...
    def count_steps(self, prefix: str) -> Steps[int]: ...
    def describe(self) -> dict[str, object]: ...
    def pop_failures(self) -> list[Failure]: ...
    def sweep(self) -> None: ...
    def close(self, wait: bool = True) -> None: ...
