"""An exchange: one request and its response, from the accepted head to its record.

1. Its state is one member, `phase`. FOLLOWS is the table of permitted transitions.
2. It is accounted exactly once, in `_end`, for every kind of end. All its resources are released in the same turn.
3. Only the writer decides if the client may still get another response.
4. Nothing blocks: the connection, the attempt and the sweep (proxy/sweep.py) call the exchange.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from relayd import clock
from relayd.access.identity import Identity
from relayd.access.sessions import Session
from relayd.errors import KINDS, ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.ticket import Ticket
from relayd.plan.plan import Plan, PlannedRoute
from relayd.protocols.canon import Failure
from relayd.proxy.account import add_spend, record_ai_request, record_trail
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.application import LocalTransfer
from relayd.proxy.attempt import Attempt
from relayd.proxy.charge import Charge
from relayd.proxy.client_session import ClientSession
from relayd.proxy.cost import record_cost
from relayd.proxy.downstream import Downstream
from relayd.proxy.filters.translate import stream_head
from relayd.proxy.location import relocate
from relayd.proxy.phases import FOLLOWS
from relayd.proxy.ports import GatewayPort
from relayd.proxy.rate_fields import add_rate_fields
from relayd.proxy.request_body import RequestBody
from relayd.proxy.respond import Answer, error_answer
from relayd.proxy.response_writer import Http1Writer, NullWriter, ResponseWriter
from relayd.proxy.retry_loop import AttemptResult, RetryLoop
from relayd.proxy.steps import Work
from relayd.proxy.tracing import record_trace
from relayd.proxy.upgrade import Tunnel
from relayd.telemetry.outcome import Record
from relayd.upstream.classify import Classification
from relayd.upstream.lease import Lease
from relayd.upstream.spec import Timeouts
from relayd.wire.http1 import RequestHead
from relayd.wire.json_steps import Steps
from relayd.wire.origin import Origin
from relayd.wire.response import ResponseHead

LOG = logging.getLogger("relayd.exchange")
NO_TIMEOUTS = Timeouts()
AttemptFailedCallback = Callable[["Exchange", AttemptResult], None]


class Exchange:
    """Owned by its client connection; in `gateway.exchanges` until its end.

    `gates` are still to be entered; `tickets` are the held permits and queue positions. `resume_index` is the index of
    the waiting phase. `on_attempt_failed` handles a failed attempt (proxy/forward.py). `timeouts` are those of a target
    other than the route's own upstream. `tunnel` is the endpoint's side of an Upgrade, with its `lease`; `local` an
    application in relayd. `client_detached`: the client has left, the endpoint may finish. `origin` is the client as
    reported by a trusted proxy. `number` is set at its first use (server/exchange_number.py).
    """

    __slots__ = (
        "ai_request", "attempt", "body", "cancel_timer", "charge", "client_detached", "client_session", "down", "gates",
        "gateway", "head", "identity", "lease", "local", "number", "on_attempt_failed", "origin", "phase", "plan",
        "queue_note", "record", "request_id", "resume_index", "retry_loop", "route", "session", "tickets", "timeouts",
        "tunnel", "waiting_since_s", "writer",
    )
    number: int

    def __init__(
        self, gateway: GatewayPort, plan: Plan, down: Downstream, head: RequestHead, started: float,
        body: bytes | None = None,
    ) -> None:
        """`body` is the whole body if it arrived with the head."""
        self.gateway, self.plan, self.down, self.head = gateway, plan, down, head
        self.phase = "accept"
        record = self.record = Record(down.listener, down.peer, plan.generation, started, clock.wall())
        record.version = head.version
        self.request_id = b""
        self.origin: Origin | None = None
        self.writer: ResponseWriter = Http1Writer(down, head, record, plan)
        self.body = RequestBody(down, gateway.buffers, body, body is not None or head.has_body)
        if body is not None:
            record.bytes_in = len(body)
        self.route: PlannedRoute | None = None
        self.identity: Identity | None = None
        self.session: Session | None = None  # of a browser that has signed in
        self.ai_request: AiRequest | None = None
        self.retry_loop: RetryLoop | None = None
        self.client_session: ClientSession | None = None
        self.attempt: Attempt | None = None
        self.tunnel: Tunnel | None = None
        self.local: LocalTransfer | None = None
        self.lease: Lease | None = None
        self.charge: Charge | None = None
        self.on_attempt_failed: AttemptFailedCallback | None = None
        self.gates: tuple[Gate, ...] = ()
        self.tickets: tuple[tuple[Gate, Ticket], ...] = ()
        self.cancel_timer: Callable[[], None] | None = None
        self.timeouts: Timeouts | None = None
        self.queue_note = ""
        self.waiting_since_s = -1.0
        self.resume_index = 0
        self.client_detached = False
        gateway.exchanges.add(self)

    @property
    def effective_timeouts(self) -> Timeouts:
        """The timeouts of the current target, or of the route if there is no target yet."""
        if self.timeouts is not None:
            return self.timeouts
        return NO_TIMEOUTS if self.route is None else self.route.timeouts

    @property
    def consumer(self) -> str | None:
        """The name of the identified consumer, or None."""
        return None if self.identity is None else self.identity.name

    @property
    def is_over(self) -> bool:
        """True if the exchange has ended and is accounted."""
        return self.phase == "over"

    def use_error_format_of(self, route: PlannedRoute | None) -> None:
        """Render errors in the format of this route from now on."""
        self.route = self.writer.route = route

    def enter(self, phase: str) -> None:
        """Enter a phase."""
        assert phase in FOLLOWS[self.phase], f"{self.phase} -> {phase}"
        self.phase = phase

    def guard(self, step: Callable[[], None]) -> None:
        """Run a step from a callback. An exception becomes the response."""
        try:
            if self.phase != "over":
                step()
        except ExchangeError as refused:
            self.guard(partial(self.fail, refused))
        except Exception:  # rescue door: a fault of relayd itself ends one exchange
            self.fail_internally()

    def fail_internally(self) -> None:
        """Log the unexpected exception that is being handled, and end the exchange with an error."""
        LOG.exception("exchange %s", self.record.id)
        try:
            self.fail(ExchangeError("internal"))
        except Exception:  # rescue door: the error response failed too; release all resources
            LOG.exception("exchange %s, ending with an error", self.record.id)
            self._end()
            self.writer.abort()

    def call_later(self, delay_s: float, step: Callable[[], None]) -> Callable[[], None]:
        """Run a guarded step after `delay_s` seconds. The returned function cancels it."""
        return self.gateway.call_later(delay_s, partial(self.guard, step))

    def work(self, steps: Steps[None], on_done: Callable[[], None], *, deferred: bool = False) -> bool:
        """Run steps that may exceed one turn of the event loop. Returns True if they are done; otherwise `on_done` is
        called later. The end of the exchange cancels them. `deferred` starts them in a later turn."""
        work = Work(steps, self.call_later, on_done)
        self.cancel_timer = work.cancel
        if deferred:
            work.defer()
            return False
        return work.turn()

    # ---- shown by the status

    def age_s(self) -> float:
        """Seconds since the request began."""
        return clock.monotonic() - self.record.started

    def buffered(self) -> int:
        """Bytes of this exchange buffered inside relayd, in both directions."""
        attempt = self.attempt
        return self.writer.buffered() + self.body.buffered_bytes() + (0 if attempt is None else attempt.buffered())

    # ---- the client's side

    def upload(self, data: bytes, last: bool) -> None:
        """Receive the next piece of the request body, or of a tunnel."""
        if self.phase == "over":
            return
        record, route, attempt = self.record, self.route, self.attempt
        record.bytes_in += len(data)
        if self.tunnel is not None:
            self.tunnel.upload(data)
            return
        limit = 0 if route is None else route.body_limit
        try:
            if limit and record.bytes_in > limit:
                raise ExchangeError("body_too_large")
            taker = self.local if attempt is None else attempt.slot
            self.body.receive(data, last, taker, self.retry_loop is not None)
        except ExchangeError as refused:
            self.fail(refused)

    def end_upload(self) -> bool:
        """The client has closed its sending side. Returns False if that means that it has left."""
        if self.tunnel is not None:
            return self.tunnel.end_upload()
        return self.writer.started and (self.attempt is None or self.attempt.abandon_upload())

    def fail_upload(self, fault: ExchangeError) -> None:
        """End the exchange: the request body is malformed or was not sent in time."""
        self.guard(partial(self.fail, fault))

    def client_gone(self, code: str = "client_gone") -> None:
        """The client has left, or does not read the response."""
        if self.phase == "over" or self.client_detached:
            return
        record, route, attempt = self.record, self.route, self.attempt
        record.code, record.ended_by, record.phase = code, "client", self.phase
        if not self.writer.started:
            record.status = 499
        if (
            route is not None and route.finish and self.body.complete and attempt is not None
            and attempt.slot is not None and code == "client_gone"
        ):
            self.client_detached = True
            self.writer = NullWriter()
            attempt.discard_response(self.writer)
            return
        self._cancel_work(code)
        self._end()
        self.writer.abort(explained=True)

    def on_drained(self) -> None:
        """The client has received all buffered bytes."""
        if (source := self.attempt or self.tunnel or self.local) is not None:
            self.guard(source.unhold)

    # ---- the attempt's side

    def attempt_begins_response(self, attempt: Attempt, head: ResponseHead) -> None:
        """No other attempt follows: release the data for one."""
        if attempt is self.attempt and self.charge is not None:
            self.charge.response = head
        if attempt is not self.attempt or self.client_detached:
            return
        self.phase = "transfer"
        if attempt.slot is not None:
            self.record.connect_s = attempt.slot.connect_time()
        body = self.body
        body.data = body.json_body = None
        if body.memory is not None:
            body.recount(attempt.slot)
        if self.ai_request is not None:
            self.ai_request.release_request()
        resilience = None if self.route is None else self.route.resilience
        tells_attempts = resilience is not None and resilience.tells_attempts
        if head.has_location or self.charge or self.client_session or self.queue_note or tells_attempts:
            self.annotate_head(head, attempt)

    def reads_error(self, classification: Classification) -> bool:
        """True if the next step may depend on the body of an error response."""
        return self.retry_loop is not None and self.retry_loop.reads_error(classification)

    def attempt_completed(self, attempt: Attempt) -> None:
        """The response is complete and written."""
        if self.phase == "over":  # the writer has found that the client left
            return
        if not self.client_detached:
            self.record.phase, self.record.ended_by = "transfer", "upstream"
            if (fault := attempt.reported) is not None:
                self.record.code, self.record.detail = fault.kind.code, fault.detail
        self._end()
        self.writer.close()

    def attempt_failed(self, attempt: Attempt, result: AttemptResult) -> None:
        """The attempt failed, and the client got nothing of its response."""
        if self.phase == "over":
            return
        if self.record.trace is not None:
            status = 0 if result.response is None else result.response.status
            self.record.trace.end_attempt(clock.monotonic(), status, result.fault.kind.code)
        if self.client_detached or self.on_attempt_failed is None:
            self.fail(result.fault)
            return
        self.guard(partial(self.on_attempt_failed, self, result))

    def attempt_broke(self, attempt: Attempt, fault: ExchangeError, failure: Failure | None) -> None:
        """The attempt failed after its response was committed."""
        self.guard(partial(self.fail, fault, failure))

    # ---- a tunnel's side (proxy/upgrade.py, proxy/websocket_session.py)

    def switch(self, head: bytes) -> None:
        """The endpoint accepted the Upgrade: send `head` to the client, and start the tunnel."""
        self.enter("tunnel")
        self.record.phase = "tunnel"
        if self.lease is not None:
            self.lease.answered()
        self.writer.switch(head)
        if self.phase != "over":
            self.down.start_tunnel()

    def write_tunnel(self, data: bytes) -> bool:
        """Send bytes of the tunnel to the client. Returns False if the client is slow."""
        return self.writer.raw(data)

    def plain_answer(self, response: ResponseHead, body: bytes) -> bool:
        """The endpoint refused the Upgrade: send its HTTP response, first the head, then pieces of the body."""
        if not self.writer.started:
            self.enter("transfer")
            self.writer.head(response)
        return self.writer.body(body) if body else self.writer.flush()

    def complete(self, ended_by: str = "upstream") -> None:
        """End a tunnel, the response to a refused Upgrade, or an application's response."""
        if self.phase == "over":
            return
        tunnel = self.phase == "tunnel"
        self.record.phase, self.record.ended_by = self.phase, ended_by
        if not tunnel:
            self.writer.end()
        self._cancel_work("")
        self._end()
        self.writer.close()

    # ---- responses of relayd itself, and endings

    def respond(self, answer: Answer) -> None:
        """Send a complete response of relayd itself."""
        code = answer.code
        if self.writer.started:
            self.fail(ExchangeError(code or "internal", answer.detail))
            return
        record = self.record
        record.phase, record.code, record.detail = self.phase, code, answer.detail
        record.ended_by = KINDS[code].fault.value if code else "relayd"
        self._cancel_work("")
        self._write(answer)

    def fail(self, fault: ExchangeError, failure: Failure | None = None) -> None:
        """End the exchange with an error: an error response if possible, else an error in the stream's dialect, or an
        incomplete end. `failure` is the error as reported by the endpoint."""
        if self.phase == "over":
            return
        kind, record, writer = fault.kind, self.record, self.writer
        if not self.client_detached:
            record.code, record.detail, record.phase = kind.code, fault.detail, self.phase
            record.ended_by = kind.fault.value
        self._cancel_work(kind.code)
        if writer.started:
            self._end_incomplete(fault, failure)
        elif kind.status == 499 or self.client_detached:
            if not self.client_detached:
                record.status = 499
            self._end()
            writer.abort()
        else:
            if kind.close:
                self.head.keep_alive = False
            self._write(error_answer(fault, self.route, self.head, self.request_id.decode("latin-1")))

    def deliver(self, response: ResponseHead, body: bytes) -> None:
        """Send an endpoint's complete error response."""
        if self.head.method != b"HEAD":
            response.length = len(body)
        self._begin_delivery()
        self.annotate_head(response, None)
        self._write(Answer(response, body))

    def deliver_stream(self, data: bytes) -> None:
        """End a stream with these frames. Starts the stream if necessary."""
        self._begin_delivery()
        writer = self.writer
        if not writer.started:
            writer.head(stream_head(None))
        writer.end(data)
        if self.phase != "over":
            self._end()
            writer.close()

    def _begin_delivery(self) -> None:
        self.phase = self.record.phase = "transfer"
        self.record.ended_by = "upstream"

    def _write(self, answer: Answer) -> None:
        writer = self.writer
        writer.head(answer.response)
        writer.end(answer.body)
        if self.phase != "over":  # the writer may find that the client left
            self._end()
            writer.close()

    def _end_incomplete(self, fault: ExchangeError, failure: Failure | None) -> None:
        """End a started response with an error in its dialect if possible. It never looks complete."""
        writer, ai_request, loop = self.writer, self.ai_request, self.retry_loop
        found = None
        if ai_request is not None and loop is not None and not self.client_detached and fault.kind.status != 499:
            kind = fault.kind
            response = None if self.attempt is None else self.attempt.response
            reported = failure or Failure(kind.status, kind.message, code=kind.code)
            found = ai_request.in_band_error(reported, loop.target, response, self.request_id.decode("latin-1"))
        if found is None:
            self._end()
            writer.abort()
            return
        frame, ends_stream = found
        if ends_stream:
            writer.end(frame)
        elif frame:
            writer.body(frame)
        if self.phase != "over":
            self._end()
            if ends_stream:
                writer.close()
            else:
                writer.abort(explained=True)

    def _cancel_work(self, code: str) -> None:
        """Cancel the attempt, tunnel or application. `code` is the reason if it concerns the endpoint, else empty."""
        if self.attempt is not None:
            self.attempt.cancel(code)
        if (other := self.tunnel or self.local) is not None:
            other.close()

    def _end(self) -> None:
        """Account once, and release all resources. The caller closes or aborts the writer right afterwards."""
        if self.phase == "over":
            return
        self.phase = "over"
        record, gateway = self.record, self.gateway
        gateway.exchanges.discard(self)
        if self.cancel_timer is not None:
            cancel, self.cancel_timer = self.cancel_timer, None
            cancel()
        try:
            ai_request, loop, lease = self.ai_request, self.retry_loop, self.lease
            if lease is not None:
                lease.release(lease.classify(record.code, record.status if self.writer.started else 0))
            if loop is not None and loop.trail:
                record_trail(record, loop.trail)
            if record.trace is not None and record.trace.sampled:
                response = None if self.attempt is None else self.attempt.response
                record_trace(record.trace, record, response, self.head, ai_request)
            if ai_request is not None:
                for filter_ in () if self.attempt is None else self.attempt.filters:
                    filter_.account(record)
                record_ai_request(record, ai_request, None if loop is None else loop.target.model)
                if self.plan.prices is not None and loop is not None:
                    record_cost(record, self.plan.prices, ai_request, loop.target)
            if self.charge is not None:
                if loop is not None:
                    self.charge.record_estimate(record, loop, ai_request, self.body.complete)
                self.charge.settle(record, loop, ai_request, self.body.complete, gateway.ledger.observer)
        except Exception:  # rescue door: a fault of the record must not keep resources
            LOG.exception("record of exchange %s", record.id)
        if self.charge is not None:
            self.charge.refund()  # what is still open after a fault
        self.body.release()
        self.attempt = self.tunnel = self.local = self.retry_loop = self.ai_request = self.lease = None
        self.on_attempt_failed = None
        tickets, self.tickets = self.tickets, ()
        for gate, ticket in tickets:
            gate.release(ticket)
        record.total_s = clock.monotonic() - record.started
        gateway.account(record)
        if record.currency:
            add_spend(gateway.spend, record, "" if self.identity is None else self.identity.group)

    # ---- fields of the response

    def relocate(self, head: ResponseHead, attempt: Attempt) -> None:
        """Rewrite the endpoint's own URLs in fields such as Location for the client."""
        if head.has_location and self.route is not None:
            relocate(head, self.head.path, self.route, attempt.target.upstream.spec, attempt.lease.endpoint)

    def annotate_head(self, head: ResponseHead, attempt: Attempt | None) -> None:
        """Rewrite URLs for the client; add the fields on queue and attempts if the route enables them."""
        if attempt is not None:
            self.relocate(head, attempt)
        if self.client_session is not None:
            self.client_session.annotate(head, self.record, None if attempt is None else attempt.lease)
        if self.charge is not None:
            add_rate_fields(self.charge, self.route, self.gateway.ledger, head)
        if self.queue_note:
            head.keep += [f"{name}: {value}\r\n".encode() for name, value in self.queue_fields()]
        route, loop = self.route, self.retry_loop
        resilience = None if route is None else route.resilience
        if resilience is not None and resilience.tells_attempts and loop is not None:
            trail = loop.trail if attempt is None else [*loop.trail, f"{attempt.lease.endpoint.label} {head.status}"]
            head.keep.append(f"X-Relayd-Attempts: {', '.join(trail)}\r\n".encode("latin-1", "replace"))

    def queue_fields(self) -> list[tuple[str, str]]:
        """X-Relayd-Queue, a dictionary of RFC 9651; empty without a queue or if the route does not enable it."""
        if not self.queue_note:
            return []
        waited_s = self.record.queue_s
        if self.waiting_since_s >= 0:
            waited_s += clock.monotonic() - self.waiting_since_s
        return [("X-Relayd-Queue", f"{self.queue_note}, waited={waited_s:.3f}")]
