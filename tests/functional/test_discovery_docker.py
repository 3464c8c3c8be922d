"""Containers of a real Docker engine: deploys under load, squatters, streams, networks, health, an engine that restarts."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.docker import Docker, why_not
from tests.functional.harness.faults import endpoints, until, upstream_of
from tests.functional.harness.message import Closed, request
from tests.functional.harness.relay import ROOT, Relay

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no Docker engine: {why_not()}")

DEPLOYS = 20
PATIENCE_S = 600.0  # a deploy takes a busy machine a minute, and clients wait for its end
STREAM = """#!/bin/sh
printf 'Content-Type: text/event-stream\\r\\n\\r\\n'
echo 'data: begun'; echo
until [ -e /www/cgi-bin/end ]; do echo 'data: more'; echo; sleep 0.2; done
echo 'data: ended'; echo
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Docker]:
    with Docker() as made:
        yield made


@pytest.fixture
def docker(engine: Docker) -> Iterator[Docker]:
    yield engine
    engine.remove_all()


def relay_of(docker: Docker, folder: Path, wanted: dict[str, Any], **upstream: Any) -> Relay:
    """relayd on the engine's network, reached by a Unix socket."""
    path = str(folder / "public.sock")
    section = {"endpoints": None, "discovery": {"docker": {"engine": f"unix:{docker.socket}", **wanted}}, **upstream}
    change = {"listeners": {"public": {"address": f"unix:{path}"}}, "upstreams": {"up": section}}
    relay = Relay(folder, "", change, before=docker.inside)
    relay.address = path
    return relay


def hosts(relay: Relay) -> set[str]:
    return {name.rpartition(":")[0] for name, one in endpoints(relay).items() if one["state"] != "leaving"}


class Load:
    """Threads that ask as fast as they can, with keep-alive connections; `seen` counts status and container, `cut` the
    answers that broke off: a container was killed in the middle of them."""

    def __init__(self, relay: Relay, threads: int = 4) -> None:
        self.relay, self.seen, self.slowest_s = relay, Counter[tuple[int, str]](), 0.0
        self.cut = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            with self.relay.client() as client:
                client.wait_longer(PATIENCE_S)
                while not self._stop.is_set():
                    before = time.monotonic()
                    try:
                        answer = client.ask(request())
                    except Closed:
                        break
                    self.slowest_s = max(self.slowest_s, time.monotonic() - before)
                    if not answer.complete:
                        self.cut += 1
                        break
                    name = json.loads(answer.body)["name"] if answer.status == 200 else answer.body.decode("latin-1")
                    self.seen[answer.status, name] += 1
                    if answer.get("connection") == b"close":  # after the number of requests that a connection may have
                        break

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_twenty_deploys_under_load_lose_no_request_and_never_reach_the_squatter(docker: Docker, tmp_path: Path) -> None:
    address = docker.serve("backend.ai", 8001)
    # Docker says that a container has started before its program listens, on a busy machine seconds before.
    safety = {"limits": {"queue": 500, "queue_timeout": f"{PATIENCE_S:g}s"}, "retries": {"attempts": 10, "backoff": "100ms"}}
    with relay_of(docker, tmp_path / "r", {"name": "backend.ai", "port": 8001, "network": "bridge"}, **safety) as relay:
        until(lambda: hosts(relay) == {address})
        with Load(relay) as load:
            for number in range(DEPLOYS):
                old, answered = address, load.seen[200, "backend.ai"]
                docker.docker("rm", "-f", "backend.ai")
                assert docker.serve(f"squatter-{number}", 8001) == old, "the squatter has the old address"
                address = docker.serve("backend.ai", 8001)
                assert address != old
                until(lambda address=address: hosts(relay) == {address}, PATIENCE_S)  # type: ignore[misc]
                until(lambda answered=answered: load.seen[200, "backend.ai"] > answered + 20, PATIENCE_S)  # type: ignore[misc]
        assert set(load.seen) == {(200, "backend.ai")}, load.seen
        assert load.seen[200, "backend.ai"] > 20 * DEPLOYS and load.cut <= 4 * DEPLOYS
        print(f"{load.seen}, {load.cut} cut in flight, slowest {load.slowest_s:.2f} s")
        changes = upstream_of(relay)["discovery"]["changes"]
        assert 2 * DEPLOYS <= changes - 1 <= 3 * DEPLOYS, changes


