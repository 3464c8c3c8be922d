"""The trace of an exchange: its id, what endpoints get of it, its attempts and its end. tests/functional/test_tracing.py
shows the spans that a collector gets."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.plan.plan import PlannedRoute, Target
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.request_context import context_of
from relayd.proxy.tracing import begin_trace, record_trace, trace_attempt, with_trace
from relayd.stores.memory import Store
from relayd.telemetry.outcome import Record
from relayd.telemetry.trace import UNSAMPLED, Sampler, Trace
from relayd.upstream.lease import Lease
from relayd.wire.response import parse_response
from tests.unit.proxy.fakes import head_for, plan_of

CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"traceparent: 00-{CALLER}-b7ad6b7169203331-01"


def begun(*lines: str, request_id: str = "1" * 32, ratio: float = 1.0, own_id: bool = True) -> tuple[Trace, Record]:
    record = Record()
    record.id = request_id
    begin_trace(record, head_for(*lines), Sampler(ratio), tls=False, own_id=own_id)
    assert record.trace is not None
    return record.trace, record


def test_the_caller_gives_the_id_the_parent_the_state_and_the_decision() -> None:
    trace, record = begun(PARENT, "tracestate: a=1", "tracestate: b=2", ratio=0.0)
    assert (trace.id, trace.parent_id, trace.state, trace.sampled) == (CALLER, "b7ad6b7169203331", "a=1,b=2", True)
    assert record.more == {"trace_id": CALLER}


def test_without_a_caller_the_request_id_is_the_trace_id_if_it_can_be() -> None:
    trace, record = begun(request_id="ab" * 16)
    assert trace.id == record.id and trace.parent_id == "" and record.more is None
    for other in ("mine-7", "0" * 32, "AB" * 16):
        trace, record = begun(request_id=other, own_id=False)
        assert trace.id != other and record.more == {"trace_id": trace.id}


@pytest.mark.parametrize("lines", [("traceparent: 00-bad",), (PARENT, PARENT), ("tracestate: a=1",)])
def test_a_state_without_a_valid_parent_is_dropped(lines: tuple[str, ...]) -> None:
    trace, _ = begun(*lines, "tracestate: a=1")
    assert trace.state == "" and trace.parent_id == "" and trace.id == "1" * 32


def test_a_span_id_is_new_for_every_exchange() -> None:
    assert begun(PARENT)[0].span_id != begun(PARENT)[0].span_id


# ---- the attempts

PLAN = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  web: {endpoints: ["http://origin.example:9001"]}
  ai: {protocol: openai_chat, endpoints: ["http://ai.example/v1"]}
routes:
  - {name: private, match: {prefix: /private}, upstream: web, request_headers: {remove: [traceparent]}}
  - {name: edited, match: {prefix: /edited}, upstream: web, request_headers: {remove: [cookie]}}
  - {name: all, upstream: web}
""")
PRIVATE, EDITED, ALL = PLAN.routes
SPAN = "00f067aa0ba902b7"


def sent(*lines: str, route: PlannedRoute = ALL, ratio: float = 1.0) -> list[bytes]:
    """The header fields of an attempt whose client has sent these, after `Accept` and the client's own fields."""
    _, record = begun(*lines, ratio=ratio)
    fields = [b"Accept: */*", *[line.encode() for line in lines]]
    return with_trace(fields, record, SPAN, head_for(*lines), route)


@pytest.mark.parametrize("route", [EDITED, ALL], ids=lambda route: route.name)
def test_the_endpoint_is_a_child_of_the_attempt_and_gets_one_context(route: PlannedRoute) -> None:
    assert sent(PARENT, "tracestate: a=1", "tracestate: b=2", route=route) == [
        b"Accept: */*", f"traceparent: 00-{CALLER}-{SPAN}-01".encode(), b"tracestate: a=1,b=2"]


def test_without_a_caller_the_endpoint_gets_the_context_of_relayd() -> None:
    new = "1" * 32
    assert sent() == [b"Accept: */*", f"traceparent: 00-{new}-{SPAN}-03".encode()]
    assert sent(ratio=0.0) == [b"Accept: */*", f"traceparent: 00-{new}-{new[16:]}-02".encode()]


@pytest.mark.parametrize("lines", [("traceparent: 00-bad", "tracestate: a=1"), ("tracestate: a=1",)])
def test_an_invalid_context_of_the_client_does_not_reach_the_endpoint(lines: tuple[str, ...]) -> None:
    assert sent(*lines) == [b"Accept: */*", f"traceparent: 00-{'1' * 32}-{SPAN}-03".encode()]


