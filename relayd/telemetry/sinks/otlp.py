"""Traces, and on request metrics and logs, sent to an OpenTelemetry collector by OTLP over HTTP, in JSON.

A trace has one span for each exchange, with the spans of its queue times, translations and attempts as children. The
names are those of OpenTelemetry's semantic conventions for HTTP and GenAI, the names of relayd itself begin with
`relayd.`. Prompts and responses are never sent.

The caller's `traceparent` and `tracestate` (W3C Trace Context) are continued, and sent to endpoints with the span of
the attempt as parent. Without a caller the trace id is the request id (X-Request-ID) if relayd made it; otherwise the
access log has the trace id as `trace_id`. Sampling follows the caller's decision; without a caller, `sample` is the
share of trace ids. A route that removes `traceparent` from its requests passes no context on.

Sending never delays an exchange. At most 4096 exchanges, and 16 MiB of them, wait in memory; while the collector is
slow or gone, further ones are dropped and counted in `relayd.telemetry.otlp_dropped`. A batch is sent again after 429,
502, 503, 504 and connection failures for up to 5 minutes, as Retry-After says or with growing pauses. At a stop relayd
sends what it has for at most 3 seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from relayd import clock
from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, Secret, section, setting
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.names import Metric
from relayd.telemetry.outcome import Record
from relayd.telemetry.outlet import Outlet
from relayd.telemetry.sinks._otlp_delivery import Delivery, Target
from relayd.telemetry.sinks._otlp_json import (
    SCOPE,
    log_record_of,
    metric_of,
    nanoseconds,
    resource_of,
    size_of,
    spans_of,
)
from relayd.telemetry.trace import Sampler

FIELD_NAME = lazy_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
RESERVED = frozenset(("content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection"))


@section()
class Options:
    """Traces, metrics and logs sent to an OpenTelemetry collector."""

    endpoint: str = setting(
        doc="URL of the collector; /v1/traces, /v1/metrics and /v1/logs are appended.", example="http://127.0.0.1:4318",
        pattern=r"https?://[A-Za-z0-9.\-_\[\]:]+(/[A-Za-z0-9.\-_~/]*)?",
    )
    traces: bool = setting(default=True, doc="Send traces, and pass the trace context on.")
    metrics: bool = setting(default=False, doc="Send metrics.")
    logs: bool = setting(default=False, doc="Send the records of the access log, with their trace ids.")
    sample: float = setting(
        default=1.0, doc="Share of the traces that begin here, from 0 to 1.", minimum=0, maximum=1, example=0.1,
    )
    parent_based: bool = setting(
        default=True, doc="Follow the caller's sampling decision. With false, `sample` applies to the traces of callers"
        " too: for clients that are not trusted.",
    )
    headers: Mapping[str, Secret] = setting(
        factory=dict, doc="Header fields of requests to the collector, as for a key.",
        example={"Authorization": {"file": "/etc/relayd/keys/otlp"}},
    )
    service: str = setting(default="relayd", doc="Value of service.name.", pattern=r"[ -~]{1,200}")
    resource: Mapping[str, str] = setting(
        factory=dict, doc="Further attributes of the resource.", example={"deployment.environment.name": "production"},
    )
    interval: Duration = setting(default=Duration(1), doc="Interval between batches.", minimum=0.1, maximum=60)
    metrics_interval: Duration = setting(
        default=Duration(60), doc="Interval between sent metrics.", minimum=1, maximum=3600,
    )
    timeout: Duration = setting(
        default=Duration(10), doc="Time for one request to the collector.", minimum=0.1, maximum=60,
    )
    compression: Literal["none", "gzip"] = setting(default="none", doc="Compression of requests.")
    ca: str | None = setting(
        default=None, doc="PEM file of the authorities that sign the collector's certificate, instead of the system's.",
        example="/etc/relayd/tls/ca.pem",
    )

    def check(self) -> Iterable[tuple[str, str]]:
        try:
            parts = urlsplit(self.endpoint)
            valid = bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            yield "endpoint", "has no valid host and port"
        for name, value in self.headers.items():
            if FIELD_NAME.fullmatch(name) is None or name.lower() in RESERVED:
                yield f"headers.{name}", "is not the name of a header field that can be set here"
            elif not (value.reveal().isascii() and value.reveal().isprintable()):
                yield f"headers.{name}", "contains characters that a header field cannot have"
        if self.ca is not None and not self.ca.startswith("/"):
            yield "ca", "needs an absolute path"


class Sink:
    """Sends to one collector. Owned by telemetry; `flush` is called once per interval."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "relayd.telemetry.otlp_sent", "counter", "", ("signal",),
            "Exchanges (traces, logs) and metrics that the collector has accepted.",
        ),
        Metric(
            "relayd.telemetry.otlp_dropped", "counter", "", ("signal",),
            "Exchanges (traces, logs) and metrics that were lost: the queue was full, or the collector refused them.",
        ),
        Metric(
            "relayd.telemetry.otlp_failed", "counter", "", ("signal",),
            "Failed requests to the collector, including those that are sent again.",
        ),
    )
    takes_samples: ClassVar[bool] = False

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._metrics = metrics
        self.interval_s = float(options.interval)
        self.sampler = Sampler(options.sample, options.parent_based) if options.traces else None
        resource = resource_of(options.service, options.resource)
        fields: list[bytes] = []
        if options.compression == "gzip":
            fields.append(b"Content-Encoding: gzip")
        fields += [f"{name}: {value.reveal()}".encode("ascii") for name, value in options.headers.items()]

        def target(signal: str, many: str, scoped: str, items: str) -> Target:
            frame = f'{{"{many}":[{{{resource},"{scoped}":[{{"scope":{SCOPE},"{items}":[', "]}]}]}"
            url = f"{options.endpoint.rstrip('/')}/v1/{signal}"
            is_gzip = options.compression == "gzip"
            return Target(signal, url, options.ca, fields, frame, float(options.timeout), is_gzip)

        self._traces = self._logs = self._points = None
        if options.traces:
            where = target("traces", "resourceSpans", "scopeSpans", "spans")
            self._traces = Delivery[Record](where, spans_of, size_of, metrics)
        if options.logs:
            where = target("logs", "resourceLogs", "scopeLogs", "logRecords")
            self._logs = Delivery[Record](where, log_record_of, size_of, metrics)
        if options.metrics:
            where = target("metrics", "resourceMetrics", "scopeMetrics", "metrics")
            self._points = Delivery[Metric](where, self._encode_metric, lambda metric: 0, metrics)
        self._deliveries = [one for one in (self._traces, self._logs, self._points) if one is not None]
        self._metrics_interval_s = float(options.metrics_interval)
        self._next_metrics_s = 0.0

    @staticmethod
    def name_of(metric: Metric) -> str:
        """The metric's own name."""
        return ""

    def connect(self, outlet: Outlet) -> None:
        """Set the tools for sending."""
        for delivery in self._deliveries:
            delivery.connect(outlet)

    def prepare(self) -> tuple[str, str] | None:
        """Opens nothing: a collector that is gone at the start is tried again."""
        return None

    def record(self, record: Record) -> None:
        """Queue a finished exchange."""
        if self._traces is not None and record.trace is not None and record.trace.sampled:
            self._traces.add(record)
        if self._logs is not None:
            self._logs.add(record)

    def flush(self) -> None:
        """Begin to send the queued items. Never raises, never blocks."""
        if self._points is not None and self._points.is_idle and clock.monotonic() >= self._next_metrics_s:
            self._next_metrics_s = clock.monotonic() + self._metrics_interval_s
            self._add_metrics(self._points)
        for delivery in self._deliveries:
            delivery.flush()

    def _add_metrics(self, points: Delivery[Metric]) -> None:
        for metric in self._metrics.declared:
            points.add(metric)

    def _encode_metric(self, metric: Metric) -> Iterator[str]:
        return metric_of(metric, self._metrics, nanoseconds(self._metrics.started_wall), nanoseconds(clock.wall()))

    @property
    def is_idle(self) -> bool:
        """True if nothing is queued or under way."""
        return all(delivery.is_idle for delivery in self._deliveries)

    def finish(self) -> None:
        """Send everything now, and do not try again."""
        if self._points is not None and self._points.is_idle:
            self._add_metrics(self._points)
        for delivery in self._deliveries:
            delivery.finish()

    def page(self, accept: str = "") -> None:
        """No page: this sink pushes."""
        return None

    def close(self) -> None:
        """Send the rest; after a reload this continues in later turns of the loop."""
        for delivery in self._deliveries:
            delivery.finish()
