"""The steps to an endpoint: permits for the current target, the attempt, and the handling of a failed attempt.

    enter_target -> permits -> attempt -> complete
                                       -> failed -> attempt (after a back-off) | enter_target (fallback) | last error

Each step takes only the exchange, so that a gate, a timer or the end of an attempt can resume it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.ticket import WAITING, Ticket, retry_after
from relayd.limits.ticket import Refused as NoPermit
from relayd.plan.plan import merged_timeouts
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused, render_rest
from relayd.proxy.ai_request import failure_answer, refused_answer
from relayd.proxy.attempt import Attempt
from relayd.proxy.exchange import Exchange
from relayd.proxy.message import message_for
from relayd.proxy.queue_time import record_wait
from relayd.proxy.reserve import reserve_upstream
from relayd.proxy.retry_loop import RESENDS, AttemptResult, Deliver, Retry, RetryLoop
from relayd.proxy.tracing import trace_attempt
from relayd.upstream.classify import Blame
from relayd.upstream.upstream import Upstream


def begin(exchange: Exchange) -> None:
    """Enter the first target of the retry loop. Raises ExchangeError."""
    route, loop, identity = exchange.route, exchange.retry_loop, exchange.identity
    assert route is not None and loop is not None
    if identity is not None:
        exchange.gates = identity.gates
    if route.resilience is not None and route.resilience.gate is not None:
        exchange.gates = (*exchange.gates, route.resilience.gate)
    enter_target(exchange, loop)


def enter_target(exchange: Exchange, loop: RetryLoop) -> None:
    """Enter the current target of the retry loop. Raises ExchangeError."""
    route, target = exchange.route, loop.target
    assert route is not None
    upstream = target.upstream
    exchange.record.upstream = upstream.name
    if upstream is not route.upstream:
        exchange.timeouts = merged_timeouts(route.config.timeouts, upstream.spec.timeouts)
    if exchange.ai_request is not None and exchange.ai_request.stream:
        exchange.ai_request.apply_keepalive(target, route.resilience)
    if (target.limit_set is not None or exchange.charge is not None) and not has_room(exchange, loop):
        return
    if target.gate is not None:
        exchange.gates = (*exchange.gates, target.gate)
    if not exchange.gates or acquire_permits(exchange):
        start_attempt(exchange)


def has_room(exchange: Exchange, loop: RetryLoop) -> bool:
    """Reserve at the rates and budgets of the target's upstream. Returns False if the exchange waits, or was refused
    and handled: as at a full gate, it falls back. Raises ExchangeError."""
    try:
        return reserve_upstream(exchange, loop.target, partial(enter_target, loop=loop))
    except ExchangeError as refused:
        if isinstance(loop.no_permit(refused.kind.code, at_upstream=True), Deliver):
            raise
        fall_back(exchange, loop)
        return False


# ---- permits


def acquire_permits(exchange: Exchange) -> bool:
    """Acquire a permit at each remaining gate. Returns False if the exchange waits, or was refused and handled."""
    loop, route = exchange.retry_loop, exchange.route
    assert loop is not None and route is not None
    flow_key = exchange.consumer or exchange.record.client
    while exchange.gates:
        gate = exchange.gates[0]
        at_target = gate is loop.target.gate
        has_capacity = loop.target.upstream.has_capacity if at_target else None
        ticket = gate.try_acquire(flow_key, has_capacity)
        if ticket is None:
            exchange.enter("admit")
            try:
                ticket = gate.acquire(
                    flow_key, priority_of(exchange), deadline_s(exchange),
                    partial(on_permit_granted, exchange), partial(on_permit_refused, exchange), has_capacity,
                )
            except NoPermit as fault:
                if route.config.tells_queue:
                    exchange.queue_note = f"depth={gate.depth}"
                handle_no_permit(exchange, fault.reason, fault.retry_after_s)
                return False
        exchange.gates = exchange.gates[1:]
        exchange.tickets = (*exchange.tickets, (gate, ticket))
        if ticket.state == WAITING:
            exchange.waiting_since_s = clock.monotonic()
            exchange.enter("queue")
            if route.config.tells_queue:
                exchange.queue_note = f"place={gate.position(ticket)}, depth={gate.depth}"
            return False
    return True


def priority_of(exchange: Exchange) -> int:
    """The priority of the exchange in queues."""
    return 0 if exchange.identity is None else exchange.identity.priority


def deadline_s(exchange: Exchange) -> float | None:
    """The clock time of the exchange's total timeout, None without one."""
    total_s = exchange.effective_timeouts.total_s
    return exchange.record.started + total_s if total_s else None


def on_permit_granted(exchange: Exchange, ticket: Ticket) -> None:
    """A queued exchange has got its permit."""
    record_wait(exchange)
    continue_with(exchange, continue_after_permit)


