"""`telemetry:` what relayd tells, and where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from relayd.config.address import fault_of, parse_udp
from relayd.schema import Duration, section, setting
from relayd.schema.scalars import meant, shown
from relayd.telemetry.sinks.prometheus import EXPOSED


@section()
class AccessLog:
    """One record per exchange."""

    format: Literal["auto", "text", "json", "journal", "off"] = setting(default="auto", doc="text, json (lines), journal (native fields) or off; auto is text on a terminal, journal under systemd, json elsewhere.")
    file: str | None = setting(default=None, doc="File instead of standard output; opened again on SIGHUP.", example="/var/log/relayd/access.log")
    query: bool = setting(default=False, doc="Write the query string too, with the values of keys masked.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.file is not None and not self.file.startswith("/"):
            yield "file", "needs an absolute path"
        if self.file is not None and self.format == "journal":
            yield "file", "cannot be combined with format: journal"


@section()
class Log:
    """relayd's own messages, on standard error or in the journal."""

    level: Literal["debug", "info", "warning", "error"] = setting(default="info", doc="The least important message that is written.")
    format: Literal["auto", "text", "json", "journal"] = setting(default="auto", doc="As in access_log.")


@section()
class Statsd:
    """Metrics sent to a statsd daemon over UDP; batched, never waiting."""

    address: str = setting(doc="host:port.", example="127.0.0.1:8125")
    prefix: str = setting(default="relayd", doc="First part of every name.", pattern=r"[A-Za-z0-9_.\-]*")
    interval: Duration = setting(default=Duration(1), doc="How often a batch is sent.", minimum=0.1, maximum=60)
    tags: bool = setting(default=False, doc="Send labels as DogStatsD tags instead of name parts.")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := fault_of(parse_udp, self.address):
            yield "address", fault


def unknown_metric(name: str) -> str:
    near = meant(name, EXPOSED)
    return f"there is no metric {shown(name)}" + (f"; {near}" if near else "; relayd-metrics(7) lists them")


@section()
class Prometheus:
    """Metrics shown at /metrics of the admin application."""

    enabled: bool = setting(default=True, doc="Whether /metrics answers.")
    aliases: Mapping[str, str] = setting(factory=dict, doc="Further names under which metrics are shown, for dashboards that expect them.", example={"assistant_requests_total": "relayd_proxy_requests_total"})

    def check(self) -> Iterable[tuple[str, str]]:
        for alias, name in self.aliases.items():
            if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", alias) or alias in EXPOSED:
                yield f"aliases.{alias}", "is no new name for a metric"
            elif name not in EXPOSED:
                yield f"aliases.{alias}", unknown_metric(name)


@section()
class Telemetry:
    """Logs and metrics."""

    access_log: AccessLog = setting(factory=AccessLog, doc="One record per exchange.")
    log: Log = setting(factory=Log, doc="relayd's own messages.")
    statsd: Statsd | None = setting(default=None, doc="Metrics to a statsd daemon.")
    prometheus: Prometheus = setting(factory=Prometheus, doc="Metrics for Prometheus.")
