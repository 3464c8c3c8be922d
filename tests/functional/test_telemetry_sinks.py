"""Metrics as their receivers see them: a real statsd daemon, a real Prometheus, and the parser of Prometheus' own library.

The statsd daemon is the npm package, kept in .cache; where npm or a Prometheus is missing the test is left out.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

STATSD = "statsd@0.9.0"
KEPT = ROOT / ".cache/statsd"
SCRIPT = Path("node_modules/statsd/stats.js")
WAIT_S = 60.0


def eventually(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds; the wait between two looks is only politeness."""
    end = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session")
def statsd_script() -> Path:
    """stats.js of the real daemon; RELAYD_TEST_STATSD names another place."""
    given = os.environ.get("RELAYD_TEST_STATSD")
    script = Path(given) if given else KEPT / SCRIPT
    if script.exists():
        return script
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no npm here")
    KEPT.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(KEPT), STATSD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or not script.exists():
        pytest.skip(f"{STATSD} cannot be installed: {done.stderr[-200:]}")
    return script


@dataclass(frozen=True)
class StatsdDaemon:
    """A running daemon and what its management port says."""

    port: int
    management: int

    def ask(self, what: str) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self.management), timeout=60) as link:
            link.sendall(what.encode() + b"\n")
            with link.makefile() as lines:
                text = "".join(iter(lines.readline, "END\n"))
        # Node's own notation: names with dots stand in quotes, as in Python.
        told: dict[str, Any] = ast.literal_eval(text)
        return told

    def is_up(self) -> bool:
        try:
            self.ask("counters")
        except OSError:
            return False
        return True


@pytest.fixture
def statsd_daemon(statsd_script: Path, folder: Path) -> Iterator[StatsdDaemon]:
    made = StatsdDaemon(free_port(), free_port())
    # A flush interval longer than the test: what arrived stands in the management port's answer until the end.
    (folder / "statsd.js").write_text(
        f'{{ port: {made.port}, mgmt_port: {made.management}, address: "127.0.0.1", mgmt_address: "127.0.0.1",'
        f' flushInterval: 600000, backends: ["./backends/console"] }}'
    )
    command = ["node", str(statsd_script), str(folder / "statsd.js")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(made.is_up, "the start of statsd")
        yield made
    finally:
        process.terminate()
        process.wait(60)


def relayed(folder: Path, upstream: Upstream, **telemetry: Any) -> Relay:
    return Relay(folder / "relay", upstream.url, {
        "telemetry": telemetry,
        "routes": [
            {"name": "scrape", "match": {"path": "/metrics"}, "upstream": "admin"},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    })


def traffic(relay: Relay, upstream: Upstream, count: int) -> None:
    """`count` requests, each answered with 201 and five bytes."""

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b"hello", status=b"201 Created"))

    upstream.script = script
    for _ in range(count):
        with Client(relay.address) as client:
            assert client.ask(request(b"/some", b"Connection: close", method=b"POST", body=b"abc")).status == 201


@pytest.mark.client
def test_a_real_statsd_daemon_counts_what_was_relayed(
    folder: Path, upstream: Upstream, statsd_daemon: StatsdDaemon
) -> None:
    address = f"127.0.0.1:{statsd_daemon.port}"
    with relayed(folder, upstream, statsd={"address": address, "prefix": "site.relayd", "interval": "100ms"}) as relay:
        begun = time.monotonic()
        traffic(relay, upstream, 7)
        took_ms = (time.monotonic() - begun) * 1000
        name = "site.relayd.proxy.requests.all.up.2xx.complete"
        eventually(lambda: statsd_daemon.ask("counters").get(name) == 7, "counting seven requests")
        eventually(lambda: "site.relayd.loop.lag" in statsd_daemon.ask("timers"), "measuring the loop")
    counters, timers = statsd_daemon.ask("counters"), statsd_daemon.ask("timers")
    assert counters[name] == 7
    assert counters["site.relayd.proxy.bytes_in.all.up"] == 21
    assert counters["site.relayd.proxy.bytes_out.all.up"] >= 35
    assert counters["statsd.bad_lines_seen"] == 0
    assert len(timers["site.relayd.proxy.total.all.up"]) == 7
    assert all(0 < span_ms < took_ms for span_ms in timers["site.relayd.proxy.total.all.up"])
    gauges = statsd_daemon.ask("gauges")
    assert gauges["site.relayd.config.generation"] == 1
    assert gauges["site.relayd.config.rejected"] == 0


@pytest.mark.client
def test_a_real_statsd_daemon_is_told_of_a_refused_reload(
    folder: Path, upstream: Upstream, statsd_daemon: StatsdDaemon
) -> None:
    address = f"127.0.0.1:{statsd_daemon.port}"
    with relayed(folder, upstream, statsd={"address": address, "interval": "100ms"}) as relay:
        relay.write({"nonsense": 1})
        relay.hup()
        eventually(lambda: statsd_daemon.ask("gauges").get("relayd.config.rejected") == 1, "the gauge of the refusal")
        relay.write({"nonsense": None})
        relay.hup()
        eventually(lambda: statsd_daemon.ask("gauges").get("relayd.config.rejected") == 0, "the gauge of the acceptance")
    assert statsd_daemon.ask("counters")["relayd.config.reloads.refused"] == 1
    assert statsd_daemon.ask("counters")["relayd.config.reloads.accepted"] == 1


def test_a_statsd_daemon_that_is_away_harms_nobody(folder: Path, upstream: Upstream) -> None:
    with relayed(folder, upstream, statsd={"address": f"127.0.0.1:{free_port()}", "interval": "100ms"}) as relay:
        traffic(relay, upstream, 3)
        assert relay.record(route="all", status=201)


def test_the_library_of_prometheus_reads_every_metric(folder: Path, upstream: Upstream) -> None:
    try:
        parser = importlib.import_module("prometheus_client.parser")
    except ImportError:
        pytest.skip("no prometheus_client here")
    with relayed(folder, upstream) as relay:
        traffic(relay, upstream, 4)
        relay.record(route="all", status=201)
        code, body = relay.admin("/metrics")
    assert code == 200
    families = {family.name: family for family in parser.text_string_to_metric_families(body.decode())}
    labels = {"route": "all", "upstream": "up", "status": "2xx", "outcome": "complete"}
    (sample,) = [one for one in families["relayd_proxy_requests"].samples if one.labels == labels]
    assert sample.value == 4
    assert families["relayd_proxy_total_seconds"].type == "histogram"
    assert families["relayd_config_generation"].samples[0].value == 1


@pytest.mark.client
def test_a_real_prometheus_scrapes_relayd(folder: Path, upstream: Upstream) -> None:
    binary = os.environ.get("RELAYD_TEST_PROMETHEUS") or shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus here")
    with relayed(folder, upstream) as relay:
        traffic(relay, upstream, 5)
        relay.record(route="all", status=201)
        settings = folder / "prometheus.yml"
        settings.write_text(json.dumps({
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "relayd", "static_configs": [{"targets": [f"127.0.0.1:{relay.port}"]}]}],
        }))
        port = free_port()
        process = subprocess.Popen(
            [binary, f"--config.file={settings}", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

        def scraped() -> str:
            query = urllib.parse.quote('relayd_proxy_requests_total{route="all"}')
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}") as got:
                    found = json.load(got)["data"]["result"]
            except OSError:
                return ""
            return str(found[0]["value"][1]) if found else ""

        try:
            assert eventually(scraped, "a scrape") == "5"
        finally:
            process.terminate()
            process.wait(60)