def continue_after_permit(exchange: Exchange) -> None:
    """Acquire the remaining permits, then start the attempt. Raises ExchangeError."""
    if acquire_permits(exchange):
        start_attempt(exchange)


def on_permit_refused(exchange: Exchange, ticket: Ticket, reason: str, retry_after_s: float) -> None:
    """A queued exchange timed out, or was evicted for a request of higher priority."""
    record_wait(exchange)
    continue_with(exchange, lambda exchange: handle_no_permit(exchange, reason, retry_after_s))


def continue_with(exchange: Exchange, phase: Callable[[Exchange], None]) -> None:
    """Run a step from a callback. An exception becomes the response, as in the pipeline."""
    exchange.guard(partial(phase, exchange))


def handle_no_permit(exchange: Exchange, reason: str, retry_after_s: float) -> None:
    """Handle a gate's refusal: fall back if it was the upstream's gate. Otherwise a consumer's limit is answered with
    429, a shared limit with 503 (RFC 6585 4, RFC 9110 15.6.4). Raises ExchangeError."""
    loop = exchange.retry_loop
    assert loop is not None
    at_upstream = loop.target.gate is not None and len(exchange.gates) < 2
    if not isinstance(loop.no_permit(reason, at_upstream), Deliver):
        fall_back(exchange, loop)
        return
    code = "queue_timeout" if reason == "queue_timeout" else "queue_full" if at_upstream else "too_many_requests"
    raise ExchangeError(code, reason, (("Retry-After", retry_after(retry_after_s)), *exchange.queue_fields()))


def fall_back(exchange: Exchange, loop: RetryLoop) -> None:
    """Enter the next target; the permit of the previous one is released. Raises ExchangeError."""
    own = () if exchange.identity is None else exchange.identity.gates
    gates = {id(gate) for gate in (*own, route_gate(exchange))}
    for entry in [entry for entry in exchange.tickets if id(entry[0]) not in gates]:
        exchange.tickets = tuple(one for one in exchange.tickets if one is not entry)
        entry[0].release(entry[1])
    exchange.gates = ()
    enter_target(exchange, loop)


def route_gate(exchange: Exchange) -> object:
    """The route's own gate."""
    route = exchange.route
    return None if route is None or route.resilience is None else route.resilience.gate


# ---- the attempt


def start_attempt(exchange: Exchange) -> None:
    """Prepare the request, in several turns of the event loop if it is large, then send it. Raises ExchangeError."""
    loop, ai_request = exchange.retry_loop, exchange.ai_request
    assert loop is not None
    exchange.phase = "attempt"
    if (trace := exchange.record.trace) is not None and trace.sampled:
        trace.prepared_s = clock.monotonic()
    steps = None if ai_request is None else ai_request.preparation_steps(loop.target)
    if ai_request is None or steps is None or exchange.work(
        steps, partial(send, exchange), deferred=ai_request.is_slow_to_inspect
    ):
        send(exchange)


def send(exchange: Exchange) -> None:
    """Choose an endpoint of the current target and send the request. Raises ExchangeError."""
    loop, route, head = exchange.retry_loop, exchange.route, exchange.head
    assert loop is not None and route is not None
    exchange.cancel_timer = None
    target = loop.target
    preferred = preferred_endpoint(exchange, target.upstream)
    lease = exchange.lease = target.upstream.acquire(loop.affinity, loop.tried, preferred)  # until an attempt owns it
    if lease is None:
        if target.upstream.waits_for_endpoint() and target.gate is not None:
            wait_for_endpoint(exchange, target.gate)
        else:
            no_endpoint(exchange, loop)
        return
    try:
        message = message_for(exchange, route, target, lease, exchange.ai_request, exchange.body.data)
    except (ExchangeError, Refused) as fault:
        exchange.lease = None
        lease.release(None)
        if isinstance(fault, ExchangeError):
            raise
        exchange.respond(refused_answer(route, fault, exchange.request_id.decode("latin-1")))
        return
    body, ai_request, record = exchange.body, exchange.ai_request, exchange.record
    may_retry = loop.attempt_started(lease.endpoint) and body.whole
    record.attempts += 1
    record.endpoint = lease.endpoint.label
    wire_target, fields, payload, canonical = message
    if record.trace is not None:
        fields = trace_attempt(record, fields, head, route, target, lease, translated=canonical is not None)
    if head.upgrade is not None and route.upgrade and not (head.chunked or head.length):
        # With a body it stays plain HTTP: a tunnel has no framing, so the body would be read as the next request.
        if exchange.gateway.observer is not None:
            exchange.gateway.observer.note_tunnel(exchange, lease, wire_target, fields)
        exchange.tunnel = exchange.gateway.tunnel(exchange, lease, wire_target, fields)
        return
    if body.memory is not None:
        body.recount(None, payload)
    length: int | None = None
    if payload is not None:
        length = len(payload)
    elif body.present:
        length = -1 if head.length is None else head.length
        form = None if ai_request is None else ai_request.form_transform(target)
        if form is not None:
            body.transform = form
            if length >= 0:
                length += form.grows_bytes
    exchange.on_attempt_failed = handle_failed_attempt
    attempt = exchange.attempt = Attempt(
        exchange, target, lease, exchange.writer, body, ai_request, canonical, may_retry,
        route.pass_client_key, route.keepalive_s if ai_request is None or ai_request.keepalive is None else 0.0,
    )
    exchange.lease = None
    observer = exchange.gateway.observer
    start = attempt.start if observer is None else partial(observer.start_attempt, exchange, attempt)
    start(head.method, wire_target, fields, payload, length, new_connection=loop.resends == RESENDS)


