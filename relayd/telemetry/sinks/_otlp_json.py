"""Records and metrics in the JSON encoding of OTLP: spans, log records and data points.

The names are those of OpenTelemetry's semantic conventions for HTTP and for GenAI; relayd's own begin with `relayd.`.
An exchange is a SERVER span. Its children are the waits in queues, the translations, and one CLIENT span per attempt.
Token counts are on the attempt whose response the client got, so that they are counted once.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping

from relayd import __version__
from relayd.telemetry.metrics import Histogram, Labels, Metrics
from relayd.telemetry.names import BUCKETS_S, Metric
from relayd.telemetry.outcome import More, Record
from relayd.telemetry.trace import UNSAMPLED, AttemptTimes, Trace, new_span_id

INTERNAL, SERVER, CLIENT = 1, 2, 3
ERROR = 2
PARENT_KNOWN, PARENT_REMOTE = 0x100, 0x200  # of Span.flags
CUMULATIVE = 2
SEVERITIES = ((500, 17, "ERROR"), (400, 13, "WARN"), (0, 9, "INFO"))
MAX_TEXT = 1024
RECORD_BYTES, CHILD_BYTES = 2048, 512  # of a record and its trace, and of an attempt
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
VERSIONS = {10: "1.0", 11: "1.1", 20: "2"}

Value = str | int | float | bool | list[str]
Attributes = dict[str, Value]
to_json = json.JSONEncoder(separators=(",", ":")).encode


def text_of(text: str) -> str:
    """A text that every JSON parser accepts, of bounded length."""
    text = text[:MAX_TEXT]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def value_of(value: Value) -> dict[str, object]:
    """An AnyValue."""
    if isinstance(value, str):
        return {"stringValue": text_of(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"arrayValue": {"values": [value_of(one) for one in value]}}


def attributes_of(values: Mapping[str, Value]) -> list[dict[str, object]]:
    """A list of KeyValue; empty texts are left out."""
    return [{"key": key, "value": value_of(value)} for key, value in values.items() if value != ""]


def resource_of(service: str, more: Mapping[str, str]) -> str:
    """The Resource of this process, and the scope of all its data: members of JSON without braces."""
    host = socket.gethostname()
    values: Attributes = {
        "service.name": service, "service.version": __version__, "service.instance.id": f"{host}:{os.getpid()}",
        "host.name": host, "process.pid": os.getpid(), **more,
    }
    return f'"resource":{to_json({"attributes": attributes_of(values)})}'


SCOPE = to_json({"name": "relayd", "version": __version__})


def nanoseconds(wall_s: float) -> str:
    """A time since 1970 in nanoseconds; JSON has 64-bit integers as texts."""
    return str(int(wall_s * 1_000_000) * 1000)


# ---- spans


def spans_of(record: Record) -> Iterator[str]:
    """The spans of one exchange, as pieces of items of a JSON array."""
    trace = record.trace
    assert trace is not None
    offset_s = record.started_wall - record.started
    yield to_json(exchange_span(record, trace))
    for start_s, end_s in trace.waits:
        made = span("queue", INTERNAL, trace, new_span_id(), start_s + offset_s, end_s + offset_s, {})
        yield f",{to_json(made)}"
    for index, attempt in enumerate(trace.attempts):
        if 0 <= attempt.prepared_s <= attempt.start_s:
            start_s, end_s = attempt.prepared_s + offset_s, attempt.start_s + offset_s
            yield f",{to_json(span('translate', INTERNAL, trace, new_span_id(), start_s, end_s, {}))}"
        yield f",{to_json(attempt_span(record, trace, attempt, index, offset_s))}"


def size_of(record: Record) -> int:
    """The bytes that a queued record holds in memory, about: its own values, texts of clients, and its attempts."""
    trace = record.trace
    texts = len(record.path) + len(record.query) + len(record.host) + len(record.method) + len(record.detail)
    return RECORD_BYTES + texts + (0 if trace is None else len(trace.state) + CHILD_BYTES * len(trace.attempts))


def span(
    name: str, kind: int, trace: Trace, span_id: str, start_wall_s: float, end_wall_s: float,
    attributes: Mapping[str, Value], *, error: str = "",
) -> dict[str, object]:
    """A Span: a child of the exchange, or the exchange itself if `span_id` is its own. `error` is the description of a
    failure, empty for none."""
    is_exchange = span_id == trace.span_id
    made: dict[str, object] = {
        "traceId": trace.id, "spanId": span_id, "name": text_of(name), "kind": kind,
        "startTimeUnixNano": nanoseconds(start_wall_s), "endTimeUnixNano": nanoseconds(max(start_wall_s, end_wall_s)),
        "flags": trace.flags | PARENT_KNOWN | (PARENT_REMOTE if is_exchange and trace.parent_id else 0),
        "attributes": attributes_of(attributes),
    }
    if parent_id := trace.parent_id if is_exchange else trace.span_id:
        made["parentSpanId"] = parent_id
    if is_exchange and trace.state:
        made["traceState"] = trace.state
    if error:
        made["status"] = {"code": ERROR, "message": text_of(error)}
    return made


def exchange_span(record: Record, trace: Trace) -> dict[str, object]:
    """The SERVER span. A status below 500 is no error of the server, unless the response is incomplete."""
    attributes = {**http_of(record), "url.scheme": "https" if trace.tls else "http", **exchange_attributes(record)}
    error = ""
    if record.status >= 500 or (record.code and not record.complete):
        error = record.code or str(record.status)
        attributes["error.type"] = error
        error = f"{error}: {record.detail}" if record.detail else error
    method = str(attributes["http.request.method"])
    name = f"{'HTTP' if method == '_OTHER' else method} {record.route}".rstrip()
    end_wall_s = record.started_wall + max(0.0, record.total_s)
    return span(name, SERVER, trace, trace.span_id, record.started_wall, end_wall_s, attributes, error=error)


def http_of(record: Record) -> Attributes:
    """The attributes of the client's HTTP request and its response."""
    host, _, port = record.host.rpartition(":")
    if not host or not port.isdigit():
        host, port = record.host, ""
    attributes: Attributes = {
        "http.request.method": record.method if record.method in METHODS else "_OTHER",
        "url.path": record.path, "network.protocol.version": VERSIONS.get(record.version, ""),
        "server.address": host, "client.address": record.client, "network.peer.address": record.peer,
        "http.request.body.size": record.bytes_in, "http.response.body.size": record.bytes_out,
    }
    if record.status:
        attributes["http.response.status_code"] = record.status
    if port:
        attributes["server.port"] = int(port)
    return attributes


