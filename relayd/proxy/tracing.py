"""The trace of an exchange: begun in the phase `accept`, passed on with every attempt, completed with the record.

1. Every function here is called only if the exchange has a trace, that is, if a sink takes traces.
2. The trace id is the caller's. Without a caller it is the request id if that has the form of a trace id, as those of
   relayd do; else it is new.
3. The endpoint is a child of the attempt's span. If the caller does not sample the trace, its context is passed on as
   it came, because no span of relayd exists. A route that removes `traceparent` from its requests sends no context.
"""

from __future__ import annotations

from relayd import clock
from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import PlannedRoute, Target
from relayd.proxy.account import more_of
from relayd.proxy.ai_request import AiRequest
from relayd.telemetry.outcome import Record
from relayd.telemetry.trace import UNSAMPLED, AttemptTimes, Sampler, Trace, new_span_id, new_trace_id
from relayd.upstream.lease import Lease
from relayd.wire.headers import without
from relayd.wire.http1 import RequestHead
from relayd.wire.response import ResponseHead
from relayd.wire.trace_context import FIELDS, parse_traceparent, parse_tracestate, render_traceparent

_TRACE_ID = lazy_regex("(?!0{32})[0-9a-f]{32}")


def begin_trace(record: Record, head: RequestHead, sampler: Sampler, *, tls: bool, own_id: bool) -> None:
    """Continue the caller's trace, or begin one, and decide if it is sampled. `own_id`: relayd made the request id."""
    if own_id and not sampler.takes(record.id) and head.get(b"traceparent") is None and head.get(b"tracestate") is None:
        record.trace = UNSAMPLED  # the usual case if few requests are sampled, which costs next to nothing
        return
    parent = state = None
    if head.get(b"traceparent") is not None:
        parent = parse_traceparent(head.get_all(b"traceparent"))
        state = parse_tracestate(head.get_all(b"tracestate")) if parent is not None else None
    if parent is not None:
        trace_id = parent.trace_id
    else:
        trace_id = record.id if _TRACE_ID.fullmatch(record.id) else new_trace_id()
    record.trace = Trace(trace_id, parent, state or "", sampler.samples(trace_id, parent), tls)
    if trace_id != record.id:
        more_of(record)["trace_id"] = trace_id


def trace_attempt(
    record: Record, fields: list[bytes], head: RequestHead, route: PlannedRoute, target: Target, lease: Lease,
    *, translated: bool,
) -> list[bytes]:
    """Begin the span of an attempt. Returns the header fields of its request with the trace context."""
    trace = record.trace
    if trace is UNSAMPLED or trace is None:
        return with_unsampled(fields, record, route)
    span_id = new_span_id()
    if trace.sampled:
        prepared_s = trace.prepared_s if translated else -1.0
        provider = "" if target.dialect is None else target.dialect.provider
        trace.add_attempt(AttemptTimes(
            span_id, target.upstream.name, lease.endpoint.label, provider, target.model or "", clock.monotonic(),
            prepared_s,
        ))  # fmt: skip
    return with_trace(fields, record, span_id, head, route)


def with_trace(
    fields: list[bytes], record: Record, span_id: str, head: RequestHead, route: PlannedRoute
) -> list[bytes]:
    """The header fields with the trace context in place of the client's. `span_id` is the parent of the endpoint's
    span, "" for that of the exchange."""
    trace = record.trace
    if trace is UNSAMPLED or trace is None:
        return with_unsampled(fields, record, route)
    if trace.passes_context or (route.request_edits is not None and b"traceparent" in route.request_edits.remove):
        return fields
    if head.get(b"traceparent") is not None or head.get(b"tracestate") is not None:
        fields = without(fields, FIELDS)
    fields.append(render_traceparent(trace.id, span_id or trace.span_id, trace.flags))
    if trace.state:
        fields.append(b"tracestate: " + trace.state.encode("ascii"))
    return fields


def with_unsampled(fields: list[bytes], record: Record, route: PlannedRoute) -> list[bytes]:
    """The header fields with the decision that the trace of this request is not sampled."""
    if route.request_edits is None or b"traceparent" not in route.request_edits.remove:
        trace_id = record.id
        fields.append(f"traceparent: 00-{trace_id}-{trace_id[16:]}-02".encode("ascii"))
    return fields


def record_trace(
    trace: Trace, record: Record, response: ResponseHead | None, head: RequestHead, ai_request: AiRequest | None
) -> None:
    """Complete the trace at the end of the exchange. `response` is that of the last attempt."""
    if trace.sampled:
        trace.end_attempt(clock.monotonic(), 0 if response is None else response.status, record.code)
        if ai_request is not None:
            trace.operation, trace.stream = ai_request.dialect.operation_of(head.path), ai_request.stream
