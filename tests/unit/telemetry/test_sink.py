"""Sinks as they are found: their metrics and their defaults."""

from __future__ import annotations

from relayd import registry
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.names import METRICS
from relayd.telemetry.sink import SINKS, declared, default_sinks


def test_the_metrics_of_sinks_are_declared_behind_relayds_own() -> None:
    names = [metric.name for metric in declared()]
    assert names[: len(METRICS)] == [metric.name for metric in METRICS] and len(names) == len(set(names))
    for kind in registry.kinds(SINKS):
        assert {metric.name for metric in registry.load(SINKS, kind).Sink.metrics} <= set(names)


def test_what_is_on_by_default_needs_no_word() -> None:
    for kind, options in default_sinks().items():
        module = registry.load(SINKS, kind)
        assert options == module.Options() and module.Options.default_on


def test_a_sink_has_an_interval_or_a_page() -> None:
    metrics = Metrics(declared())
    for kind, options in default_sinks().items():
        sink = registry.load(SINKS, kind).Sink(options, metrics)
        assert sink.prepare() is None
        assert bool(sink.interval_s) != (sink.page() is not None)
        sink.close()