def preferred_endpoint(exchange: Exchange, upstream: Upstream) -> str | None:
    """The endpoint that the session of the client has at this upstream, None without one."""
    session, spec = exchange.client_session, upstream.spec
    return session.endpoints.get(spec.name) if session is not None and spec.session_affinity else None


def wait_for_endpoint(exchange: Exchange, gate: Gate) -> None:
    """The upstream has lost all its endpoints since the exchange got its permit: wait in the queue for the next one.
    Raises ExchangeError."""
    for entry in [entry for entry in exchange.tickets if entry[0] is gate]:
        exchange.tickets = tuple(one for one in exchange.tickets if one is not entry)
        gate.release(entry[1])
    exchange.gates = (gate,)
    continue_after_permit(exchange)


def no_endpoint(exchange: Exchange, loop: RetryLoop) -> None:
    """Handle a target without an available endpoint. Raises ExchangeError."""
    upstream = loop.target.upstream
    decision = loop.no_endpoint()
    if not isinstance(decision, Deliver):
        fall_back(exchange, loop)
    elif decision.result is not None:
        deliver_last_error(exchange, loop, decision.result)
    else:
        why, after_s = upstream.unavailable()
        raise ExchangeError("no_endpoint", why, (("Retry-After", retry_after(after_s)),))


# ---- after a failed attempt


def handle_failed_attempt(exchange: Exchange, result: AttemptResult) -> None:
    """Retry, fall back, or deliver the last error. Raises ExchangeError."""
    loop = exchange.retry_loop
    assert loop is not None
    now_s = clock.monotonic()
    deadline = deadline_s(exchange)
    remaining_s = None if deadline is None else deadline - now_s
    ai_request = exchange.ai_request
    adapted = ai_request is not None and result.replayable and ai_request.adapt_to_failure(loop.target, result.failure)
    decision = loop.decide(result, exchange.head.method, remaining_s, now_s, adapted)
    if isinstance(decision, Retry):
        if decision.after_s <= 0:
            start_attempt(exchange)
        else:
            exchange.cancel_timer = exchange.call_later(decision.after_s, partial(start_attempt, exchange))
    elif isinstance(decision, Deliver):
        deliver_last_error(exchange, loop, result)
    else:
        fall_back(exchange, loop)


def deliver_last_error(exchange: Exchange, loop: RetryLoop, result: AttemptResult) -> None:
    """Deliver the last attempt's failure as the response, in the client's dialect if the route has one."""
    ai_request, record, route = exchange.ai_request, exchange.record, exchange.route
    fault, response, failure = result.fault, result.response, result.failure
    assert route is not None
    if ai_request is None:
        if response is not None:
            exchange.deliver(response, result.body)  # no dialect: the endpoint's own response
        else:
            exchange.fail(fault)
        return
    if ai_request.is_socket and ai_request.needs_translation(loop.target):
        # The renderer reports it, because it also forgets the response that this one should have continued.
        record.code, record.detail = fault.kind.code, fault.detail
        reported = failure or Failure(fault.kind.status, fault.kind.message, fault.kind.code)
        exchange.deliver_stream(ai_request.renderer.render([reported]) + render_rest(ai_request.renderer))
        return
    if failure is None:
        exchange.fail(fault)
        return
    if response is None:
        record.code, record.detail = fault.kind.code, fault.detail
    elif result.classification.blame is Blame.KEY and result.classification.status in (401, 403):
        record.code, failure = "upstream_key_refused", key_refused(response.status)
    elif not result.translated and response.media.is_json and result.body and not exchange.writer.started:
        exchange.deliver(response, result.body)  # the same dialect: the endpoint's body unchanged
        return
    if exchange.writer.started:
        exchange.fail(fault, failure)
        return
    error = failure_answer(route, failure, exchange.request_id.decode("latin-1"))
    exchange.deliver(error.response, error.body)


def key_refused(status: int) -> Failure:
    """The error for a refused upstream key of relayd, which is not the client's fault."""
    return Failure(
        502, f"The upstream refused the gateway's own key (status {status}); tell its operator.",
        code="upstream_key_refused", type="upstream_error",
    )
