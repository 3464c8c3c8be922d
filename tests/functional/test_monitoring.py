"""The rules of conf/monitoring with Prometheus' own programs: promtool evaluates every alert, and a Prometheus scrapes a
relayd that has faults. Without these programs the tests are skipped."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.aids.ports import free_port
from tests.functional.harness.collector import Collector
from tests.functional.harness.faults import get, metric, refused_url, run, silent, until
from tests.functional.harness.message import answer
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream, saying

RULES = ROOT / "conf/monitoring/relayd.rules.yml"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (prometheus)")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus")

# Series of 40 minutes by alert: 20 minutes with the fault, then without. `a x n` repeats a value, `a+bxn` counts.
GAUGE = "{0}x20 {1}x40"
SERIES: dict[str, list[tuple[str, str]]] = {
    "RelaydDown": [('up{job="relayd"}', GAUGE.format(0, 1))],
    "RelaydUpstreamDown": [(f'relayd_upstream_available{{job="relayd",upstream="a",endpoint="{n}"}}', GAUGE.format(0, 1)) for n in "ef"],
    "RelaydEndpointDown": [
        ('relayd_upstream_available{job="relayd",upstream="a",endpoint="e"}', GAUGE.format(0, 1)),
        ('relayd_upstream_available{job="relayd",upstream="a",endpoint="f"}', "1x60"),
    ],
    "RelaydRequestsFail": [
        ('relayd_proxy_requests_total{job="relayd",route="r",status="2xx",outcome="complete"}', "0+90x60"),
        ('relayd_proxy_requests_total{job="relayd",route="r",status="5xx",outcome="upstream.attempt"}', "0+6x20 120x40"),
        ('relayd_proxy_requests_total{job="relayd",route="r",status="5xx",outcome="complete"}', "0+6x20 120x40"),
    ],
    "RelaydSlowFirstByte": [
        ('relayd_proxy_first_byte_seconds_bucket{job="relayd",route="r",le="30"}', "0+1x20 20+100x40"),
        ('relayd_proxy_first_byte_seconds_bucket{job="relayd",route="r",le="60"}', "0+100x20 2000+100x40"),
        ('relayd_proxy_first_byte_seconds_bucket{job="relayd",route="r",le="+Inf"}', "0+100x20 2000+100x40"),
    ],
    "RelaydQueueWaits": [('relayd_queue_oldest_seconds{job="relayd",gate="upstream a"}', GAUGE.format(16, 0))],
    "RelaydBodiesWait": [('relayd_buffers_oldest_seconds{job="relayd"}', GAUGE.format(6, 0))],
    "RelaydOverloaded": [('relayd_overload_share{job="relayd"}', GAUGE.format(0.2, 0))],
    "RelaydLoopLag": [('relayd_loop_lag_max_seconds{job="relayd"}', GAUGE.format(0.3, 0.01))],
    "RelaydConnectionsRefused": [
        ('relayd_listener_refused_total{job="relayd",listener="public",reason="limit"}', "0+1x20 20x40"),
        ('relayd_listener_refused_total{job="relayd",listener="public",reason="untrusted"}', "0+1x60"),
    ],
    "RelaydConfigRejected": [('relayd_config_rejected{job="relayd"}', GAUGE.format(1, 0))],
    "RelaydCertificateExpires": [('relayd_listener_certificate_left_seconds{job="relayd",listener="l",file="f"}', GAUGE.format(86400, 8640000))],
    "RelaydCertificateNotObtained": [('relayd_certs_failures{job="relayd",domain="d"}', GAUGE.format(3, 0))],
    "RelaydLimitNearlyUsed": [('relayd_limits_used{job="relayd",limit="l"}', GAUGE.format(0.95, 0.1))],
    "RelaydDiscoveryStale": [
        ('relayd_discovery_age_seconds{job="relayd",upstream="a"}', GAUGE.format(400, 5)), ('relayd_discovery_interval_seconds{job="relayd",upstream="a"}', "30x60"),
        ('relayd_discovery_age_seconds{job="relayd",upstream="b"}', "0+60x60"), ('relayd_discovery_interval_seconds{job="relayd",upstream="b"}', "3600x60"),
    ],
    "RelaydIssuerKeysStale": [('relayd_access_issuer_keys_age_seconds{job="relayd",consumer="c"}', GAUGE.format(90000, 5))],
    "RelaydStateNotWritten": [('relayd_spend_failed_total{job="relayd",cause="full"}', "_x15 1x45")],
    "RelaydTelemetryLost": [('relayd_telemetry_otlp_dropped_total{job="relayd",signal="traces"}', "0+5x20 100x40")],
}
# Further faults that an alert finds.
MORE = [
    ("RelaydCertificateExpires", [('relayd_daemon_certificate_left_seconds{job="relayd",setting="upstreams.a.tls.ca",file="f"}', GAUGE.format(86400, 8640000))]),
    ("RelaydUpstreamDown", [('relayd_discovery_endpoints{job="relayd",upstream="a"}', GAUGE.format(0, 1))]),
]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alert_names() -> set[str]:
    return {rule["alert"] for rule in rules() if "alert" in rule}


@needs_promtool
def test_promtool_accepts_the_rules_and_each_alert_fires_and_resolves(tmp_path: Path) -> None:
    assert set(SERIES) == alert_names()
    tests = []
    for name, series in [*SERIES.items(), *MORE]:
        times = {"10m": False} if name in ("RelaydStateNotWritten",) else {}
        tests.append({
            "interval": "1m", "input_series": [{"series": one, "values": values} for one, values in series],
            "promql_expr_test": [
                {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)', "eval_time": at, "exp_samples": [{"labels": "{}", "value": float(fires)}]}
                for at, fires in {"18m": True, "40m": False, **times}.items()
            ],
        })  # fmt: skip
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    for words in (["check", "rules", str(RULES)], ["test", "rules", str(file)]):
        done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A Prometheus that scrapes one relayd every 200 ms, with the rules of the package and spans of seconds."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        text = re.sub(r"\[(5m|10m|1h)\]", "[2s]", RULES.read_text())
        text = re.sub(r"for: \d+m", "for: 400ms", text).replace("offset 10m", "offset 2s").replace("seconds > 15", "seconds > 0.5")
        (folder / "rules.yml").write_text(text)
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}, "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "relayd", "metrics_path": "/admin/metrics", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        }))  # fmt: skip
        self.process = subprocess.Popen(
            [str(PROMETHEUS), "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{self.port}", "--storage.tsdb.path=data", "--enable-feature=exemplar-storage"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, path: str) -> Any:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10) as response:
            return json.load(response)["data"]
        return None

    def firing(self) -> set[str]:
        data = self.ask("alerts") or {"alerts": []}
        return {one["labels"]["alertname"] for one in data["alerts"] if one["state"] == "firing"}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@contextlib.contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Prometheus]:
    folder.mkdir()
    running = Prometheus(folder, target)
    try:
        yield running
    finally:
        running.stop()


@needs_prometheus
def test_alerts_fire_under_faults_and_resolve(tmp_path: Path) -> None:
    with Upstream() as good, Upstream() as bad, Collector() as collector:
        change = {
            "upstreams": {
                "up": {"endpoints": [good.url], "limits": {"requests": 1, "queue": 5}},
                "half": {"endpoints": [good.url, refused_url()], "health": {"path": "/", "interval": "100ms", "timeout": "500ms", "unhealthy": 2, "healthy": 1}},
                "bad": {"endpoints": [bad.url], "breaker": {"failures": 1000}},
            },
            "routes": [
                {"name": "admin", "match": {"prefix": "/admin/"}, "upstream": "admin", "strip_prefix": "/admin"},
                {"name": "bad", "match": {"prefix": "/bad"}, "upstream": "bad"},
                {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
            ],
            "telemetry": {"otlp": {"endpoint": collector.url, "interval": "100ms"}},
        }
        relay = Relay(tmp_path / "relay", good.url, change)
        with prometheus(tmp_path / "prometheus", relay.port) as watcher, contextlib.ExitStack() as stack:
            until(lambda: "RelaydDown" in watcher.firing())
            stack.enter_context(relay)
            until(lambda: watcher.firing() == {"RelaydEndpointDown"})
            get(relay, b"/traced")
            examples = until(lambda: watcher.ask("query_exemplars?query=relayd_proxy_total_seconds_bucket&start=0&end=9999999999"))
            traced = {one["labels"]["trace_id"] for series in examples for one in series["exemplars"]}
            until(lambda: traced & {one["traceId"] for one in collector.spans()}, what="an exemplar that is a trace")
            good_config = relay.file.read_text()
            collector.script = saying(answer(b"", status=b"400 Bad Request"))
            bad.script = saying(answer(b"", status=b"500 Bad"))
            relay.file.write_text(good_config.replace('"listeners"', '"listenerz"'))
            assert run(relay, "reload")[0] != 0
            good.script = silent
            with relay.client() as first, relay.client() as second:
                first.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
                second.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
                until(lambda: metric(relay, "relayd_queue_depth") == 1)
                wanted = {"RelaydQueueWaits", "RelaydRequestsFail", "RelaydConfigRejected", "RelaydTelemetryLost", "RelaydUpstreamDown"}
                until(lambda: get(relay, b"/bad").status and wanted <= watcher.firing(), what="all alerts")
            relay.file.write_text(good_config)
            assert run(relay, "reload")[0] == 0
            good.fresh()
            collector.fresh()
            until(lambda: not watcher.firing() - {"RelaydEndpointDown"})
