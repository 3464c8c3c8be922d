"""Telemetry as the rest of relayd sees it: one account per exchange, one journal, one set of metrics.

1. `account` is called once per exchange, by the exchange, and never raises.
2. The object lives as long as the process. A reload prepares new outputs (which may fail and changes nothing), then
   commits them with assignments that cannot fail, or discards them.
3. The daemon calls `flush` every 50 ms or so and `send` every `interval_s`; nothing here has a timer of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO

from relayd import clock, registry
from relayd.errors import ConfigError, Finding
from relayd.telemetry.access_log import AccessLog
from relayd.telemetry.journal import Journal
from relayd.telemetry.metrics import SAMPLES, Metrics
from relayd.telemetry.outcome import Record
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.sinks import prometheus

SINKS = "relayd.telemetry.sinks"
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sink(Protocol):
    """A destination that metrics are pushed to."""

    def prepare(self) -> bool: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """Outputs for new settings, opened but not yet in use. What is None stays as it is or is switched off."""

    settings: TelemetrySettings
    access_log: AccessLog | None
    sink: Sink | None
    warnings: tuple[tuple[str, str], ...]


class Telemetry:
    """What relayd tells. Owned by the daemon; `journal`, `metrics` and `account` are for everybody."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        """Parts only; `build` makes a working one."""
        self.journal = journal
        self.metrics = metrics
        self.settings: TelemetrySettings | None = None
        self._access_log = AccessLog("off")
        self._sink: Sink | None = None
        self._started = clock.monotonic()
        self._dropped = {"access": 0, "journal": 0}
        self._lag_max_s = 0.0
        self.look: Callable[[], None] = _nothing_more  # the daemon's gauges, read whenever metrics are asked for

    @classmethod
    def build(cls, settings: TelemetrySettings, stream: TextIO | None = None) -> Telemetry:
        """Telemetry in force from now on; `stream` is where the journal goes, standard error if None.

        Raises ConfigError when a file cannot be opened or a sink's library is missing.
        """
        made = cls(Journal(settings.log_format, settings.log_level, stream or sys.stderr), Metrics())
        made.commit(made.prepare(settings))
        return made

    def prepare(self, settings: TelemetrySettings) -> Prepared:
        """Open what new settings need; unchanged outputs are kept. Raises ConfigError and leaves nothing open."""
        now = self.settings
        access_log: AccessLog | None = None
        if now is None or access_part(settings) != access_part(now):
            try:
                access_log = AccessLog(
                    settings.access_format, settings.access_file, settings.access_query,
                    secret_query=settings.secret_query,
                )
            except OSError as error:
                raise refused("telemetry.access_log.file", f"cannot be opened: {error.strerror}") from error
        warnings: list[tuple[str, str]] = []
        sink: Sink | None = None
        changed = now is None or statsd_part(settings) != statsd_part(now)
        if settings.statsd_address is not None and changed:
            try:
                sink = self._make_sink(settings)
            except ConfigError:
                if access_log is not None:
                    access_log.close()
                raise
            if not sink.prepare():
                warnings.append(("statsd_not_found", "The address of statsd cannot be resolved; it is tried again."))
        return Prepared(settings, access_log, sink, tuple(warnings))

    def _make_sink(self, settings: TelemetrySettings) -> Sink:
        try:
            module = registry.load(SINKS, "statsd")
        except ImportError as error:
            raise refused("telemetry.statsd", "needs the Python package statsd (python3-statsd)") from error
        try:
            made: Sink = module.StatsdSink(
                settings.statsd_address, settings.statsd_prefix, settings.statsd_tags, self.metrics
            )
        except ValueError as error:
            raise refused("telemetry.statsd.address", str(error)) from error
        return made

    def commit(self, prepared: Prepared) -> None:
        """Use what was prepared; what it replaces is flushed and closed. Cannot fail."""
        settings = prepared.settings
        if prepared.access_log is not None:
            self._lines_lost()
            self._access_log.close()
            self._access_log = prepared.access_log
            self._dropped["access"] = 0
            self._access_log.listen(self._access_log_broke, self._access_log_recovered)
        if settings.statsd_address is None or prepared.sink is not None:
            if self._sink is not None:
                self._sink.close()
            self._sink = prepared.sink
        self.metrics.keep = SAMPLES if self._sink is not None else 0
        self.journal.configure(settings.log_format, settings.log_level)
        self.settings = settings
        for name, message in prepared.warnings:
            self.journal.warning(name, message)

    def discard(self, prepared: Prepared) -> None:
        """Close what was prepared and is not wanted after all."""
        if prepared.access_log is not None:
            prepared.access_log.close()
        if prepared.sink is not None:
            prepared.sink.close()

    def account(self, record: Record) -> None:
        """Count and write down one exchange that ended."""
        self.metrics.exchange(record)
        self._access_log.write(record)

    def set_generation(self, generation: int) -> None:
        """The generation that every line and the gauge carry from now on."""
        self.journal.generation = generation
        self.metrics.gauge("relayd.config.generation", generation)

    def lag(self, late_s: float) -> None:
        """The event loop ran a timer this late."""
        self.metrics.observe("relayd.loop.lag", late_s)
        self._lag_max_s = max(self._lag_max_s, late_s)

    def flush(self) -> None:
        """Write the access log's waiting lines."""
        self._access_log.flush()

    def send(self) -> None:
        """Read the process's own gauges and send a batch to the sink."""
        self._measure()
        self._lag_max_s = 0.0
        if self._sink is not None:
            self._sink.flush()

    def render(self) -> bytes | None:
        """The text of /metrics (see `sinks.prometheus.CONTENT_TYPE`), or None when it is switched off."""
        if self.settings is None or not self.settings.prometheus:
            return None
        self._measure()
        return prometheus.render(self.metrics, self.settings.prometheus_aliases)

    def _measure(self) -> None:
        self.look()
        self._lines_lost()
        gauge = self.metrics.gauge
        gauge("relayd.loop.lag_max", self._lag_max_s)
        gauge("relayd.daemon.uptime", round(clock.monotonic() - self._started, 3))
        try:
            with open("/proc/self/statm", "rb") as file:
                gauge("relayd.daemon.memory", int(file.read().split()[1]) * PAGE)
            gauge("relayd.daemon.descriptors", len(os.listdir("/proc/self/fd")) - 1)
        except OSError:  # out of descriptors, or a sandbox without /proc: the gauges stay as they were
            pass

    def _lines_lost(self) -> None:
        for log, now in (("access", self._access_log.dropped), ("journal", self.journal.dropped)):
            if now > self._dropped[log]:
                self.metrics.add("relayd.telemetry.lines_dropped", now - self._dropped[log], log=log)
            self._dropped[log] = now

    def _access_log_broke(self, why: str) -> None:
        name = "access_log_broke"
        self.journal.limited(name, 60, "warning", name, "Lines are being lost.", why=why)

    def _access_log_recovered(self, lost: int) -> None:
        name = "access_log_recovered"
        self.journal.limited(name, 60, "info", name, "Lines are written again.", lost=lost)

    def reopen(self) -> None:
        """Open log files again after a rotation; a failure is an event, and the old file stays in use."""
        try:
            self._access_log.reopen()
        except OSError as error:
            self.journal.warning("access_log_reopen_failed", "The old file stays in use.", why=error.strerror or "")

    def close(self) -> None:
        """Write and send what waits, and let go; the journal last."""
        self._measure()
        self._access_log.close()
        if self._sink is not None:
            self._sink.close()
            self._sink = None
        self.journal.close()


def _nothing_more() -> None:
    """Who makes telemetry without a daemon has no gauges of its own."""


def access_part(settings: TelemetrySettings) -> tuple[object, ...]:
    return settings.access_format, settings.access_file, settings.access_query, settings.secret_query


def statsd_part(settings: TelemetrySettings) -> tuple[object, ...]:
    return settings.statsd_address, settings.statsd_prefix, settings.statsd_tags


def refused(path: str, message: str) -> ConfigError:
    """A fault of the settings; the caller knows the file and the line."""
    return ConfigError([Finding("configuration", 0, 0, path, message)])
