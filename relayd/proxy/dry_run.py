"""A dry run of the pipeline: the same phases, retry loop and attempt, with a transport that records and sends nothing.

Used by `relayd explain` and `relayd test`. If a phase refuses the request, the refusal is recorded and the run goes on
with the next phase, to show the request that would be sent otherwise. Keys are hidden before the run, so that the
recorded request contains none.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.access.identity import Identity
from relayd.access.sessions import Sessions
from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.limits.failed_keys import FailedKeys
from relayd.limits.ledger import Ledger
from relayd.limits.overload import Bounds, Overload
from relayd.limits.request_buffers import RequestBuffers
from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.spend import Spend
from relayd.plan.plan import Plan, PlannedRoute, Target
from relayd.protocols.dialect import Memory
from relayd.proxy import pipeline
from relayd.proxy.application import Application, Handler, LocalRequest, Responder, send_answer
from relayd.proxy.cache_use import CacheCounts, CacheUse
from relayd.proxy.client_session import SessionCounts
from relayd.proxy.downstream import Downstream, NullDownstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.ports import AttemptObserver
from relayd.proxy.respond import WAIT, Answer, Wait, answer
from relayd.proxy.response_writer import NullWriter
from relayd.proxy.upgrade import Tunnel
from relayd.stores._space import Space
from relayd.stores.memory import Store
from relayd.telemetry.outcome import Record
from relayd.telemetry.trace import Tracing
from relayd.upstream.discovered import url_parts
from relayd.upstream.lease import Lease
from relayd.upstream.spec import EndpointSpec, Timeouts
from relayd.upstream.transport.recording import RecordingPool
from relayd.wire.forwarded import Networks
from relayd.wire.http1 import RequestHead
from relayd.wire.redact import mask_urls
from relayd.wire.response import ResponseHead

DISCOVERED = "(the discovered address)"  # the Host field
MINTED_ID = b"(made for each request)"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as given to the transport. `fields` are in the transport's syntax. `length` is None without a body, -1
    if unknown. `payload` is the whole body if it is known."""

    target: Target
    endpoint: str
    wire_target: bytes
    fields: list[bytes]
    payload: bytes | None
    length: int | None
    translated: bool


@dataclass(frozen=True, slots=True)
class Response:
    """A response of relayd itself: `code` as in the access log, `why` is an explanation."""

    status: int
    code: str
    why: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """The result of a dry run. `answer` is the first refusal or response of relayd itself; `sent` is the request to an
    endpoint, also if the request is refused; `targets` are all targets in their order; `model` is the requested one;
    `cache_use` is how the request uses the cache of the route, None if it cannot."""

    route: PlannedRoute | None
    identity: Identity | None
    answer: Response | None
    sent: Sent | None
    targets: tuple[Target, ...]
    timeouts: Timeouts
    model: str
    cache_use: CacheUse | None = None


class _Writer(NullWriter):
    """Records the status of a response."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        super().__init__()
        self.status = 0

    def head(self, response: ResponseHead) -> None:
        self.started = True
        self.status = response.status

    def switch(self, head: bytes) -> None:
        self.started, self.status = True, 101


class _Tunnel:
    """Replaces the connection of an Upgrade."""

    def __init__(self, wire_target: bytes, fields: list[bytes]) -> None:
        self.wire_target, self.fields = wire_target, fields

    def upload(self, data: bytes) -> None:
        """Nothing is sent."""

    def end_upload(self) -> bool:
        """Nothing is sent."""
        return False

    def unhold(self) -> None:
        """Nothing is paused."""

    def enforce_timeouts(self, now: float, timeouts: Timeouts) -> None:
        """There are no timeouts."""

    def close(self) -> None:
        """Nothing is open."""


class _Gateway:
    """The gateway of one dry run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.exchanges: set[Exchange] = set()
        self.draining = False
        self.seal_key = b"\0" * 32
        self.overload = Overload(Bounds(), 0.25)
        self.buffers = RequestBuffers()
        self.spend = Spend()
        self.failed_keys = FailedKeys(0)
        self.sessions = Sessions()
        self.ledger = Ledger()
        self.session_counts = SessionCounts()
        self.cache_counts = CacheCounts()
        self.shared: SharedLedger | None = None
        self.admin: Application = _admin_page
        self.challenge_response: Callable[[bytes], bytes | None] | None = None
        self.record: Record | None = None
        self.tracing = Tracing()
        self.observer: AttemptObserver | None = None
        self.begin: Callable[[Exchange], None] = pipeline.run
        self._due: list[Callable[[], None]] = []

    def run_due(self) -> None:
        """Run the callbacks that were deferred to a later turn."""
        while self._due:
            self._due.pop()()

    def current(self) -> Plan:
        return self.plan

    def memory(self, space: str) -> Memory:
        return Store(max_entries=1, max_bytes=1024, ttl_s=1.0).space(space)

    def space(self, name: str, ttl_s: float, most_bytes: int = 0) -> Space:
        return Store(max_entries=1, max_bytes=1024, ttl_s=ttl_s).space(name)

    def is_store_degraded(self) -> bool:
        return False

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        if not delay_s:
            self._due.append(callback)
        return _nothing

    def account(self, record: Record) -> None:
        self.record = record

    def tunnel(self, exchange: Exchange, lease: Lease, wire_target: bytes, fields: list[bytes]) -> Tunnel:
        return _Tunnel(wire_target, fields)


