"""The gateway: the only reader of the current plan, and the set of all exchanges in flight."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.gates import Gates
from relayd.limits.overload import Bounds, Overload
from relayd.limits.request_buffers import RequestBuffers
from relayd.plan.plan import Plan
from relayd.protocols.dialect import Memory
from relayd.proxy.application import Application, not_running
from relayd.proxy.downstream import Downstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.pipeline import run
from relayd.proxy.ports import Store
from relayd.proxy.respond import error_answer
from relayd.proxy.response_head import LENGTH, render_head
from relayd.proxy.upgrade import Tunnel, Upgrade
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
        self.overload = Overload(Bounds(), 0.25)
        self.buffers = RequestBuffers()
        self.draining = False
        self.leaving = False  # another process accepts; requests on open connections are served, then these are closed
        self.admin: Application = not_running
        self.account = telemetry.account
        self.full: Callable[[], bool] = bool
        self.seal_key = os.urandom(32)
        self.store: Store = MemoryStore(max_entries=20_000, max_bytes=64 * 1024 * 1024, ttl_s=24 * 3600.0)

    def accept(self, down: Downstream, head: RequestHead, body: bytes | None, started: float) -> Exchange:
        """Create an exchange with the current plan. `body` is the whole body if it arrived with the head."""
        plan = self.plan
        assert plan is not None
        return Exchange(self, plan, down, head, started, body)

    def begin(self, exchange: Exchange) -> None:
        """Run the exchange through its phases; it may be over on return."""
        run(exchange)

    def refuse(self, down: Peer, fault: ExchangeError, started: float) -> bytes:
        """Account for a request that was refused before it became an exchange. Returns the bytes of its response."""
        plan = self.plan
        assert plan is not None
        kind = fault.kind
        record = Record()
        record.started, record.started_wall, record.generation = started, clock.wall(), plan.generation
        record.id = f"{random.getrandbits(128):032x}"
        record.listener, record.peer, record.client = down.listener, down.peer, down.peer
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
        for exchange in list(self.exchanges):
            exchange.guard(partial(exchange.enforce_timeouts, now))