def test_a_context_that_the_caller_does_not_sample_passes_unchanged() -> None:
    lines = PARENT[:-2] + "00", "tracestate: a=1"
    assert sent(*lines) == [b"Accept: */*", *[line.encode() for line in lines]]


def test_a_route_that_removes_traceparent_sends_no_context() -> None:
    for lines, ratio in (((PARENT,), 1.0), ((), 0.0)):
        _, record = begun(*lines, ratio=ratio)
        assert with_trace([b"Accept: */*"], record, SPAN, head_for(*lines), PRIVATE) == [b"Accept: */*"]


def attempt(record: Record, upstream: str = "web", *, translated: bool = False, model: str | None = None) -> list[bytes]:
    group = PLAN.upstreams[upstream]
    target = Target(group, model, dialect=PLAN.dialects.get(group.spec.protocol))
    lease = Lease(group, group.endpoints[0], None, 0)
    return trace_attempt(record, [], head_for(), ALL, target, lease, translated=translated)


def test_each_attempt_has_a_span_of_its_own_which_its_endpoint_gets() -> None:
    trace, record = begun()
    before_s = clock.monotonic()
    fields = attempt(record) + attempt(record)
    one, other = trace.attempts
    assert fields == [f"traceparent: 00-{trace.id}-{each.span_id}-03".encode() for each in (one, other)]
    assert len({trace.span_id, one.span_id, other.span_id}) == 3
    assert (one.upstream, one.endpoint, one.provider, one.model) == ("web", "origin.example:9001", "", "")
    assert before_s <= one.start_s <= other.start_s <= clock.monotonic()


def test_an_attempt_names_its_model_and_provider_and_the_begin_of_its_translation() -> None:
    trace, record = begun()
    trace.prepared_s = 7.0
    attempt(record, "ai", model="served-1")
    attempt(record, "ai", model="served-1", translated=True)
    assert [(one.upstream, one.provider, one.model, one.prepared_s) for one in trace.attempts] == [
        ("ai", "openai", "served-1", -1.0), ("ai", "openai", "served-1", 7.0)]


def test_an_attempt_that_is_not_sampled_has_no_span_but_a_context() -> None:
    trace, record = begun(ratio=0.0)
    (field,) = attempt(record)
    assert field.startswith(f"traceparent: 00-{record.id}-".encode()) and field.endswith(b"-02") and not trace.attempts


def test_exchanges_that_are_not_sampled_share_a_trace_that_keeps_nothing() -> None:
    trace, _ = begun(ratio=0.0)
    assert trace is begun(ratio=0.0)[0] is UNSAMPLED and not trace.sampled
    for lines, ratio, own_id in (((PARENT,), 0.0, True), (("tracestate: a=1",), 0.0, True), ((), 1.0, True), ((), 0.0, False)):
        assert begun(*lines, ratio=ratio, own_id=own_id)[0] is not UNSAMPLED


# ---- the end


def test_the_end_of_an_exchange_ends_the_last_attempt_with_its_status_or_error() -> None:
    trace, record = begun()
    attempt(record)
    attempt(record)
    record_trace(trace, record, parse_response(b"HTTP/1.1 204 No Content\r\n\r\n"), head_for(), None)
    first, last = trace.attempts
    assert (last.status, last.code) == (204, "") and last.start_s <= last.end_s <= clock.monotonic()
    assert first.end_s < 0 and not first.status
    trace, record = begun()
    attempt(record)
    record.code = "connect_failed"
    record_trace(trace, record, None, head_for(), None)
    assert (trace.attempts[0].status, trace.attempts[0].code) == (0, "connect_failed")
    assert trace.operation == ""


@pytest.mark.parametrize(("ratio", "operation"), [(1.0, "chat"), (0.0, "")])
@pytest.mark.parametrize("stream", [True, False])
def test_a_sampled_trace_has_the_operation_and_if_the_response_is_a_stream(ratio: float, operation: str, stream: bool) -> None:
    trace, record = begun(ratio=ratio)
    head = head_for(start="POST /v1/chat/completions HTTP/1.1")
    body = b'{"model": "m", "messages": [], "stream": %s}' % (b"true" if stream else b"false")
    request = AiRequest(CHAT, head, body, lambda: context_of(head, b"id-1", Store(10, 1000, 60.0).space("a"), b"", None))
    record_trace(trace, record, None, head, request)
    assert (trace.operation, trace.stream) == (operation, stream and bool(operation))