def test_a_dokku_deploy_with_renames_cuts_no_stream_and_no_request(docker: Docker, tmp_path: Path) -> None:
    scripts = tmp_path / "cgi"
    scripts.mkdir()
    (scripts / "stream").write_text(STREAM)
    (scripts / "stream").chmod(0o755)
    volume = ("-v", f"{scripts}:/www/cgi-bin:ro")
    old = docker.serve("backend.ai.1", 8001, *volume)
    queue = {"limits": {"queue": 500, "queue_timeout": f"{PATIENCE_S:g}s"}}  # as in the example: the two renamings may be far apart
    with relay_of(docker, tmp_path / "r", {"name": "backend.ai", "port": 8001}, **queue) as relay, relay.client() as client:
        until(lambda: hosts(relay) == {old})
        client.send(request(b"/cgi-bin/stream"))
        assert client.head_of_answer().status == 200 and client.take_until(b"data: more\n")
        with Load(relay) as load:
            until(lambda: load.seen[200, "backend.ai.1"] > 10)
            new = docker.serve("backend.ai.1.upcoming-77", 8001, *volume)
            docker.docker("rename", "backend.ai.1", "backend.ai.1.1700000000.old")
            docker.docker("rename", "backend.ai.1.upcoming-77", "backend.ai.1")
            until(lambda: hosts(relay) == {new})
            until(lambda: load.seen[200, "backend.ai.1.upcoming-77"] > 10)
        assert endpoints(relay)[f"{old}:8001"]["state"] == "leaving"
        (scripts / "end").touch()
        assert client.take_until(b"data: ended\n"), "the stream on the old container ended by itself"
        assert {status for status, _ in load.seen} == {200} and not load.cut, load.seen


def test_pause_stop_start_health_and_networks(docker: Docker, tmp_path: Path) -> None:
    check = ("--health-cmd", "test -f /tmp/ready", "--health-interval", "1s", "--health-retries", "1")
    with relay_of(docker, tmp_path / "r", {"label": "relayd.upstream=chat"}, limits={"queue": 50}) as relay:
        until(lambda: upstream_of(relay)["discovery"]["note"] == "no running container matches")
        address = docker.serve("one", 8001, "-l", "relayd.upstream=chat", "--expose", "8001", *check)
        until(lambda: "one has not passed its health check yet" in upstream_of(relay)["discovery"]["note"])
        assert hosts(relay) == set()
        docker.docker("exec", "one", "sh", "-c", ": >/tmp/ready")
        until(lambda: hosts(relay) == {address})
        with relay.client() as client:
            assert json.loads(client.ask(request()).body)["name"] == "one"
        docker.docker("pause", "one")
        until(lambda: hosts(relay) == set())
        docker.docker("unpause", "one")
        until(lambda: hosts(relay) == {address})
        docker.docker("network", "create", "blue")
        docker.docker("network", "connect", "blue", "one")
        until(lambda: "is in several networks (blue, bridge)" in upstream_of(relay)["discovery"]["note"])
        docker.docker("network", "disconnect", "bridge", "one")
        until(lambda: hosts(relay) == {docker.address("one", "blue")})
        docker.docker("kill", "one")
        until(lambda: hosts(relay) == set())
        docker.docker("start", "one")
        docker.docker("exec", "one", "sh", "-c", ": >/tmp/ready")
        until(lambda: hosts(relay) == {docker.address("one", "blue")})
        docker.docker("stop", "-t", "0", "one")
        until(lambda: hosts(relay) == set())


def test_a_container_is_reached_by_the_port_that_the_host_publishes(docker: Docker, tmp_path: Path) -> None:
    wanted = {"name": "backend.ai", "port": 8001, "address": "published"}
    address = docker.serve("backend.ai", 8001)
    with relay_of(docker, tmp_path / "r", wanted, limits={"queue": 50}) as relay:

        def answers() -> bool:  # Docker publishes the port before the program in the container listens
            with relay.client() as client:
                name = json.loads(client.ask(request()).body).get("name")
            assert name in ("backend.ai", None)
            return name is not None

        until(lambda: "backend.ai does not publish port 8001" in upstream_of(relay)["discovery"]["note"])
        docker.docker("rm", "-f", "backend.ai")
        assert docker.serve("backend.ai", 8001, "-p", "18001:8001") == address
        until(lambda: hosts(relay) == {"127.0.0.1"})
        until(answers)
        assert set(endpoints(relay)) == {"127.0.0.1:18001"}
        before = endpoints(relay)["127.0.0.1:18001"]["instance"]
        docker.docker("rm", "-f", "backend.ai")
        docker.serve("squatter", 8001)
        assert docker.serve("backend.ai", 8001, "-p", "127.0.0.1:18001:8001") != address
        until(lambda: hosts(relay) == {"127.0.0.1"} and endpoints(relay)["127.0.0.1:18001"]["instance"] != before)
        until(answers)


def test_a_new_container_at_the_old_address_has_a_closed_breaker_and_a_paused_one_keeps_its_own(docker: Docker, tmp_path: Path) -> None:
    breaker = {"breaker": {"failures": 2, "open_for": "10m"}}
    with relay_of(docker, tmp_path / "r", {"name": "backend.ai", "port": 8002}, **breaker) as relay:

        def status() -> int:
            with relay.client() as client:
                return client.ask(request()).status

        address = docker.serve("backend.ai", 8001)  # nothing listens on 8002
        until(lambda: hosts(relay) == {address})
        label = f"{address}:8002"
        while endpoints(relay)[label]["breaker"] != "open":
            assert status() in (502, 503)
        docker.docker("pause", "backend.ai")
        until(lambda: hosts(relay) == set())
        docker.docker("unpause", "backend.ai")
        until(lambda: hosts(relay) == {address})
        assert endpoints(relay)[label]["breaker"] == "open"
        before = endpoints(relay)[label]["instance"]
        docker.docker("rm", "-f", "backend.ai")
        assert docker.serve("backend.ai", 8002) == address, "the new container has got the address of the old one"
        until(lambda: hosts(relay) == {address} and endpoints(relay)[label]["instance"] != before)
        assert endpoints(relay)[label]["breaker"] == "closed"
        assert status() == 200


