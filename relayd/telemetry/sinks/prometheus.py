"""Metrics at /metrics of the admin application, for a Prometheus scraper.

The format is Prometheus' text format 0.0.4, or OpenMetrics 1.0 for a client that prefers it (Accept), as Prometheus
does. OpenMetrics has exemplars: the trace ids of requests as examples in the histograms of relayd.proxy.total and
relayd.proxy.first_byte, if traces are sent (`otlp`); Prometheus keeps them with `--enable-feature=exemplar-storage`.
Timers are histograms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import ClassVar

from relayd.schema import section, setting
from relayd.schema.scalars import meant, shown
from relayd.telemetry.metrics import Exemplar, Histogram, Metrics
from relayd.telemetry.names import BUCKETS_S, Metric
from relayd.telemetry.sink import declared
from relayd.wire.json_steps import Steps

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text"
OPEN_METRICS_TYPE = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"
RANGES = {"*/*": 0.0, "text/*": 1.0, "text/plain": 2.0}  # that include the text format, by how specific they are
LINES = 256  # rendered in one step
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def exposed_name(metric: Metric) -> str:
    """relayd.proxy.bytes_in becomes relayd_proxy_bytes_in_total, relayd.loop.lag relayd_loop_lag_seconds."""
    name = metric.name.replace(".", "_")
    if metric.unit and not (metric.unit == "bytes" and "_bytes_" in name):
        name = f"{name}_{metric.unit}"
    return f"{name}_total" if metric.kind == "counter" else name


def labelled(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The label part of a sample in braces; empty without labels."""
    inside = ",".join(f'{name}="{value.translate(ESCAPES)}"' for name, value in zip(names, values, strict=True))
    return f"{{{inside}}}" if inside else ""


def number(value: float) -> str:
    """The value of a sample; integers without a fraction."""
    return str(int(value)) if value == int(value) else repr(float(value))


@section()
class Options:
    """Metrics at /metrics of the admin application."""

    default_on: ClassVar[bool] = True

    enabled: bool = setting(default=True, doc="Serve /metrics.")
    aliases: Mapping[str, str] = setting(
        factory=dict, example={"assistant_requests_total": "relayd_proxy_requests_total"},
        doc="Additional names for metrics, for dashboards that expect them.",
    )

    def check(self) -> Iterable[tuple[str, str]]:
        known = {exposed_name(metric) for metric in declared()} if self.aliases else set()
        for alias, name in self.aliases.items():
            if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", alias) or alias in known:
                yield f"aliases.{alias}", "is not a valid new metric name"
            elif name not in known:
                near = meant(name, known)
                details = f"there is no metric {shown(name)}"
                yield f"aliases.{alias}", f"{details}; {near}" if near else f"{details}; relayd-metrics(7) lists them"


class Sink:
    """Exposes the metrics of the process. Owned by telemetry."""

    metrics: ClassVar[tuple[Metric, ...]] = ()
    takes_samples: ClassVar[bool] = False
    interval_s = 0.0

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics

    @staticmethod
    def name_of(metric: Metric) -> str:
        """The exposed name."""
        return exposed_name(metric)

    def prepare(self) -> tuple[str, str] | None:
        """Opens nothing."""
        return None

    def flush(self) -> None:
        """Does nothing: the scraper pulls."""

    def page(self, accept: str = "") -> tuple[str, Steps[bytes]] | None:
        """The text of /metrics; None if disabled."""
        if not self._options.enabled:
            return None
        is_open = prefers_open_metrics(accept)
        steps = render_steps(self._metrics, self._options.aliases.items(), open_metrics=is_open)
        return OPEN_METRICS_TYPE if is_open else CONTENT_TYPE, steps

    def close(self) -> None:
        """Closes nothing."""


def prefers_open_metrics(accept: str) -> bool:
    """True if an Accept field (RFC 9110 12.5.1) prefers OpenMetrics 1.0 to the text format."""
    open_quality, text_quality = 0.0, (-1.0, 0.0)  # of the text format: how specific the range is, and its quality
    for entry in accept.split(","):
        media, *parts = (part.strip().lower() for part in entry.split(";"))
        parameters = dict(part.partition("=")[::2] for part in parts)
        try:
            quality = min(1.0, max(0.0, float(parameters.get("q", "1"))))
        except ValueError:
            continue
        if media == OPEN_METRICS and parameters.get("version", "1.0.0") == "1.0.0":
            open_quality = max(open_quality, quality)
        elif media in RANGES and RANGES[media] >= text_quality[0]:
            text_quality = RANGES[media], quality
    return open_quality > 0.0 and open_quality >= text_quality[1]


