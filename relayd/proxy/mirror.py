"""Mirroring: a copy of a request is sent to another upstream, and its response is discarded.

1. Only requests with a whole body are copied. A copy is never queued or retried. No copy is sent while the mirror's
   upstream is at its limits, or if there is no memory for the body.
2. A copy never affects the original exchange: neither its errors, nor its delays, nor its response.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.request_buffers import FREE_BYTES
from relayd.limits.ticket import Ticket
from relayd.plan.plan import Target
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.attempt import Attempt
from relayd.proxy.exchange import Exchange
from relayd.proxy.message import message_for
from relayd.proxy.ports import GatewayPort
from relayd.proxy.request_body import RequestBody
from relayd.proxy.response_writer import NullWriter
from relayd.proxy.retry_loop import AttemptResult
from relayd.proxy.steps import Work
from relayd.proxy.tracing import with_trace
from relayd.upstream.classify import Classification
from relayd.upstream.spec import Timeouts
from relayd.wire.response import ResponseHead

LOG = logging.getLogger("relayd.mirror")
CHECK_S = 1.0


def send_copies(exchange: Exchange) -> None:
    """Send a copy to the route's mirror, for the configured share of requests. Never raises."""
    route = exchange.route
    resilience = None if route is None else route.resilience
    if resilience is None or resilience.mirror is None:
        return
    loop, body = exchange.retry_loop, exchange.body
    if loop is None or not body.whole:
        return
    if resilience.mirror.upstream is not loop.target.upstream and random.random() < resilience.mirror_share:
        target, ai_request, body_bytes = resilience.mirror, exchange.ai_request, body.data
        send = partial(send_copy, exchange, target, ai_request, body_bytes)
        guard(exchange.record.id, partial(_prepare, exchange, target, ai_request, send))


def guard(request_id: str, step: Callable[[], None], release: Callable[[], None] | None = None) -> None:
    """Run a step of the copy of a request: an exception is logged and ends this copy only. `release` ends the copy."""
    try:
        step()
    except Exception:  # rescue door: a fault of a copy does not affect the exchange it was copied from
        LOG.exception("copy of exchange %s", request_id)
        if release is not None:
            release()


def _prepare(exchange: Exchange, target: Target, ai_request: AiRequest | None, send: Callable[[], None]) -> None:
    """Translate the request, in later turns of the event loop if it is large, and call `send`."""
    steps = None if ai_request is None else ai_request.preparation_steps(target)
    gateway, request_id = exchange.gateway, exchange.record.id

    def call_later(delay_s: float, step: Callable[[], None]) -> Callable[[], None]:
        return gateway.call_later(delay_s, partial(guard, request_id, step))

    if steps is None or Work(steps, call_later, send).turn():
        send()


def send_copy(exchange: Exchange, target: Target, ai_request: AiRequest | None, body: bytes | None) -> None:
    """Send one copy; the exchange may be over already."""
    gate, ticket = target.gate, None
    if gate is not None:
        ticket = gate.try_acquire("mirror")
        if ticket is None:
            return
    mirror = Mirror(exchange, target, gate, ticket)
    try:
        start_copy(exchange, mirror, target, ai_request, body)
    except (Refused, ExchangeError):
        mirror.end()
    except BaseException:  # rescue door: release the copy's resources, and raise again
        mirror.end()
        raise


def start_copy(
    exchange: Exchange, mirror: Mirror, target: Target, ai_request: AiRequest | None, body: bytes | None
) -> None:
    """Send the copy if there is capacity for it. Raises ExchangeError, Refused."""
    lease, route, buffers = target.upstream.acquire(), exchange.route, exchange.gateway.buffers
    if lease is None:
        mirror.end()
        return
    copy = RequestBody(exchange.down, buffers, body, exchange.body.present)
    attempt = mirror.attempt = Attempt(mirror, target, lease, NullWriter(), copy)
    if lease.endpoint.pool is None or route is None:
        mirror.end()
        return
    wire_target, fields, payload, _ = message_for(exchange, route, target, lease, ai_request, body)
    if exchange.record.trace is not None:
        fields = with_trace(fields, exchange.record, "", exchange.head, route)
    length = None if payload is None else len(payload)
    if length is not None and length > FREE_BYTES:
        if not buffers.has_capacity(length):
            mirror.end()
            return
        mirror.release_memory = buffers.retain(length)
    attempt.start(exchange.head.method, wire_target, fields, payload, length)
    mirror.schedule_check()


class Mirror:
    """The owner of one copy's attempt; kept alive by its timer until the attempt ends."""

    __slots__ = (
        "_cancel_timer", "_gate", "_gateway", "_is_over", "_request_id", "_ticket", "_timeouts", "attempt",
        "release_memory",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, target: Target, gate: Gate | None, ticket: Ticket | None) -> None:
        self.attempt: Attempt | None = None
        self._gateway: GatewayPort = exchange.gateway
        self._timeouts: Timeouts = target.upstream.spec.timeouts
        self._gate, self._ticket, self._request_id = gate, ticket, exchange.record.id
        self._cancel_timer: Callable[[], None] | None = None
        self.release_memory: Callable[[], None] | None = None
        self._is_over = False

    def schedule_check(self) -> None:
        """Start the timer that checks the timeouts: a copy is not part of the sweep."""
        if self._is_over:  # it ended during its start
            return
        self._cancel_timer = self._gateway.call_later(CHECK_S, partial(guard, self._request_id, self._check, self.end))

    def _check(self) -> None:
        now_s, total_s = clock.monotonic(), self._timeouts.total_s
        attempt = self.attempt
        if attempt is None or attempt.slot is None:  # the attempt has ended
            self.end()
            return
        fault = attempt.expired(now_s, self._timeouts, 0.0)
        if fault is None and total_s and now_s - attempt.started_s > total_s:
            fault = ExchangeError("total_timeout")
        if fault is not None:
            attempt.fail(fault)
        else:
            self.schedule_check()

    def relocate(self, head: ResponseHead, attempt: Attempt) -> None:
        """The response is discarded."""

    def attempt_begins_response(self, attempt: Attempt, head: ResponseHead) -> None:
        """The response is discarded."""

    def reads_error(self, classification: Classification) -> bool:
        """Error bodies are not read."""
        return False

    def attempt_completed(self, attempt: Attempt) -> None:
        """The copy is complete."""
        self.end()

    def attempt_failed(self, attempt: Attempt, result: AttemptResult) -> None:
        """A copy is not retried."""
        self.end()

    def attempt_broke(self, attempt: Attempt, fault: ExchangeError, failure: Failure | None) -> None:
        """A copy is not retried."""
        self.end()

    def fail(self, fault: ExchangeError) -> None:
        """A copy that was sent is never refused memory."""

    def end(self) -> None:
        """Release all resources."""
        if self._is_over:
            return
        self._is_over = True
        attempt, self.attempt = self.attempt, None  # break the reference cycle
        if self._cancel_timer is not None:
            cancel, self._cancel_timer = self._cancel_timer, None
            cancel()
        if self.release_memory is not None:
            self.release_memory()
        if self._gate is not None and self._ticket is not None:
            self._gate.release(self._ticket)
        if attempt is not None:
            attempt.cancel()
