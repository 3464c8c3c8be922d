"""What a sink is: a module of sinks/ with a docstring (its manual entry), `Options` (its YAML keys) and `Sink`.

A sink that pushes has an interval, one that is asked has a page. Nothing outside its module names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from relayd import registry
from relayd.telemetry.names import METRICS, Metric

SINKS = "relayd.telemetry.sinks"


class Sink(Protocol):
    """Made with its Options and the metrics, which opens nothing; raises OptionError for a value that cannot be used.

    `metrics` are those that only this sink has. `takes_samples` is for the one sink that sends each span by itself.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    takes_samples: ClassVar[bool]

    @property
    def interval_s(self) -> float:
        """How often `flush` is called; 0 for a sink that is asked."""

    @staticmethod
    def name_of(metric: Metric) -> str:
        """The name under which this sink shows a metric; empty if it is the metric's own."""

    def prepare(self) -> tuple[str, str] | None:
        """Open what it needs; an event and a message for the log if something has to be tried again later."""

    def flush(self) -> None:
        """Send what has changed. Never raises, never waits."""

    def page(self) -> tuple[str, bytes] | None:
        """Content type and body of /metrics; None for a sink without a page."""

    def close(self) -> None:
        """Send the last batch and close."""


def declared() -> tuple[Metric, ...]:
    """Every metric: relayd's own, and those that sinks bring."""
    found = list(METRICS)
    for kind in registry.kinds(SINKS):
        try:
            found += registry.load(SINKS, kind).Sink.metrics
        except ImportError:  # its library is not installed: it cannot be configured
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