def render_steps(
    metrics: Metrics, aliases: Iterable[tuple[str, str]] = (), *, open_metrics: bool = False
) -> Steps[bytes]:
    """The current values of all metrics; a metric without samples has only its HELP and TYPE lines. The values of one
    series are of one time.

    `aliases` are pairs of an additional name and the exposed name of a metric, which is repeated under it.
    """
    pieces: list[bytes] = []
    lines: list[str] = []
    exposed = {exposed_name(metric): metric for metric in metrics.declared}
    more = [(alias, exposed[name]) for alias, name in aliases if name in exposed]
    for name, metric in [*exposed.items(), *more]:
        lines.extend(heading(name, metric, open_metrics=open_metrics))
        for sample in samples(metric, name, metrics, open_metrics=open_metrics):
            lines += sample
            if len(lines) >= LINES:
                pieces.append(("\n".join(lines) + "\n").encode())
                lines.clear()
                yield
    if open_metrics:
        lines.append("# EOF")
    pieces.append(("\n".join(lines) + "\n").encode())
    yield
    return b"".join(pieces)


def samples(metric: Metric, name: str, metrics: Metrics, *, open_metrics: bool) -> Iterator[list[str]]:
    """The lines of each series of a metric."""
    if metric.kind == "timer":
        yield from histograms(metric, name, metrics, open_metrics=open_metrics)
    else:
        for key, value in metrics.counters(metric) if metric.kind == "counter" else metrics.gauges(metric):
            yield [f"{name}{labelled(metric.labels, key)} {number(value)}"]


def heading(name: str, metric: Metric, *, open_metrics: bool) -> Iterator[str]:
    """The lines before the samples of one metric. In OpenMetrics a counter is named without `_total`, which its samples
    have; an alias without it has no type. A unit is named only if it is the end of the name."""
    kind: str = "histogram" if metric.kind == "timer" else metric.kind
    doc = metric.doc.replace("\\", "\\\\")
    if open_metrics:
        doc = doc.replace('"', '\\"')
        if kind == "counter":
            kind = "counter" if name.endswith("_total") else "unknown"
            name = name.removesuffix("_total")
    yield f"# HELP {name} {doc}"
    yield f"# TYPE {name} {kind}"
    if open_metrics and metric.unit and name.endswith(f"_{metric.unit}"):
        yield f"# UNIT {name} {metric.unit}"


def histograms(metric: Metric, name: str, metrics: Metrics, *, open_metrics: bool) -> Iterator[list[str]]:
    """The samples of each series of a timer: cumulative buckets, sum and count. OpenMetrics writes bounds as 1.0, and
    has an exemplar after the value of a bucket."""
    bounds = [*((repr(bound) if open_metrics else number(bound)) for bound in BUCKETS_S), "+Inf"]
    for key, parts in metrics.timers(metric):
        counts = accumulate(sum(column) for column in zip(*(part.buckets for part in parts), strict=True))
        examples = last_exemplars(parts) if open_metrics else {}
        plain = labelled(metric.labels, key)
        opening = f"{name}_bucket{plain[:-1]}," if plain else f"{name}_bucket{{"
        lines = []
        for index, (bound, count) in enumerate(zip(bounds, counts, strict=True)):
            example = ""
            if (found := examples.get(index)) is not None:
                trace_id, span_s, wall_s = found
                example = f' # {{trace_id="{trace_id}"}} {number(span_s)} {wall_s:.3f}'
            lines.append(f'{opening}le="{bound}"}} {count}{example}')
        lines.append(f"{name}_sum{plain} {number(sum(part.sum_s for part in parts))}")
        lines.append(f"{name}_count{plain} {sum(part.count for part in parts)}")
        yield lines


def last_exemplars(parts: Iterable[Histogram]) -> dict[int, Exemplar]:
    """The last exemplar of each bucket of the histograms that are added up."""
    found: dict[int, Exemplar] = {}
    for part in parts:
        for index, exemplar in (part.exemplars or {}).items():
            if index not in found or found[index][2] < exemplar[2]:
                found[index] = exemplar
    return found