def test_a_container_that_restarts_for_ever_is_bearable(docker: Docker, tmp_path: Path) -> None:
    with relay_of(docker, tmp_path / "r", {"name": "flapping", "port": 8001}) as relay:
        docker.docker("run", "-d", "--name", "flapping", "--restart", "always", "relayd-test/http", "/bin/sh", "-c", "exit 1")
        address = docker.serve("steady", 8001)
        until(lambda: upstream_of(relay)["discovery"]["age_s"] is not None)
        before, began = relay.cpu_s(), time.monotonic()
        while int(docker.docker("inspect", "-f", "{{.RestartCount}}", "flapping")) < 6:
            with relay.client() as client:
                assert client.ask(request()).status in (502, 503)
        assert relay.cpu_s() - before < 0.5 * (time.monotonic() - began)
        assert relay.output().count(b"endpoints_changed") < 60 and address


@pytest.mark.skipif(shutil.which("haproxy", path="/usr/sbin:/usr/bin") is None, reason="haproxy is not installed")
def test_the_proxy_for_reading_of_the_package_permits_what_relayd_needs_and_nothing_else(docker: Docker, tmp_path: Path) -> None:
    proxied = tmp_path / "read.sock"
    text = (ROOT / "debian/examples/docker-proxy.conf").read_text().replace("/run/docker.sock", docker.socket)
    text = text.replace("/run/haproxy/docker-read.sock user haproxy group relayd mode 660", f"{proxied} mode 660")
    (tmp_path / "haproxy.cfg").write_text(f"global\n    maxconn 100\n{text}")
    process = subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")])
    try:
        address = docker.serve("backend.ai.1", 8001)
        wanted = {"name": "backend.ai", "port": 8001, "engine": f"unix:{proxied}"}
        with relay_of(docker, tmp_path / "r", wanted) as relay:
            until(lambda: hosts(relay) == {address})
            docker.docker("rm", "-f", "backend.ai.1")
            until(lambda: hosts(relay) == set())
        for method, path in (("POST", "/containers/x/stop"), ("GET", "/containers/x/json"), ("POST", "/events"), ("GET", "/images/json")):
            with Client(str(proxied)) as client:
                assert client.ask(request(path.encode(), method=method.encode())).status == 403, (method, path)
    finally:
        process.terminate()
        process.wait()


def test_the_example_for_dokku_routes_to_the_containers_of_the_app(docker: Docker, tmp_path: Path) -> None:
    text = (ROOT / "conf/examples/dokku.yaml").read_text()
    (tmp_path / "app").write_text("key-of-app")
    (tmp_path / "app").chmod(0o640)
    public = tmp_path / "public.sock"
    text = text.replace("/etc/relayd/keys", str(tmp_path)).replace("127.0.0.1:8282", f"unix:{public}")
    text = text.replace("network: bridge}", f'network: bridge, engine: "unix:{docker.socket}"}}')
    relay = Relay(tmp_path / "r", "", before=docker.inside)
    relay.address = str(public)

    def write(change: object = None) -> None:
        relay.file.write_text(f"admin: {{address: 'unix:{relay.admin_path}'}}\n{text}")

    relay.write = write  # type: ignore[method-assign]
    first = docker.serve("backend.ai.1", 8001)
    with relay, relay.client() as client:
        until(lambda: {name.partition(":")[0] for name in endpoints(relay, "ai")} == {first})
        key = b"Authorization: Bearer key-of-app"
        for path, served in ((b"/api/chat", True), (b"/api/chat/stream", True), (b"/api/chats", False), (b"/", False)):
            assert (b'"name":"backend.ai.1"' in client.ask(request(path, key)).body) == served, path
        assert client.ask(request(b"/api/chat")).status == 401
        second = docker.serve("backend.ai.2", 8001)
        until(lambda: {name.partition(":")[0] for name in endpoints(relay, "ai")} == {first, second})


def test_an_engine_that_comes_later_and_one_that_is_gone(docker: Docker, tmp_path: Path) -> None:
    link = tmp_path / "docker.sock"
    address = docker.serve("backend.ai.1", 8001)
    wanted = {"name": "backend.ai", "port": 8001, "engine": f"unix:{link}"}
    with relay_of(docker, tmp_path / "r", wanted) as relay:
        until(lambda: "there is no socket" in upstream_of(relay)["discovery"]["fault"])
        with relay.client() as client:
            assert client.ask(request()).status == 503
        link.symlink_to(docker.socket)
        until(lambda: hosts(relay) == {address})
        with relay.client() as client:
            assert client.ask(request()).status == 200
        assert relay.output().count(b"discovery_failed") == 1 and relay.output().count(b"discovery_recovered") == 1
