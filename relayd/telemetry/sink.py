"""The interface of sinks: a sink is a module of sinks/ with a docstring (its manual entry), `Options` (its YAML keys)
and a class `Sink`.

A push sink has an interval, a pull sink has a page. No other module refers to a sink by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from relayd import registry
from relayd.telemetry.names import METRICS, Metric
from relayd.telemetry.outcome import Record
from relayd.telemetry.outlet import Outlet
from relayd.telemetry.trace import Sampler
from relayd.wire.json_steps import Steps

SINKS = "relayd.telemetry.sinks"


class Sink(Protocol):
    """Constructed with its Options and the metrics. The constructor opens nothing; it raises OptionError for an
    unusable value.

    `metrics` are the metrics of this sink itself. `takes_samples` is true if the sink sends individual durations.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    takes_samples: ClassVar[bool]

    @property
    def interval_s(self) -> float:
        """The interval of `flush` calls; 0 for a pull sink."""

    @staticmethod
    def name_of(metric: Metric) -> str:
        """The name that this sink uses for a metric; empty if it is the metric's own name."""

    def prepare(self) -> tuple[str, str] | None:
        """Open resources. Returns an event and a message for the log if a step will be retried later, else None."""

    def flush(self) -> Steps[None] | None:
        """Send changed values: at once, or in the returned steps. Never raises, never blocks."""

    def page(self, accept: str = "") -> tuple[str, Steps[bytes]] | None:
        """Content type of /metrics for a client's Accept field, and the steps that render it; None for a sink without
        a page."""

    def close(self) -> None:
        """Send the last batch and close."""


@runtime_checkable
class RecordSink(Protocol):
    """A Sink that also takes the records of exchanges, and sends them by requests of relayd's HTTP client."""

    @property
    def sampler(self) -> Sampler | None:
        """The decision which exchanges are traced; None if the sink takes no traces."""

    def connect(self, outlet: Outlet) -> None:
        """Set the tools for sending. Called once, before `prepare`."""

    def record(self, record: Record) -> None:
        """Queue a finished exchange. Never raises, never blocks, and returns quickly."""

    def finish(self) -> None:
        """Send everything now, and do not try again."""

    @property
    def is_idle(self) -> bool:
        """True if nothing is queued or under way."""


def declared() -> tuple[Metric, ...]:
    """All metrics: relayd's own and those of the sinks."""
    found = list(METRICS)
    for kind in registry.kinds(SINKS):
        try:
            found += registry.load(SINKS, kind).Sink.metrics
        except ImportError:  # its library is not installed, so it cannot be configured
            continue
    return tuple(found)


def default_sinks() -> Mapping[str, object]:
    """The sinks that are enabled by default, with their Options."""
    found: dict[str, object] = {}
    for kind in registry.kinds(SINKS):
        try:
            options = registry.load(SINKS, kind).Options
        except ImportError:
            continue
        if getattr(options, "default_on", False):
            found[kind] = options()
    return found
