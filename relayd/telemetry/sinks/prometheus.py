"""Metrics at /metrics of the admin application, for a Prometheus scraper.

The format is Prometheus' text format 0.0.4. Timers are histograms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import ClassVar

from relayd.schema import section, setting
from relayd.schema.scalars import meant, shown
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.names import BUCKETS_S, Metric
from relayd.telemetry.sink import declared

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def exposed_name(metric: Metric) -> str:
    """relayd.proxy.bytes_in becomes relayd_proxy_bytes_in_total, relayd.loop.lag relayd_loop_lag_seconds."""
    name = metric.name.replace(".", "_")
    if metric.unit and not (metric.unit == "bytes" and "_bytes_" in name):
        name = f"{name}_{metric.unit}"
    return f"{name}_total" if metric.kind == "counter" else name


def labelled(names: tuple[str, ...], values: tuple[str, ...], *further: tuple[str, str]) -> str:
    """The label part of a sample in braces; empty without labels."""
    pairs = [*zip(names, values, strict=True), *further]
    inside = ",".join(f'{name}="{value.translate(ESCAPES)}"' for name, value in pairs)
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

    def page(self) -> tuple[str, bytes] | None:
        """The text of /metrics; None if disabled."""
        if not self._options.enabled:
            return None
        return CONTENT_TYPE, render(self._metrics, self._options.aliases.items())

    def close(self) -> None:
        """Closes nothing."""


def render(metrics: Metrics, aliases: Iterable[tuple[str, str]] = ()) -> bytes:
    """The current values of all metrics; a metric without samples has only its HELP and TYPE lines.

    `aliases` are pairs of an additional name and the exposed name of a metric, which is repeated under it.
    """
    lines: list[str] = []
    exposed = {exposed_name(metric): metric for metric in metrics.declared}
    more = [(alias, exposed[name]) for alias, name in aliases if name in exposed]
    for name, metric in [*exposed.items(), *more]:
        lines.append(f"# HELP {name} {metric.doc.replace(chr(92), chr(92) * 2)}")
        lines.append(f"# TYPE {name} {'histogram' if metric.kind == 'timer' else metric.kind}")
        if metric.kind == "timer":
            lines.extend(histogram(metric, name, metrics))
        else:
            series = metrics.counters(metric) if metric.kind == "counter" else metrics.gauges(metric)
            lines.extend(f"{name}{labelled(metric.labels, key)} {number(value)}" for key, value in series)
    return ("\n".join(lines) + "\n").encode()


def histogram(metric: Metric, name: str, metrics: Metrics) -> list[str]:
    """The samples of one timer: cumulative buckets, sum and count per series."""
    lines: list[str] = []
    bounds = [*(number(bound) for bound in BUCKETS_S), "+Inf"]
    for key, parts in metrics.timers(metric):
        counts = accumulate(sum(column) for column in zip(*(part.buckets for part in parts), strict=True))
        for bound, count in zip(bounds, counts, strict=True):
            lines.append(f"{name}_bucket{labelled(metric.labels, key, ('le', bound))} {count}")
        plain = labelled(metric.labels, key)
        lines.append(f"{name}_sum{plain} {number(sum(part.sum_s for part in parts))}")
        lines.append(f"{name}_count{plain} {sum(part.count for part in parts)}")
    return lines
