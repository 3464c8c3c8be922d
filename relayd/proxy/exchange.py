"""An exchange: one request and its response, from the accepted head to the account.

1. Its state is one member, `phase`, and FOLLOWS is the table of what may follow what.
2. It is accounted exactly once, in `_end`, whatever ended it; everything that it holds is given back in that turn.
3. Whether the client may still get another response is asked of the writer, nowhere else.
4. Nothing here waits: the connection calls `upload`, `on_drained`, `client_gone`; the attempt reports; the sweep calls
   `enforce_timeouts`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from relayd import clock
from relayd.errors import KINDS, ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.ticket import Ticket
from relayd.plan.plan import Plan, PlannedRoute
from relayd.protocols.canon import Failure
from relayd.proxy.account import record_ai_request, record_trail
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.application import LocalTransfer
from relayd.proxy.attempt import Attempt
from relayd.proxy.downstream import Downstream
from relayd.proxy.filters.keepalive import COMMENT, takes_comments
from relayd.proxy.filters.translate import stream_head
from relayd.proxy.location import relocate
from relayd.proxy.phases import FOLLOWS
from relayd.proxy.ports import GatewayPort
from relayd.proxy.request_body import RequestBody
from relayd.proxy.respond import Answer, error_answer
from relayd.proxy.response_writer import Http1Writer, NullWriter, ResponseWriter
from relayd.proxy.retry_loop import AttemptResult, RetryLoop
from relayd.proxy.steps import Work
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
    """Owned by its client connection, known to the gateway while it lives.

    `gates` are those that are still to be entered, `tickets` the permits and the place in a queue that it holds.
    `resume_index` is the place of the phase that waits. `on_attempt_failed` is what follows a failed attempt
    (proxy/forward.py). `timeouts` are those of a target that is not the route's own upstream.
    `tunnel` is the endpoint's side of an Upgrade, with its `lease`; `local` an application inside relayd. `client_detached`: the
    client has left, and the endpoint may finish all the same. `origin` is the client that a trusted proxy tells of.
    """

    __slots__ = (
        "ai_request", "attempt", "body", "cancel_timer", "client_detached", "consumer", "down", "gates", "gateway",
        "head", "lease", "local", "on_attempt_failed", "origin", "phase", "plan", "queue_note", "record", "request_id",
        "resume_index", "retry_loop", "route", "tickets", "timeouts", "tunnel", "waiting_since_s", "writer",
    )

    def __init__(
        self, gateway: GatewayPort, plan: Plan, down: Downstream, head: RequestHead, started: float,
        body: bytes | None = None,
    ) -> None:
        """`body` is the whole body where it came with the head."""
        self.gateway, self.plan, self.down, self.head = gateway, plan, down, head
        self.phase = "accept"
        record = self.record = Record()
        record.started, record.started_wall = started, clock.wall()
        record.generation = plan.generation
        record.listener, record.peer, record.client = down.listener, down.peer, down.peer
        record.version = head.version
        self.request_id = b""
        self.origin: Origin | None = None
        self.writer: ResponseWriter = Http1Writer(down, head, record, plan)
        self.body = RequestBody(down, gateway.buffers, body, head.has_body)
        if body is not None:
            record.bytes_in = len(body)
        self.route: PlannedRoute | None = None
        self.consumer: str | None = None
        self.ai_request: AiRequest | None = None
        self.retry_loop: RetryLoop | None = None
        self.attempt: Attempt | None = None
        self.tunnel: Tunnel | None = None
        self.local: LocalTransfer | None = None
        self.lease: Lease | None = None
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
        """The limits of time of the present target; those of the route before there is one."""
        if self.timeouts is not None:
            return self.timeouts
        return NO_TIMEOUTS if self.route is None else self.route.timeouts

    @property
    def is_over(self) -> bool:
        """Whether it has been accounted."""
        return self.phase == "over"

    def use_error_format_of(self, route: PlannedRoute | None) -> None:
        """Responses of relayd's own have the shape of this route from now on."""
        self.route = self.writer.route = route

    def enter(self, phase: str) -> None:
        """Go on to a phase."""
        assert phase in FOLLOWS[self.phase], f"{self.phase} -> {phase}"
        self.phase = phase

    def guard(self, step: Callable[[], None]) -> None:
        """Run a step whose caller could not answer what it raises: that becomes the response."""
        try:
            if self.phase != "over":
                step()
        except ExchangeError as refused:
            self.guard(partial(self.fail, refused))
        except Exception:  # rescue door: a fault of relayd's own ends one exchange
            self.fail_internally()

    def fail_internally(self) -> None:
        """An exception that nobody expected is being handled: log it, and end the exchange with an error."""
        LOG.exception("exchange %s", self.record.id)
        try:
            self.fail(ExchangeError("internal"))
        except Exception:  # rescue door: the error response cannot be made either; what is held is given back
            LOG.exception("exchange %s, ending with an error", self.record.id)
            self._end()
            self.writer.abort()

    def call_later(self, delay_s: float, step: Callable[[], None]) -> Callable[[], None]:
        """Guard a step after a while; what is returned takes that back."""
        return self.gateway.call_later(delay_s, partial(self.guard, step))

    def work(self, steps: Steps[None], then: Callable[[], None], *, deferred: bool = False) -> bool:
        """Work that may be too much for one turn of the event loop: whether it is done, else `then` is called when it
        is. It ends with the exchange. `deferred` begins it in another turn."""
        work = Work(steps, self.call_later, then)
        self.cancel_timer = work.cancel
        if deferred:
            work.defer()
            return False
        return work.turn()

    # ---- what status shows

    def age_s(self) -> float:
        """Seconds since the request began."""
        return clock.monotonic() - self.record.started

    def buffered(self) -> int:
        """Bytes of this exchange that wait inside relayd, both ways."""
        attempt = self.attempt
        return self.writer.buffered() + self.body.buffered_bytes() + (0 if attempt is None else attempt.buffered())

    # ---- the client's side

    def upload(self, data: bytes, last: bool) -> None:
        """The next piece of the request body, or of a tunnel."""
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
        """The client sends no more; False where that means that it has left."""
        if self.tunnel is not None:
            return self.tunnel.end_upload()
        return self.writer.started and (self.attempt is None or self.attempt.abandon_upload())

    def fail_upload(self, fault: ExchangeError) -> None:
        """The request body cannot be read to its end: malformed, or not sent in time."""
        self.guard(partial(self.fail, fault))

    def client_gone(self, code: str = "client_gone") -> None:
        """The client left, or does not read any more."""
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
        """The client has taken what waited for it."""
        if (source := self.attempt or self.tunnel or self.local) is not None:
            self.guard(source.unhold)

    # ---- the attempt's side

    def attempt_begins_response(self, attempt: Attempt, head: ResponseHead) -> None:
        """No other attempt will be made: what one would need is let go."""
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
        if self.route is not None and (head.has_location or self.route.resilience is not None):
            self.annotate_head(head, attempt)

    def reads_error(self, classification: Classification) -> bool:
        """Whether the body of an error response may decide what follows."""
        return self.retry_loop is not None and self.retry_loop.reads_error(classification)

    def attempt_completed(self, attempt: Attempt) -> None:
        """The last byte was written."""
        if self.phase == "over":  # writing has found the client gone
            return
        if not self.client_detached:
            self.record.phase, self.record.ended_by = "transfer", "upstream"
        self._end()
        self.writer.close()

    def attempt_failed(self, attempt: Attempt, result: AttemptResult) -> None:
        """The client has seen nothing of it."""
        if self.phase == "over":
            return
        if self.client_detached or self.on_attempt_failed is None:
            self.fail(result.fault)
            return
        self.guard(partial(self.on_attempt_failed, self, result))

    def attempt_broke(self, attempt: Attempt, fault: ExchangeError, failure: Failure | None) -> None:
        """The client has a part of it."""
        self.guard(partial(self.fail, fault, failure))

    # ---- a tunnel's side (proxy/upgrade.py, proxy/websocket_session.py)

    def switch(self, head: bytes) -> None:
        """The Upgrade was agreed to: the client is told, and the two sides become a tunnel."""
        self.enter("tunnel")
        self.record.phase = "tunnel"
        if self.lease is not None:
            self.lease.answered()
        self.writer.switch(head)
        if self.phase != "over":
            self.down.start_tunnel()

    def write_tunnel(self, data: bytes) -> bool:
        """Bytes from the endpoint for the client; False when the client is behind."""
        return self.writer.raw(data)

    def plain_answer(self, response: ResponseHead, body: bytes) -> bool:
        """The Upgrade was not agreed to: it stays HTTP. The head first, then pieces of the body."""
        if not self.writer.started:
            self.enter("transfer")
            self.writer.head(response)
        return self.writer.body(body) if body else self.writer.flush()

    def complete(self, ended_by: str = "upstream") -> None:
        """The end of a tunnel, of the answer to a refused Upgrade, or of an application's response."""
        if self.phase == "over":
            return
        tunnel = self.phase == "tunnel"
        self.record.phase, self.record.ended_by = self.phase, ended_by
        if not tunnel:
            self.writer.end()
        self._cancel_work("")
        self._end()
        self.writer.close()

    # ---- responses of relayd's own, and endings

    def respond(self, answer: Answer) -> None:
        """Send a whole response of relayd's own."""
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
        """End the exchange with an error: a response while that is possible, else an error in its dialect's stream, or
        a broken end. `failure` is the endpoint's own wording."""
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
        """Send an endpoint's error response, whole."""
        if self.head.method != b"HEAD":
            response.length = len(body)
        self._begin_delivery()
        self.annotate_head(response, None)
        self._write(Answer(response, body))

    def deliver_stream(self, data: bytes) -> None:
        """End a stream with these frames; they may be all of it."""
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
        if self.phase != "over":  # writing may find the client gone
            self._end()
            writer.close()

    def _end_incomplete(self, fault: ExchangeError, failure: Failure | None) -> None:
        """A response that has begun ends with an error in its dialect where there is one, and never looks complete."""
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
        """End what is under way at an endpoint or in relayd. `code` is why, if that says something of the endpoint."""
        if self.attempt is not None:
            self.attempt.cancel(code)
        if (other := self.tunnel or self.local) is not None:
            other.close()

    def _end(self) -> None:
        """Account once, give everything back. The writer is closed or aborted by the caller, right afterwards."""
        if self.phase == "over":
            return
        self.phase = "over"
        record, gateway = self.record, self.gateway
        gateway.exchanges.discard(self)
        if self.cancel_timer is not None:
            cancel, self.cancel_timer = self.cancel_timer, None
            cancel()
        try:
            self._complete_record(record)
        except Exception:  # rescue door: nothing that an account cannot say keeps what is held
            LOG.exception("account of exchange %s", record.id)
        self.body.release()
        self.attempt = self.tunnel = self.local = self.retry_loop = self.on_attempt_failed = self.ai_request = self.lease = None
        tickets, self.tickets = self.tickets, ()
        for gate, ticket in tickets:
            gate.release(ticket)
        record.total_s = clock.monotonic() - record.started
        gateway.account(record)

    def _complete_record(self, record: Record) -> None:
        ai_request, loop, attempt, lease = self.ai_request, self.retry_loop, self.attempt, self.lease
        if lease is not None:
            lease.release(lease.classify(record.code, record.status if self.writer.started else 0))
        if loop is not None:
            record_trail(record, loop.trail)
        if ai_request is not None:
            for filter_ in () if attempt is None else attempt.filters:
                filter_.account(record)
            record_ai_request(record, ai_request, None if loop is None else loop.target.model)

    # ---- fields of the response, and the sweep

    def annotate_head(self, head: ResponseHead, attempt: Attempt | None) -> None:
        """Which queue was met and which endpoints were tried, where the route tells; Location as the client sees it."""
        if head.has_location and self.route is not None and attempt is not None:
            relocate(head, self.head.path, self.route, attempt.target.upstream.spec, attempt.lease.endpoint)
        if self.queue_note:
            head.keep += [f"{name}: {value}\r\n".encode() for name, value in self.queue_fields()]
        route, loop = self.route, self.retry_loop
        resilience = None if route is None else route.resilience
        if resilience is not None and resilience.tells_attempts and loop is not None:
            trail = loop.trail if attempt is None else [*loop.trail, f"{attempt.lease.endpoint.label} {head.status}"]
            head.keep.append(f"X-Relayd-Attempts: {', '.join(trail)}\r\n".encode("latin-1", "replace"))

    def queue_fields(self) -> list[tuple[str, str]]:
        """A dictionary in the grammar of RFC 9651; empty for an exchange that met no queue or whose route is silent."""
        if not self.queue_note:
            return []
        waited_s = self.record.queue_s
        if self.waiting_since_s >= 0:
            waited_s += clock.monotonic() - self.waiting_since_s
        return [("X-Relayd-Queue", f"{self.queue_note}, waited={waited_s:.3f}")]

    def enforce_timeouts(self, now: float) -> None:
        """The sweep: end what waits longer than it may, and comfort a client that waits for a stream."""
        route, loop = self.route, self.retry_loop
        if route is None or self.phase == "over":
            return
        timeouts = self.effective_timeouts
        if self.tunnel is not None:
            self.tunnel.enforce_timeouts(now, timeouts)
        if loop is None or self.tunnel is not None:
            return
        if timeouts.total_s and now - self.record.started > timeouts.total_s:
            self.fail(ExchangeError("total_timeout", f"{timeouts.total_s:g} s"))
            return
        attempt = self.attempt
        per_attempt_s = loop.target.upstream.retries.spec.per_attempt_s
        if attempt is not None and (fault := attempt.expired(now, timeouts, per_attempt_s)) is not None:
            attempt.fail(fault)
            return
        self._keep_alive(loop, now)

    def _keep_alive(self, loop: RetryLoop, now_s: float) -> None:
        """A comment for a client whose stream has been silent for long."""
        ai_request, attempt, writer = self.ai_request, self.attempt, self.writer
        keepalive = None if ai_request is None else ai_request.keepalive
        if keepalive is None and attempt is not None and writer.committed:
            keepalive = attempt.keepalive
        if keepalive is None or self.client_detached or self.head.version != 11:
            return
        needs_translation = ai_request is not None and ai_request.needs_translation(loop.target)
        slot = None if attempt is None else attempt.slot
        if slot is not None and (slot.hold or not (needs_translation or slot.response is None or takes_comments(slot.response))):
            return
        if not keepalive.is_due(now_s):
            return
        comment = ai_request.renderer.keepalive() if ai_request is not None and needs_translation and ai_request.content_rendered else COMMENT
        if not writer.started:
            head = stream_head(None)
            head.keep += [f"{name}: {value}\r\n".encode() for name, value in self.queue_fields()]
            writer.head(head)
        writer.comment(comment)
