"""Fakes for tests of single phases: plans from YAML texts, a client connection and a gateway that record calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd import clock
from relayd.access.client_certificate import ClientCertificate, no_certificate
from relayd.access.sessions import Sessions
from relayd.config.load import load_text
from relayd.limits.failed_keys import FailedKeys
from relayd.limits.ledger import Ledger
from relayd.limits.overload import Bounds, Overload
from relayd.limits.request_buffers import RequestBuffers
from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.spend import Spend
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan, PlannedRoute
from relayd.protocols.dialect import Memory
from relayd.proxy.application import Application, Handler, LocalRequest, Responder, send_answer
from relayd.proxy.cache_use import CacheCounts
from relayd.proxy.client_session import SessionCounts
from relayd.proxy.exchange import Exchange
from relayd.proxy.pipeline import run
from relayd.proxy.ports import AttemptObserver
from relayd.proxy.respond import answer
from relayd.proxy.upgrade import Tunnel
from relayd.stores._space import Space
from relayd.stores.memory import Store
from relayd.telemetry.outcome import Record
from relayd.telemetry.trace import Tracing
from relayd.upstream.lease import Lease
from relayd.wire.forwarded import Networks
from relayd.wire.http1 import RequestHead, parse_head

UPSTREAM = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {web: {endpoints: ["http://origin.example:9001"]}}
"""
PLAIN = UPSTREAM + "routes: [{name: all, upstream: web}]\n"


def plan_of(text: str) -> Plan:
    return compile_plan(load_text(text, "relayd.yaml").config, 1)


def head_for(*lines: str, start: str = "GET /v1/x?a=1 HTTP/1.1", host: str | None = "relay.example") -> RequestHead:
    named = ([f"Host: {host}"] if host is not None else []) + list(lines)
    return parse_head("\r\n".join([start, *named, "", ""]).encode("latin-1"))


class Client:
    """A Downstream without a socket."""

    def __init__(self, peer: str = "192.0.2.7", trusted: bool = False, tls: bool = False) -> None:
        self.listener, self.peer, self.trusted, self.tls = "public", peer, trusted, tls
        self.networks = Networks(("192.0.2.0/24", "10.0.0.0/8"))
        self.exchange: Any = None
        self.socket_memory: Memory | None = None
        self.client_certificate: Callable[[], ClientCertificate | None] = no_certificate
        self.forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
        self.sent = b""
        self.ended: list[str] = []
        self.room = self.whole = True
        self.waiting = 0

    def send(self, data: bytes) -> bool:
        self.sent += data
        return self.room

    def buffered(self) -> int:
        return self.waiting

    def reusable(self) -> bool:
        return self.whole and bool(self.exchange.head.keep_alive)

    def pause_body(self) -> None:
        self.ended.append("pause")

    def resume_body(self) -> None:
        self.ended.append("resume")

    def schedule_upload(self) -> None:
        """Nothing is read."""

    def start_tunnel(self) -> None:
        self.ended.append("tunnel")

    def finished(self, keep: bool) -> None:
        self.ended.append("keep" if keep else "close")

    def abort(self, reset: bool) -> None:
        self.ended.append("reset" if reset else "abort")

    @property
    def status(self) -> int:
        return int(self.sent.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[0] + b"\r\n"

    @property
    def body(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[2]


class FakeGateway:
    """A gateway that stores the records."""

    def __init__(self) -> None:
        self.exchanges: set[Any] = set()
        self.draining = self.degraded = False
        self.accounts: list[Record] = []
        self.asked: list[tuple[str, str, bool]] = []
        self.seal_key = b""
        self.overload = Overload(Bounds(), 0.25)
        self.buffers = RequestBuffers()
        self.spend = Spend()
        self.failed_keys = FailedKeys(3, 60.0)
        self.sessions = Sessions()
        self.ledger = Ledger()
        self.session_counts = SessionCounts()
        self.cache_counts = CacheCounts()
        self.shared: SharedLedger | None = None
        self.store = Store(100, 1 << 20, 60.0)
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.admin: Application = self._handled
        self.challenge_response: Callable[[bytes], bytes | None] | None = None
        self.tracing = Tracing()
        self.observer: AttemptObserver | None = None
        self.begin: Callable[[Exchange], None] = run

    def current(self) -> Plan:
        raise AssertionError("an exchange goes on with the plan that it came with")

    def tunnel(self, exchange: Exchange, lease: Lease, wire_target: bytes, fields: list[bytes]) -> Tunnel:
        raise AssertionError("nothing is sent from here")

    def memory(self, space: str) -> Memory:
        return self.store.space(space)

    def space(self, name: str, ttl_s: float, most_bytes: int = 0) -> Space:
        return self.store.space(name, ttl_s, most_bytes)

    def is_store_degraded(self) -> bool:
        return self.degraded

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        timer = (delay_s, callback)
        self.timers.append(timer)
        return lambda: self.timers.remove(timer)

    def account(self, record: Record) -> None:
        self.accounts.append(record)

    def _handled(self, request: LocalRequest, responder: Responder) -> Handler:
        self.asked.append((request.method, request.path, request.may_write))
        return send_answer(responder, answer(200, "application/json", b"{}"))


def run_through_phases(
    plan: Plan, head: RequestHead, client: Client | None = None, owner: FakeGateway | None = None, body: bytes | None = None
) -> tuple[Client, Exchange, FakeGateway]:
    """Create an exchange and run it through its phases, in as many turns as they take. A replay waits for its client."""
    client, owner = client or Client(), owner or FakeGateway()
    exchange = Exchange(owner, plan, client, head, clock.monotonic(), body)
    client.exchange = exchange
    run(exchange)
    while exchange.local is None and (turns := [timer for timer in owner.timers if timer[0] == 0.0]):
        owner.timers.remove(turns[0])
        turns[0][1]()
    return client, exchange, owner


def route_of(plan: Plan, head: RequestHead) -> PlannedRoute:
    route = plan.table.match(head)
    assert route is not None
    return route
