"""The gateway: the only reader of the current plan, and the set of all exchanges in flight."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

from relayd import clock
from relayd.access.key_store import KeyStore
from relayd.access.sessions import Sessions
from relayd.errors import ExchangeError
from relayd.limits.failed_keys import FailedKeys
from relayd.limits.gates import Gates
from relayd.limits.ledger import Ledger
from relayd.limits.overload import Bounds, Overload
from relayd.limits.request_buffers import RequestBuffers
from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.spend import Spend
from relayd.plan.plan import Plan
from relayd.protocols.dialect import Memory
from relayd.proxy.application import Application, not_running
from relayd.proxy.cache_use import CacheCounts
from relayd.proxy.client_session import SessionCounts
from relayd.proxy.downstream import Downstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.pipeline import run
from relayd.proxy.ports import AttemptObserver, SavedSpend, Store
from relayd.proxy.respond import error_answer
from relayd.proxy.response_head import LENGTH, render_head
from relayd.proxy.sweep import enforce_timeouts
from relayd.proxy.upgrade import Tunnel, Upgrade
from relayd.stores._space import Space
from relayd.stores.memory import Store as MemoryStore
from relayd.telemetry.outcome import Record
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.lease import Lease
from relayd.upstream.transport.client import StreamClient
from relayd.wire.http1 import RequestHead


class Peer(Protocol):
    """The client of a refused request: the part of a Downstream that a record needs."""

    listener: str
    peer: str


class Gateway:
    """One per process; owned by the daemon, which alone assigns `plan`."""

    def __init__(self, client: StreamClient, telemetry: Telemetry) -> None:
        self.client, self.telemetry = client, telemetry
        self.plan: Plan | None = None
        self.exchanges: set[Exchange] = set()
        self.gates = Gates()
        self.ledger = Ledger()
        self.session_counts = SessionCounts()
        self.cache_counts = CacheCounts(telemetry.metrics.add)
        self.shared: SharedLedger | None = None  # if several instances count together; set by the daemon
        self.overload = Overload(Bounds(), 0.25)
        self.buffers = RequestBuffers()
        self.spend = Spend()
        self.saved_spend: SavedSpend | None = None  # set by the daemon if it writes spend
        self.failed_keys = FailedKeys()
        self.sessions = Sessions()  # of browsers that have signed in
        self.draining = False
        self.leaving = False  # another process accepts; requests on open connections are served, then these are closed
        self.admin: Application = not_running
        self.account = telemetry.account
        self.begin: Callable[[Exchange], None] = run  # the exchange may be over on return
        self.observer: AttemptObserver | None = None  # while exchanges are captured
        self.tracing = telemetry.tracing
        self.full: Callable[[], bool] = bool
        self.challenge_response: Callable[[bytes], bytes | None] | None = None  # ACME http-01, by path
        self.seal_key = os.urandom(32)
        self.keys: KeyStore | None = None  # of `relayd keys`; set by the daemon before the first plan
        self.store: Store = MemoryStore(max_entries=20_000, max_bytes=64 * 1024 * 1024, ttl_s=24 * 3600.0)

    def accept(self, down: Downstream, head: RequestHead, body: bytes | None, started: float) -> Exchange:
        """Create an exchange with the current plan. `body` is the whole body if it arrived with the head."""
        plan = self.plan
        assert plan is not None
        return Exchange(self, plan, down, head, started, body)

    def refuse(self, down: Peer, fault: ExchangeError, started: float) -> bytes:
        """Account for a request that was refused before it became an exchange. Returns the bytes of its response."""
        plan = self.plan
        assert plan is not None
        kind = fault.kind
        record = Record(down.listener, down.peer, plan.generation, started, clock.wall())
        record.id = f"{random.getrandbits(128):032x}"
        record.status, record.code, record.detail, record.ended_by = kind.status, kind.code, fault.detail, "client"
        answer = error_answer(fault, None, None, record.id)
        record.bytes_out = len(answer.body)
        record.total_s = clock.monotonic() - started
        rule = fault.detail or kind.code
        self.telemetry.metrics.add("relayd.listener.bad_requests", listener=down.listener, rule=rule)
        self.account(record)
        names, request_id = plan.header_names, record.id.encode()
        head = render_head(answer.response, LENGTH, 11, False, None, names, request_id, record.total_s, None)
        return head + answer.body

    def current(self) -> Plan:
        """The plan in force."""
        assert self.plan is not None
        return self.plan

    def memory(self, space: str) -> Memory:
        """The stored data of one consumer."""
        return self.store.space(space)

    def space(self, name: str, ttl_s: float, most_bytes: int = 0) -> Space:
        """A space of the store with a time to live of its own. `most_bytes` is its own bound, 0 without one."""
        return self.store.space(name, ttl_s, most_bytes)

    def is_store_degraded(self) -> bool:
        """True if the store cannot be asked now, so that an unknown value may exist nevertheless."""
        return bool(self.store.describe()["degraded"])

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after `delay_s` seconds. The returned function cancels it. With a delay of 0, the callback
        goes into the work queue (work_queue)."""
        if not delay_s:
            waiting = [callback]
            self.client.work.put(lambda: waiting.pop()() if waiting else None)
            return waiting.clear
        loop = self.client.io_loop
        timer = loop.call_later(delay_s, callback)
        return lambda: loop.remove_timeout(timer)

    def tunnel(self, exchange: Exchange, lease: Lease, wire_target: bytes, fields: list[bytes]) -> Tunnel:
        """Send an Upgrade request over a new connection."""
        return Upgrade(exchange, lease.upstream.spec, lease.endpoint, wire_target, fields)

    def sweep(self) -> None:
        """Check all timeouts; called by a timer."""
        now = clock.monotonic()
        self.gates.sweep(now)
        self.buffers.sweep(now)
        self.ledger.sweep()
        for exchange in list(self.exchanges):
            exchange.guard(partial(enforce_timeouts, exchange, now))
