"""Counting: every exchange once, sums right, series bounded whatever arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.dialect import run_steps
from relayd.telemetry.metrics import (
    BATCH,
    CELL_COUNTERS,
    CELL_TIMERS,
    OTHER,
    SAMPLES,
    SERIES,
    Cell,
    Histogram,
    Metrics,
)
from relayd.telemetry.names import BUCKETS_S, BY_NAME, METRICS, PAIR, Metric
from relayd.telemetry.sinks import prometheus
from tests.unit.telemetry.record import record


def test_an_exchange_is_counted_once_under_route_upstream_class_and_outcome() -> None:
    metrics = Metrics()
    metrics.count_exchange(record())
    metrics.count_exchange(record(status=204))
    metrics.count_exchange(record(status=499, code="client_gone", ended_by="client", phase="transfer"))
    assert dict(metrics.counters(BY_NAME["relayd.proxy.requests"])) == {
        ("llm", "chutes", "2xx", "complete"): 2, ("llm", "chutes", "4xx", "client.transfer"): 1,
    }
    assert dict(metrics.counters(BY_NAME["relayd.proxy.errors"])) == {("client_gone",): 1}
    assert metrics.value("relayd.proxy.bytes_in", route="llm") == 30
    assert metrics.value("relayd.proxy.bytes_out") == 6000
    assert metrics.value("relayd.upstream.attempts", upstream="chutes") == 3


@pytest.mark.parametrize(("status", "name"), [(0, "none"), (101, "1xx"), (599, "5xx"), (999, "none")])
def test_a_status_is_counted_by_its_class(status: int, name: str) -> None:
    metrics = Metrics()
    metrics.count_exchange(record(status=status))
    assert metrics.value("relayd.proxy.requests", status=name) == 1


def test_spans_fall_into_the_bucket_that_bounds_them() -> None:
    metrics = Metrics()
    for total_s in (0.0005, 0.001, 0.0011, 10_000.0):
        metrics.count_exchange(record(total_s=total_s))
    ((_, (timer,)),) = metrics.timers(BY_NAME["relayd.proxy.total"])
    assert timer.buckets[:2] == [2, 1]
    assert timer.buckets[len(BUCKETS_S)] == 1
    assert timer.count == 4
    assert timer.sum_s == pytest.approx(10_000.0026)


@given(st.lists(st.floats(0.0, 1000.0) | st.sampled_from(BUCKETS_S), max_size=600), st.sampled_from([0, SAMPLES]))
def test_a_timer_says_the_same_however_its_durations_were_added(spans_s: list[float], keep: int) -> None:
    metrics, one_by_one = Metrics(), Histogram()
    metrics.keep = keep
    for span_s in spans_s:
        metrics.count_exchange(record(total_s=span_s))
        one_by_one.observe(span_s, keep)
    for _, (timer,) in metrics.timers(BY_NAME["relayd.proxy.total"]):
        assert (timer.buckets, timer.count, timer.samples) == (one_by_one.buckets, len(spans_s), one_by_one.samples)
        assert timer.sum_s == pytest.approx(one_by_one.sum_s)
        assert len(timer.pending) < BATCH


def test_points_that_were_not_reached_are_not_measured() -> None:
    metrics = Metrics()
    metrics.count_exchange(record(total_s=0.1, first_byte_s=-1.0, connect_s=-1.0))
    metrics.count_exchange(record(total_s=0.1, connect_s=0.0, queue_s=0.0))
    assert sum(t.count for _, ts in metrics.timers(BY_NAME["relayd.proxy.first_byte"]) for t in ts) == 1
    assert not list(metrics.timers(BY_NAME["relayd.upstream.connect"])), "a kept connection was counted as a new one"
    assert not list(metrics.timers(BY_NAME["relayd.proxy.queue"]))


def test_samples_are_kept_only_while_a_sink_takes_them_and_never_too_many() -> None:
    metrics = Metrics()
    metrics.count_exchange(record())
    ((_, (timer,)),) = metrics.timers(BY_NAME["relayd.proxy.total"])
    assert timer.pop_samples() == ([], 1)
    metrics.keep = SAMPLES
    for _ in range(SAMPLES + 50):
        metrics.count_exchange(record())
    assert list(metrics.timers(BY_NAME["relayd.proxy.total"])) == [(("llm", "chutes"), [timer])]
    samples, seen = timer.pop_samples()
    assert (len(samples), seen) == (SAMPLES, SAMPLES + 50)
    assert timer.pop_samples() == ([], 0)


def test_counters_add_and_gauges_replace() -> None:
    metrics = Metrics()
    metrics.add("relayd.config.reloads", result="accepted")
    metrics.add("relayd.config.reloads", 2, result="refused")
    metrics.gauge("relayd.upstream.unverified", 1, upstream="web")
    metrics.gauge("relayd.upstream.unverified", 0, upstream="web")
    assert metrics.value("relayd.config.reloads") == 3
    assert list(metrics.gauges(BY_NAME["relayd.upstream.unverified"])) == [(("web",), 0)]


def test_the_series_of_a_gauge_are_replaced_together() -> None:
    """A series that nobody sets any more would keep its last value."""
    metrics = Metrics()
    metrics.set_gauges("relayd.upstream.unverified", {("old",): 1, ("web",): 1})
    metrics.set_gauges("relayd.upstream.unverified", {("web",): 0})
    assert list(metrics.gauges(BY_NAME["relayd.upstream.unverified"])) == [(("web",), 0)]
    metrics.set_gauges("relayd.upstream.unverified", {(f"u{number}",): 1 for number in range(SERIES + 5)})
    assert len(list(metrics.gauges(BY_NAME["relayd.upstream.unverified"]))) == SERIES
    assert metrics.value("relayd.telemetry.overflowed") == 1


def test_a_name_or_label_that_was_not_declared_is_an_error_of_the_programmer() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.add("relayd.made.up")
    with pytest.raises(KeyError):
        metrics.add("relayd.config.reloads")
    with pytest.raises(KeyError):
        metrics.add("relayd.config.reloads", outcome="accepted")
    with pytest.raises(KeyError):
        metrics.add("relayd.config.generation")


def test_labels_without_end_are_counted_under_other() -> None:
    metrics = Metrics()
    for number in range(SERIES + 500):
        metrics.add("relayd.listener.bad_requests", listener="public", rule=f"r{number}")
        metrics.count_exchange(record(route=f"r{number}"))
        metrics.observe("relayd.loop.lag", 0.001)
    bad = dict(metrics.counters(BY_NAME["relayd.listener.bad_requests"]))
    assert len(bad) <= SERIES + 1
    assert bad[OTHER, OTHER] == 500
    requests = dict(metrics.counters(BY_NAME["relayd.proxy.requests"]))
    assert len(requests) <= SERIES + 1
    assert sum(requests.values()) == SERIES + 500, "an exchange was lost"
    assert requests[OTHER, OTHER, "2xx", "complete"] == 500
    assert metrics.value("relayd.telemetry.overflowed") == 1000


def test_a_metric_of_route_and_upstream_is_counted_wherever_it_is_kept() -> None:
    planted = (
        Metric("relayd.budget.spent", "counter", "", PAIR, "Money."),
        Metric("relayd.budget.wait", "timer", "seconds", PAIR, "Waits."),
        Metric("relayd.budget.left", "gauge", "", PAIR, "Money."),
    )
    metrics = Metrics((*METRICS, *planted))
    metrics.count_exchange(record())
    metrics.add("relayd.budget.spent", 3, route="llm", upstream="chutes")
    metrics.observe("relayd.budget.wait", 0.2, route="llm", upstream="chutes")
    metrics.gauge("relayd.budget.left", 7, route="llm", upstream="chutes")
    text = run_steps(prometheus.render_steps(metrics)).decode()
    pair = '{route="llm",upstream="chutes"}'
    assert f"relayd_budget_spent_total{pair} 3\n" in text and f"relayd_budget_left{pair} 7\n" in text
    assert f"relayd_budget_wait_seconds_count{pair} 1\n" in text
    assert f"relayd_proxy_bytes_in_total{pair} 10\n" in text
    assert metrics.value("relayd.budget.spent", route="llm") == 3


def test_what_is_kept_in_cells_is_declared_and_is_there() -> None:
    for name, attribute in (*CELL_COUNTERS.items(), *CELL_TIMERS.items()):
        assert BY_NAME[name].labels == PAIR and hasattr(Cell(), attribute)
        assert BY_NAME[name].kind == ("timer" if name in CELL_TIMERS else "counter")