def exchange_attributes(record: Record) -> Attributes:
    """relayd's own attributes of an exchange."""
    attributes: Attributes = {
        "relayd.request.id": record.id, "relayd.listener": record.listener, "relayd.route": record.route,
        "relayd.consumer": record.consumer, "relayd.upstream": record.upstream, "relayd.outcome": record.outcome,
        "relayd.code": record.code, "relayd.attempts": record.attempts, "relayd.generation": record.generation,
    }
    if record.queue_s:
        attributes["relayd.queue.duration"] = round(record.queue_s, 6)
    if record.first_byte_s >= 0:
        attributes["relayd.first_byte.duration"] = round(record.first_byte_s, 6)
    if record.cost_nano is not None:
        attributes["relayd.cost.nano"] = record.cost_nano
        attributes["relayd.cost.currency"] = record.currency
    return attributes


def attempt_span(
    record: Record, trace: Trace, attempt: AttemptTimes, index: int, offset_s: float
) -> dict[str, object]:
    """The CLIENT span of one attempt; `index` attempts preceded it."""
    host, _, port = attempt.endpoint.rpartition(":")
    if not host or not port.isdigit():
        host, port = attempt.endpoint, ""
    attributes: Attributes = {
        "http.request.method": record.method if record.method in METHODS else "_OTHER", "server.address": host,
        "relayd.upstream": attempt.upstream,
    }
    if port:
        attributes["server.port"] = int(port)
    if attempt.status:
        attributes["http.response.status_code"] = attempt.status
    if index:
        attributes["http.request.resend_count"] = index
    if trace.operation:
        attributes |= gen_ai_of(record, trace, attempt, is_last=index + 1 == len(trace.attempts))
    error = str(attempt.status) if attempt.status >= 400 else attempt.code
    if error:
        attributes["error.type"] = error
        error = f"{error}: {record.detail}" if record.detail and attempt.code == record.code else error
    name = str(attributes["http.request.method"])
    if trace.operation:
        name = f"{trace.operation} {attributes.get('gen_ai.request.model', '')}".rstrip()
    elif name == "_OTHER":
        name = "HTTP"
    end_s = attempt.end_s if attempt.end_s >= 0 else attempt.start_s
    return span(
        name, CLIENT, trace, attempt.span_id, attempt.start_s + offset_s, end_s + offset_s, attributes, error=error
    )


