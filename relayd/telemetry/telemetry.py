"""The interface of telemetry for the other packages: access log, journal, metrics and sinks.

1. Each exchange calls `account` exactly once; it never raises.
2. The object lives as long as the process. A reload prepares new outputs, which may fail without effect, and then
   commits them by assignments that cannot fail, or discards them.
3. The daemon calls `flush` about every 50 ms and `send` every `interval_s`; telemetry has no timers.
4. Sinks are plug-ins (sink.py): this module refers to none of them by name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TextIO

from relayd import clock, registry
from relayd.dataclass import dataclass
from relayd.errors import ConfigError, Finding, OptionError
from relayd.telemetry.access_log import AccessLog
from relayd.telemetry.journal import Journal
from relayd.telemetry.metrics import SAMPLES, Metrics
from relayd.telemetry.outcome import Record
from relayd.telemetry.outlet import Outlet
from relayd.telemetry.recent import Recent
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.sink import SINKS, RecordSink, Sink, declared
from relayd.telemetry.trace import Tracing
from relayd.wire.json_steps import Steps

INTERVAL_S = 1.0  # if no sink has an interval
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Outputs for new settings, opened but not yet in use. `access_log` is None if it does not change; `sinks` has new
    sinks and sinks with changed options."""

    settings: TelemetrySettings
    access_log: AccessLog | None
    sinks: dict[str, Sink]
    warnings: tuple[tuple[str, str], ...]


