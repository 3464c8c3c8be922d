"""The one list of metrics keeps its own laws."""

from __future__ import annotations

import re

from relayd.telemetry.names import BUCKETS_S, LABELS, METRICS
from relayd.telemetry.sink import declared
from relayd.telemetry.sinks.prometheus import exposed_name


def test_every_name_is_relayd_area_metric_and_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"relayd\.[a-z]+\.[a-z_]+", name) for name in names)


def test_every_label_is_explained_and_used() -> None:
    assert {label for metric in declared() for label in metric.labels} == set(LABELS)


def test_every_metric_is_explained_by_a_sentence() -> None:
    assert all(metric.doc.endswith(".") for metric in METRICS)


def test_timers_count_in_seconds_and_buckets_rise() -> None:
    assert all(metric.unit == "seconds" for metric in METRICS if metric.kind == "timer")
    assert list(BUCKETS_S) == sorted(set(BUCKETS_S))


def test_no_two_metrics_share_a_prometheus_name() -> None:
    made = [exposed_name(metric) for metric in METRICS]
    assert len(set(made)) == len(made)