def gen_ai_of(record: Record, trace: Trace, attempt: AttemptTimes, *, is_last: bool) -> Attributes:
    """The attributes of an inference or embedding; those of the response only for the last attempt."""
    more: More = record.more or {}
    model = attempt.model or str(more.get("model_there") or more.get("model") or "")
    attributes: Attributes = {
        "gen_ai.operation.name": trace.operation, "gen_ai.provider.name": attempt.provider,
        "gen_ai.request.model": model,
    }
    if trace.stream:
        attributes["gen_ai.request.stream"] = True
    if not is_last:
        return attributes
    attributes["gen_ai.response.model"] = str(more.get("model_served") or "")
    if finish := more.get("finish"):
        attributes["gen_ai.response.finish_reasons"] = [str(finish)]
    first_token_ms = more.get("first_token_ms")
    if isinstance(first_token_ms, float):
        waited_s = record.started + first_token_ms / 1000 - attempt.start_s
        attributes["gen_ai.response.time_to_first_chunk"] = round(max(0.0, waited_s), 6)
    if (usage := record.usage) is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.input
        attributes["gen_ai.usage.output_tokens"] = usage.output
        for name, count in (
            ("cache_read.input_tokens", usage.cached_read), ("cache_creation.input_tokens", usage.cache_creation),
            ("reasoning.output_tokens", usage.reasoning),
        ):
            if count:
                attributes[f"gen_ai.usage.{name}"] = count
    return attributes


# ---- logs


def log_record_of(record: Record) -> Iterator[str]:
    """The record of an exchange as a LogRecord."""
    number, severity = next((number, name) for status, number, name in SEVERITIES if record.status >= status)
    time = nanoseconds(record.started_wall + max(0.0, record.total_s))
    attributes = {**http_of(record), **exchange_attributes(record), "relayd.detail": record.detail}
    attributes["relayd.duration"] = round(max(0.0, record.total_s), 6)
    made: dict[str, object] = {
        "timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": number, "severityText": severity,
        "eventName": "relayd.request_completed", "body": {"stringValue": "request_completed"},
        "attributes": attributes_of(attributes),
    }
    if (trace := record.trace) is not None:
        trace_id, span_id = (record.id, record.id[16:]) if trace is UNSAMPLED else (trace.id, trace.span_id)
        made |= {"traceId": trace_id, "spanId": span_id, "flags": trace.flags}
    yield to_json(made)


# ---- metrics


def metric_of(metric: Metric, metrics: Metrics, start: str, now: str) -> Iterator[str]:
    """The current values of one metric in pieces, of a data point each; none without any. `start` and `now` are times
    in nanoseconds."""
    unit = {"seconds": "s", "bytes": "By"}.get(metric.unit, metric.unit)
    head = {"name": metric.name, "description": metric.doc, **({"unit": unit} if unit else {})}
    times = {"startTimeUnixNano": start, "timeUnixNano": now}
    if metric.kind == "timer":
        points, kind = histogram_points(metric, metrics, times), "histogram"
        more: dict[str, object] = {"aggregationTemporality": CUMULATIVE}
    elif metric.kind == "counter":
        points, kind = (number_point(metric, key, value, times) for key, value in metrics.counters(metric)), "sum"
        more = {"aggregationTemporality": CUMULATIVE, "isMonotonic": True}
    else:
        times = {"timeUnixNano": now}
        points, kind = (number_point(metric, key, value, times) for key, value in metrics.gauges(metric)), "gauge"
        more = {}
    before = f'{to_json(head)[:-1]},"{kind}":{{"dataPoints":['
    for point in points:
        yield before + to_json(point)
        before = ","
    if before == ",":
        yield "]" + "".join(f",{to_json({name: value})[1:-1]}" for name, value in more.items()) + "}}"


def number_point(metric: Metric, key: Labels, value: float, times: Mapping[str, str]) -> dict[str, object]:
    """A data point of a counter or gauge."""
    whole = value == int(value)
    number = {"asInt": str(int(value))} if whole else {"asDouble": value}
    return {**times, **number, "attributes": attributes_of(dict(zip(metric.labels, key, strict=True)))}


def histogram_points(metric: Metric, metrics: Metrics, times: Mapping[str, str]) -> Iterator[dict[str, object]]:
    """The data points of a timer."""
    for key, parts in metrics.timers(metric):
        counts = [sum(column) for column in zip(*(part.buckets for part in parts), strict=True)]
        yield {
            **times, "count": str(sum(part.count for part in parts)), "sum": total_s(parts),
            "bucketCounts": [str(count) for count in counts], "explicitBounds": list(BUCKETS_S),
            "attributes": attributes_of(dict(zip(metric.labels, key, strict=True))),
        }


def total_s(parts: list[Histogram]) -> float:
    return sum(part.sum_s for part in parts)
