"""The text that a Prometheus scraper reads, checked against the rules of the format."""

from __future__ import annotations

import re

from relayd.telemetry.metrics import Metrics
from relayd.telemetry.names import METRICS
from relayd.telemetry.sinks.prometheus import render
from tests.unit.telemetry.record import record

SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.e+\-]+|\+Inf|NaN)'
)


def test_every_line_follows_the_format_and_every_metric_is_declared_once() -> None:
    metrics = Metrics()
    metrics.count_exchange(record(code="client_gone", ended_by="client"))
    metrics.gauge("relayd.upstream.unverified", 1, upstream='a"b\\c\nd')
    metrics.observe("relayd.loop.lag", 0.002)
    lines = render(metrics).decode().split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == len(METRICS)


def test_a_histogram_is_cumulative_and_agrees_with_its_count() -> None:
    metrics = Metrics()
    for total_s in (0.002, 0.02, 0.2, 2000.0):
        metrics.count_exchange(record(total_s=total_s))
    metrics.count_exchange(record(total_s=0.02, status=500))
    text = render(metrics).decode()
    found = re.findall(r'relayd_proxy_total_seconds_bucket\{route="llm",upstream="chutes",le="(.*?)"\} (\d+)', text)
    counts = [int(count) for _, count in found]
    assert counts == sorted(counts)
    assert dict(found)["0.025"] == "3"
    assert found[-1] == ("+Inf", "5")
    assert 'relayd_proxy_total_seconds_count{route="llm",upstream="chutes"} 5\n' in text
    assert 'relayd_proxy_total_seconds_sum{route="llm",upstream="chutes"} 2000.242\n' in text


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.gauge("relayd.upstream.unverified", 1, upstream='a"b\\c\nd')
    assert 'relayd_upstream_unverified{upstream="a\\"b\\\\c\\nd"} 1\n' in render(metrics).decode()


def test_counters_end_in_total_and_units_are_named() -> None:
    metrics = Metrics()
    metrics.count_exchange(record())
    metrics.gauge("relayd.daemon.memory", 1.5)
    text = render(metrics).decode()
    assert 'relayd_proxy_requests_total{route="llm",upstream="chutes",status="2xx",outcome="complete"} 1\n' in text
    assert 'relayd_proxy_bytes_out_total{route="llm",upstream="chutes"} 2000\n' in text
    assert "relayd_daemon_memory_bytes 1.5\n" in text


def test_an_alias_shows_a_metric_once_more() -> None:
    metrics = Metrics()
    metrics.count_exchange(record())
    text = render(metrics, [("old_total", "relayd_proxy_requests_total"), ("old_seconds", "relayd_proxy_total_seconds")]).decode()
    own = [line for line in text.splitlines() if line.startswith("relayd_proxy_requests_total")]
    assert own and [line.replace("relayd_proxy_requests_total", "old_total") for line in own] == [
        line for line in text.splitlines() if line.startswith("old_total")]
    assert "# TYPE old_seconds histogram" in text and 'old_seconds_count{' in text