class Telemetry:
    """All telemetry of a process. Owned by the daemon; `journal`, `metrics` and `account` are used by all packages."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        """Use `build` to create a working instance."""
        self.journal = journal
        self.metrics = metrics
        self.recent = Recent()
        self.settings: TelemetrySettings | None = None
        self._access_log = AccessLog("off")
        self._sinks: dict[str, Sink] = {}
        self._sent_s: dict[str, float] = {}
        self._flushing: set[str] = set()  # sinks whose flush has not ended
        self._record_sinks: tuple[RecordSink, ...] = ()
        self._closing: tuple[RecordSink, ...] = ()  # sinks of the previous configuration, until they are idle
        self.tracing = Tracing()
        self.outlet: Outlet | None = None  # set by the daemon before the first sink is prepared
        self._started = clock.monotonic()
        self._dropped = {"access": 0, "journal": 0}
        self._lag_max_s = 0.0
        # Set by the daemon: updates its gauges before metrics are read.
        self.refresh_gauges: Callable[[], None] = _no_further_gauges
        # Set while somebody follows the records; never raises and never blocks.
        self.on_record: Callable[[Record], None] | None = None

    @classmethod
    def build(cls, settings: TelemetrySettings, stream: TextIO | None = None) -> Telemetry:
        """Create telemetry that is in use immediately; the journal writes to `stream`, to standard error if None.

        Raises ConfigError if a file cannot be opened or the library of a sink is missing.
        """
        made = cls(Journal(settings.log_format, settings.log_level, stream or sys.stderr), Metrics(declared()))
        made.commit(made.prepare(settings))
        return made

    def prepare(self, settings: TelemetrySettings) -> Prepared:
        """Open the outputs of new settings; unchanged outputs are reused. On ConfigError nothing stays open."""
        now = self.settings
        access_log: AccessLog | None = None
        if now is None or access_part(settings) != access_part(now):
            try:
                access_log = AccessLog(
                    settings.access_format, settings.access_file, settings.access_query,
                    secret_query=settings.secret_query,
                )
            except OSError as error:
                raise config_error("telemetry.access_log.file", f"cannot be opened: {error.strerror}") from error
        warnings: list[tuple[str, str]] = []
        sinks: dict[str, Sink] = {}
        try:
            for kind, options in settings.sinks.items():
                if now is None or options != now.sinks.get(kind):
                    sinks[kind] = self._make_sink(kind, options)
        except ConfigError:
            close_all(access_log, sinks.values())
            raise
        for sink in sinks.values():
            if (warning := sink.prepare()) is not None:
                warnings.append(warning)
        return Prepared(settings, access_log, sinks, tuple(warnings))

    def _make_sink(self, kind: str, options: object) -> Sink:
        try:
            made: Sink = registry.load(SINKS, kind).Sink(options, self.metrics)
        except ImportError as error:
            raise config_error(f"telemetry.{kind}", f"needs the Python package {error.name}") from error
        except OptionError as error:
            raise config_error(f"telemetry.{kind}.{error.key}", error.message) from error
        if isinstance(made, RecordSink) and self.outlet is not None:
            made.connect(self.outlet)
        return made

    def commit(self, prepared: Prepared) -> None:
        """Use prepared outputs; the replaced outputs are flushed and closed. Cannot fail."""
        settings = prepared.settings
        if prepared.access_log is not None:
            self._count_lost_lines()
            self._access_log.close()
            self._access_log = prepared.access_log
            self._dropped["access"] = 0
            self._access_log.listen(self._on_access_log_fault, self._on_access_log_recovery)
        for kind in [kind for kind in self._sinks if kind not in settings.sinks or kind in prepared.sinks]:
            self._sinks.pop(kind).close()
        self._sinks.update(prepared.sinks)
        before, self._record_sinks = self._record_sinks, record_sinks(self._sinks.values())
        closed = (one for one in (*self._closing, *before) if one not in self._record_sinks)
        self._closing = tuple(one for one in closed if not one.is_idle)
        self.tracing.sampler = next((one.sampler for one in self._record_sinks if one.sampler is not None), None)
        self.metrics.keep = SAMPLES if any(sink.takes_samples for sink in self._sinks.values()) else 0
        self.journal.configure(settings.log_format, settings.log_level)
        self.settings = settings
        for name, message in prepared.warnings:
            self.journal.warning(name, message)

    def discard(self, prepared: Prepared) -> None:
        """Close prepared outputs without using them."""
        close_all(prepared.access_log, prepared.sinks.values())

    def account(self, record: Record) -> None:
        """Count and log one finished exchange."""
        self.metrics.count_exchange(record)
        self._access_log.write(record)
        self.recent.add(record)
        for sink in self._record_sinks:
            sink.record(record)
        if self.on_record is not None:
            self.on_record(record)

    def finish(self) -> None:
        """Send everything now that sinks have queued, and do not try again; `is_idle` becomes true afterwards."""
        for sink in self._record_sinks:
            sink.finish()

    @property
    def is_idle(self) -> bool:
        """True if no sink has anything to send."""
        return all(sink.is_idle for sink in (*self._record_sinks, *self._closing))

    def set_generation(self, generation: int) -> None:
        """Set the generation for log lines and the gauge."""
        self.journal.generation = generation
        self.metrics.gauge("relayd.config.generation", generation)

    def lag(self, late_s: float) -> None:
        """Record the delay with which the event loop ran a timer."""
        self.metrics.observe("relayd.loop.lag", late_s)
        self._lag_max_s = max(self._lag_max_s, late_s)

    def flush(self) -> None:
        """Write the buffered lines of the access log."""
        self._access_log.flush()

    @property
    def interval_s(self) -> float:
        """The interval of `send` calls."""
        return min((sink.interval_s for sink in self._sinks.values() if sink.interval_s), default=INTERVAL_S)

    def send(self) -> None:
        """Update the gauges of the process and flush every sink that is due."""
        self._read_gauges()
        self._lag_max_s = 0.0
        now_s = clock.monotonic()
        tolerance_s = self.interval_s / 2
        for kind, sink in self._sinks.items():
            if sink.interval_s and now_s - self._sent_s.get(kind, -sink.interval_s) >= sink.interval_s - tolerance_s:
                if kind in self._flushing:
                    continue  # the values are sent by the next flush
                self._sent_s[kind] = now_s
                if (steps := sink.flush()) is not None:
                    self._flushing.add(kind)
                    self._go_on(kind, steps)

    def _go_on(self, kind: str, steps: Steps[None]) -> None:
        """Run a step of a flush, and the further ones in later turns of the loop."""
        for _ in steps:
            if self.outlet is not None:
                self.outlet.defer(partial(self._go_on, kind, steps))
                return
        self._flushing.discard(kind)

    def page(self, accept: str = "") -> tuple[str, Steps[bytes]] | None:
        """Content type of /metrics for a client's Accept field, and the steps that render it; None if no sink provides
        it."""
        self._read_gauges()
        for sink in self._sinks.values():
            if (page := sink.page(accept)) is not None:
                return page
        return None

    def _read_gauges(self) -> None:
        self.refresh_gauges()
        self._count_lost_lines()
        gauge = self.metrics.gauge
        gauge("relayd.loop.lag_max", self._lag_max_s)
        gauge("relayd.daemon.uptime", round(clock.monotonic() - self._started, 3))
        try:
            with open("/proc/self/statm", "rb") as file:
                gauge("relayd.daemon.memory", int(file.read().split()[1]) * PAGE)
            gauge("relayd.daemon.descriptors", len(os.listdir("/proc/self/fd")) - 1)
        except OSError:  # out of descriptors, or a sandbox without /proc: the gauges keep their values
            pass

    def _count_lost_lines(self) -> None:
        for log, now in (("access", self._access_log.dropped), ("journal", self.journal.dropped)):
            if now > self._dropped[log]:
                self.metrics.add("relayd.telemetry.lines_dropped", now - self._dropped[log], log=log)
            self._dropped[log] = now

    def _on_access_log_fault(self, why: str) -> None:
        name = "access_log_broke"
        self.journal.limited(name, 60, "warning", name, "Lines are being lost.", why=why)

    def _on_access_log_recovery(self, lost: int) -> None:
        name = "access_log_recovered"
        self.journal.limited(name, 60, "info", name, "Lines are written again.", lost=lost)

    def reopen(self) -> str:
        """Reopen log files after a rotation. Returns "" or a logged error; after an error the old file stays in use."""
        try:
            self._access_log.reopen()
        except OSError as error:
            why = error.strerror or str(error)
            self.journal.warning("access_log_reopen_failed", "The old file stays in use.", why=why)
            return f"the access log cannot be opened, the old file stays in use: {why}"
        return ""

    def close(self) -> None:
        """Write and send buffered data, and close all outputs, the journal last."""
        self._read_gauges()
        close_all(self._access_log, self._sinks.values())
        self._sinks = {}
        self.journal.close()


def _no_further_gauges() -> None:
    """The default: no gauges of a daemon."""


def access_part(settings: TelemetrySettings) -> tuple[object, ...]:
    return settings.access_format, settings.access_file, settings.access_query, settings.secret_query


def close_all(access_log: AccessLog | None, sinks: Iterable[Sink]) -> None:
    if access_log is not None:
        access_log.close()
    for sink in sinks:
        sink.close()


def record_sinks(sinks: Iterable[Sink]) -> tuple[RecordSink, ...]:
    """The sinks that take records."""
    return tuple(sink for sink in sinks if isinstance(sink, RecordSink))


def config_error(path: str, message: str) -> ConfigError:
    """An error of the settings; the caller adds file and line."""
    return ConfigError([Finding("configuration", 0, 0, path, message)])
