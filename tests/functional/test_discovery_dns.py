"""Endpoints from the DNS: a real dnsmasq, and a name server with faults; running streams, retries, the end of `keep`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dns", reason="dnspython is not installed")

from tests.aids.name_server import NameServer
from tests.aids.ports import free_port
from tests.functional.harness.faults import endpoints, metric, says, until, upstream_of
from tests.functional.harness.message import request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream

DNSMASQ = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")


def upstream(port: int, server: str, **options: Any) -> dict[str, Any]:
    wanted = {"name": "backend.internal", "port": port, "servers": [server], "min_ttl": "100ms", "max_ttl": "500ms", **options}
    return {"upstreams": {"up": {"endpoints": None, "discovery": {"dns": wanted}}}}


def hosts(relay: Relay) -> set[str]:
    return {name.partition(":")[0] for name, one in endpoints(relay).items() if one["state"] != "leaving"}


def test_answers_that_change_and_fail_are_followed(tmp_path: Path) -> None:
    with NameServer() as names, Upstream() as only:
        only.script = says(b"only")
        names.set("backend.internal", "A", "127.0.0.1", "127.0.0.8")
        change = upstream(only.port, names.address, keep="2s")
        with Relay(tmp_path / "r", "", change) as relay, relay.client() as client:
            until(lambda: hosts(relay) == {"127.0.0.1", "127.0.0.8"})
            names.set("backend.internal", "A", "127.0.0.1")
            until(lambda: hosts(relay) == {"127.0.0.1"})
            assert client.ask(request()).body == b"only"
            names.records["backend.internal", "A"] = "SERVFAIL"
            until(lambda: "answers SERVFAIL" in upstream_of(relay)["discovery"]["fault"])
            assert client.ask(request()).body == b"only"
            until(lambda: not hosts(relay))
            answer = client.ask(request())
            assert answer.status == 503 and "SERVFAIL" in relay.record(code="no_endpoint")["detail"]
            names.set("backend.internal", "A", "127.0.0.1")
            until(lambda: hosts(relay) == {"127.0.0.1"})
            assert client.ask(request()).body == b"only"


def test_a_thousand_records_are_bounded_and_served(tmp_path: Path) -> None:
    with NameServer() as names, Upstream() as only:
        names.set("backend.internal", "A", *(f"127.1.{one // 250}.{one % 250 + 1}" for one in range(1000)))
        with Relay(tmp_path / "r", "", upstream(only.port, names.address)) as relay:
            until(lambda: len(hosts(relay)) == 64)
            assert "of 1000 addresses the first 64" in upstream_of(relay)["discovery"]["note"]


def test_a_dead_address_is_looked_up_before_its_time_to_live_is_over(tmp_path: Path) -> None:
    with NameServer(ttl=3600) as names, Upstream() as only:
        names.set("backend.internal", "A", "127.0.0.9")
        change = upstream(only.port, names.address, max_ttl="1h")
        with Relay(tmp_path / "r", "", change) as relay, relay.client() as client:
            until(lambda: hosts(relay) == {"127.0.0.9"})
            names.set("backend.internal", "A", "127.0.0.1")
            assert client.ask(request()).status == 502  # nothing listens there
            until(lambda: hosts(relay) == {"127.0.0.1"})
            assert client.ask(request()).status == 200
            assert metric(relay, "relayd_discovery_changes_total", upstream="up") == 2


@pytest.mark.skipif(DNSMASQ is None, reason="dnsmasq is not installed (apt install dnsmasq-base)")
def test_dnsmasq_is_followed_by_a_and_srv_records(tmp_path: Path) -> None:
    names, port = tmp_path / "hosts", free_port()
    names.write_text("127.0.0.1 backend.internal\n")
    with Upstream() as only:
        only.script = says(b"only")
        process = subprocess.Popen([
            str(DNSMASQ), "--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--local-ttl=1",
            "--listen-address=127.0.0.1", f"--port={port}", f"--addn-hosts={names}", "--local=/internal/", "--user=root",
            f"--srv-host=_ai._tcp.backend.internal,backend.internal,{only.port},1,5", "--pid-file=",
        ])  # fmt: skip
        try:
            change = upstream(only.port, f"127.0.0.1:{port}")
            service = {"name": "_ai._tcp.backend.internal", "type": "SRV", "servers": [f"127.0.0.1:{port}"], "min_ttl": "100ms"}
            change["upstreams"]["srv"] = {"discovery": {"dns": service}}
            change["routes"] = [{"name": "srv", "match": {"prefix": "/srv"}, "upstream": "srv"}, {"name": "rest", "upstream": "up"}]
            with Relay(tmp_path / "r", "", change) as relay, relay.client() as client:
                until(lambda: hosts(relay) == {"127.0.0.1"} and upstream_of(relay, "srv")["available"])
                assert client.ask(request()).body == b"only" and client.ask(request(b"/srv")).body == b"only"
                names.write_text("127.0.0.7 backend.internal\n")
                os.kill(process.pid, signal.SIGHUP)
                until(lambda: hosts(relay) == {"127.0.0.7"})
                until(lambda: set(endpoints(relay, "srv")) == {f"127.0.0.7:{only.port}"})
                names.write_text("\n")
                os.kill(process.pid, signal.SIGHUP)
                until(lambda: "answers n" in upstream_of(relay)["discovery"]["fault"].lower())  # NXDOMAIN, or no record
                assert hosts(relay) == {"127.0.0.7"}
        finally:
            process.terminate()
            process.wait()
