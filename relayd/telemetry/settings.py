"""What telemetry is told by the configuration, as plain values: this room knows no other part of relayd.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """`telemetry:` of relayd.yaml. Formats are text, json, journal or auto; the access log also knows off.

    `access_file` None is standard output. `secret_query` are configured names of query parameters that carry keys, in
    lower case with `_` for `-`; the customary ones are always masked. `statsd_address` None means that no
    metrics are sent. `prometheus_aliases` are pairs of a further name and the exposed name of a metric.
    """

    access_format: str = "auto"
    access_file: str | None = None
    access_query: bool = False
    secret_query: frozenset[str] = frozenset()
    log_format: str = "auto"
    log_level: str = "info"
    statsd_address: str | None = None
    statsd_prefix: str = "relayd"
    statsd_interval_s: float = 1.0
    statsd_tags: bool = False
    prometheus: bool = True
    prometheus_aliases: tuple[tuple[str, str], ...] = ()