def _nothing() -> None:
    pass


def _admin_page(request: LocalRequest, responder: Responder) -> Handler:
    return send_answer(responder, answer(200, "", b""))


def dry_run(
    plan: Plan, head: RequestHead, body: bytes | None, peer: str, networks: Networks, tls: bool
) -> DryRun:
    """Run the given request through all phases. `body` is the whole body, None if it is not known."""
    for upstream in plan.upstreams.values():
        upstream.hide_keys()
        if (source := upstream.spec.discovery) is not None:  # a dry run looks nothing up
            scheme, path = url_parts(source) or ("http", "")
            label = f"discovered by {source.kind}"
            upstream.set_endpoints((EndpointSpec(f"{scheme}://{DISCOVERED}", path, label),))
        for endpoint in upstream.endpoints:
            endpoint.pool = RecordingPool()
    gateway = _Gateway(plan)
    client: Downstream = NullDownstream("", peer, networks, tls)
    exchange = Exchange(gateway, plan, client, head, clock.monotonic(), body)
    writer = exchange.writer = _Writer()
    exchange.resume_index = len(pipeline.PHASES)  # resuming the exchange does nothing: `_step` does it
    first: Response | None = None
    for phase in pipeline.PHASES:
        found = _step(exchange, phase, writer, gateway)
        first = first or found
        if exchange.phase == "over" or (found is not None and exchange.route is None) or writer.started:
            break
        if phase is pipeline.answer_locally and exchange.route is not None and exchange.route.action != "proxy":
            break  # refused by what relayd serves itself
        if phase is pipeline.select and exchange.retry_loop is None:
            break  # without a target nothing would be sent
    loop, ai_request = exchange.retry_loop, exchange.ai_request
    result = DryRun(
        exchange.route, exchange.identity, first, _sent(exchange), () if loop is None else loop.targets,
        exchange.effective_timeouts, (ai_request.model if ai_request is not None else exchange.head.model) or "",
        None if ai_request is None else ai_request.cache_use,
    )
    exchange.client_gone()
    return result


def _step(exchange: Exchange, phase: pipeline.Phase, writer: _Writer, gateway: _Gateway) -> Response | None:
    """Run one phase. Returns its response, if any."""
    try:
        step = phase(exchange)
        while step is WAIT and exchange.tunnel is None and not exchange.is_over:
            if exchange.body.is_buffering:
                exchange.body.receive(b"", True, None, False)  # no body was given: an empty one is assumed
            gateway.run_due()
            step = phase(exchange)
        gateway.run_due()
    except ExchangeError as refused:
        if phase is pipeline.match:
            exchange.use_error_format_of(None)  # the route was set only for the format of errors
        return Response(refused.kind.status, refused.kind.code, refused.detail or refused.kind.message)
    if isinstance(step, Answer):
        writer.started = True
        return Response(step.response.status, step.code, step.detail or _why(exchange, phase, step))
    if isinstance(step, Wait) and exchange.is_over:
        return Response(writer.status, "", "a page of the admin application")
    if isinstance(step, Wait):
        return Response(writer.status, "", "a WebSocket session of the Responses API")
    if writer.started and gateway.record is not None:
        return Response(writer.status, gateway.record.code, gateway.record.detail)
    return None


def _why(exchange: Exchange, phase: pipeline.Phase, step: Answer) -> str:
    route, status = exchange.route, step.response.status
    if phase is pipeline.cors:
        return "a CORS preflight that is " + ("granted" if status < 300 else "not granted")
    if route is not None and route.action == "redirect":
        return f"a redirect, {mask_urls(step.response.get(b'location'))}"
    if route is not None and route.action == "respond":
        return "a fixed response"
    return "answered by relayd itself"


def _sent(exchange: Exchange) -> Sent | None:
    """The request that the recording transport got."""
    attempt, loop, tunnel, lease = exchange.attempt, exchange.retry_loop, exchange.tunnel, exchange.lease
    if isinstance(tunnel, _Tunnel) and loop is not None and lease is not None:
        return Sent(loop.target, lease.endpoint.label, tunnel.wire_target, tunnel.fields, None, None, False)
    if attempt is None:
        return None
    endpoint = attempt.lease.endpoint
    pool = endpoint.pool
    if not isinstance(pool, RecordingPool) or pool.recorded is None:
        return None
    found = pool.recorded
    return Sent(
        attempt.target, endpoint.label, found.target, found.fields, found.body, found.length, attempt.translated
    )
