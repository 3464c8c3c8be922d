"""The text that a Prometheus scraper reads, checked against the rules of the format."""

from __future__ import annotations

import re
from typing import Any

import pytest

from relayd.protocols.dialect import run_steps
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.names import METRICS
from relayd.telemetry.sinks.prometheus import (
    CONTENT_TYPE,
    OPEN_METRICS_TYPE,
    Options,
    Sink,
    prefers_open_metrics,
    render_steps,
)
from relayd.telemetry.trace import Trace
from tests.unit.telemetry.record import record

SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.e+\-]+|\+Inf|NaN)'
)


def test_every_line_follows_the_format_and_every_metric_is_declared_once() -> None:
    metrics = Metrics()
    metrics.count_exchange(record(code="client_gone", ended_by="client"))
    metrics.gauge("relayd.upstream.unverified", 1, upstream='a"b\\c\nd')
    metrics.observe("relayd.loop.lag", 0.002)
    lines = run_steps(render_steps(metrics)).decode().split("\n")
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
    text = run_steps(render_steps(metrics)).decode()
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
    assert 'relayd_upstream_unverified{upstream="a\\"b\\\\c\\nd"} 1\n' in run_steps(render_steps(metrics)).decode()


def test_counters_end_in_total_and_units_are_named() -> None:
    metrics = Metrics()
    metrics.count_exchange(record())
    metrics.gauge("relayd.daemon.memory", 1.5)
    text = run_steps(render_steps(metrics)).decode()
    assert 'relayd_proxy_requests_total{route="llm",upstream="chutes",status="2xx",outcome="complete"} 1\n' in text
    assert 'relayd_proxy_bytes_out_total{route="llm",upstream="chutes"} 2000\n' in text
    assert "relayd_daemon_memory_bytes 1.5\n" in text


def test_an_alias_shows_a_metric_once_more() -> None:
    metrics = Metrics()
    metrics.count_exchange(record())
    text = run_steps(render_steps(metrics, [("old_total", "relayd_proxy_requests_total"), ("old_seconds", "relayd_proxy_total_seconds")])).decode()
    own = [line for line in text.splitlines() if line.startswith("relayd_proxy_requests_total")]
    assert own and [line.replace("relayd_proxy_requests_total", "old_total") for line in own] == [
        line for line in text.splitlines() if line.startswith("old_total")]
    assert "# TYPE old_seconds histogram" in text and 'old_seconds_count{' in text


PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"


@pytest.mark.parametrize(("accept", "is_open"), [
    ("", False), ("*/*", False), ("text/plain", False), (PROMETHEUS, True), ("application/openmetrics-text", True),
    ("application/openmetrics-text; version=1.0.0; charset=utf-8", True), ("application/openmetrics-text;version=0.0.1", False),
    ("application/openmetrics-text;q=0", False), ("application/openmetrics-text;q=0.2,text/plain;q=0.9", False),
    ("text/plain;q=0.1,*/*;q=0.9,application/openmetrics-text;q=0.5", True), ("application/openmetrics-text;q=none", False), (";;,=;q", False),
])  # fmt: skip
def test_the_accept_field_decides_the_format(accept: str, is_open: bool) -> None:
    assert prefers_open_metrics(accept) is is_open
    page = Sink(Options(), Metrics()).page(accept)
    assert page is not None and page[0] == (OPEN_METRICS_TYPE if is_open else CONTENT_TYPE) and run_steps(page[1]).endswith(b"# EOF\n") is is_open


def open_metrics(metrics: Metrics, *aliases: tuple[str, str]) -> dict[str, Any]:
    """Read by the strict parser of Prometheus' client library."""
    parser: Any = pytest.importorskip("prometheus_client.openmetrics.parser")
    text = run_steps(render_steps(metrics, aliases, open_metrics=True)).decode()
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def test_openmetrics_has_the_same_values_and_is_valid() -> None:
    metrics = Metrics()
    metrics.count_exchange(record(total_s=0.02))
    metrics.gauge("relayd.upstream.unverified", 1, upstream='a"b\\c\nd')
    found = open_metrics(metrics, ("seed_requests", "relayd_proxy_requests_total"), ("seed_total", "relayd_proxy_requests_total"), ("seed_time", "relayd_proxy_total_seconds"))
    assert len(found) == len(METRICS) + 3
    assert (found["relayd_proxy_requests"].type, found["seed_requests"].type, found["seed"].type, found["seed_time"].type) == ("counter", "unknown", "counter", "histogram")
    assert found["relayd_proxy_requests"].samples[0].value == found["seed_requests"].samples[0].value == 1
    assert found["relayd_proxy_total_seconds"].unit == "seconds" and found["relayd_daemon_memory_bytes"].unit == "bytes"
    assert found["relayd_upstream_unverified"].samples[0].labels == {"upstream": 'a"b\\c\nd'}


def test_a_bucket_has_the_last_traced_request_as_exemplar() -> None:
    metrics = Metrics()
    for number, (total_s, sampled, status) in enumerate([(0.02, True, 200), (0.021, True, 500), (0.3, False, 200), (99.0, True, 200), (9999.0, True, 200)]):
        one = record(total_s=total_s, status=status)
        one.started_wall, one.first_byte_s = 1000.0 + number, 0.001
        one.trace = Trace(f"{number:032x}", None, "", sampled)
        metrics.count_exchange(one)
    buckets = {sample.labels["le"]: sample.exemplar for sample in open_metrics(metrics)["relayd_proxy_total_seconds"].samples if sample.name.endswith("_bucket")}
    examples: dict[str, tuple[str, float, Any]] = {le: (one.labels["trace_id"], one.value, float(one.timestamp)) for le, one in buckets.items() if one is not None}
    expected: dict[str, tuple[str, float, Any]] = {
        "0.025": (f"{1:032x}", 0.021, 1001.021), "120.0": (f"{3:032x}", 99.0, 1102.0), "+Inf": (f"{4:032x}", 9999.0, 11003.0),
    }  # fmt: skip
    assert examples == expected
    assert b"trace_id" not in run_steps(render_steps(metrics)), "the older format has none"
