"""relayd without a free file descriptor: the fault is its own, no endpoint is blamed, and it recovers by itself."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_listeners import make_certificate

UPGRADE = (b"Connection: Upgrade", b"Upgrade: echo")
KINDS = ("http", "https", "unix", "name")
SENSITIVE = {"breaker": {"failures": 1, "open_for": "600s"}, "retries": {"attempts": 3, "on": ["connect", "closed"], "backoff": "1ms"}}


@contextlib.contextmanager
def without_descriptors(relay: Relay, free: int = 0) -> Iterator[None]:
    """The process can open exactly `free` more descriptors."""
    before = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{relay.pid}/fd")}
    unused = [number for number in range(len(used) + free + 1) if number not in used]
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (unused[free], before[1]))
    try:
        yield
    finally:
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, before)


def switching(peer: Peer, message: Message) -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    peer.send(upgrade if message.get("upgrade") else answer(b"hello", b"Connection: close"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("certs"), "up.test")


@contextlib.contextmanager
def relay_with(folder: Path, certificate: tuple[str, str], change: dict[str, Any]) -> Iterator[Relay]:
    """A relayd with a route /KIND/ for each kind of endpoint, none of which it has a connection to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Upstream() as http, Upstream(tls=context) as https, Upstream(unix=str(folder / "up.sock")) as unix:
        http.script = https.script = unix.script = switching
        urls = {"http": http.url, "https": https.url, "unix": unix.url, "name": f"http://localhost:{http.port}"}
        tls = {"https": {"tls": {"ca": certificate[0]}}}
        upstreams = {kind: {"endpoints": [url]} | tls.get(kind, {}) | change for kind, url in urls.items()}
        routes = [{"name": kind, "match": {"prefix": f"/{kind}/"}, "upstream": kind, "upgrade": True} for kind in KINDS]
        routes.append({"name": "admin", "upstream": "admin"})  # the admin socket closes its connections
        listeners = {"public": {"limits": {"requests": 0}}}
        with Relay(folder / "r", http.url, {"listeners": listeners, "upstreams": {"up": None, **upstreams}, "routes": routes}) as relay:
            yield relay


def ask(client: Client, kind: str, upgrade: bool) -> tuple[int, str]:
    message = client.ask(request(f"/{kind}/x".encode(), *(UPGRADE if upgrade else ())))
    return message.status, json.loads(message.body)["code"] if message.status >= 400 else ""


@pytest.mark.parametrize("free", range(6))
def test_a_connection_that_lacks_a_descriptor_is_relayds_fault_and_opens_no_breaker(
    tmp_path: Path, certificate: tuple[str, str], free: int
) -> None:
    """With one free descriptor an endpoint has its socket, but TLS lacks the file of its authorities, and a name the files
    of the resolver: every step of a new connection may be the one that finds none."""
    with relay_with(tmp_path, certificate, SENSITIVE) as relay, contextlib.ExitStack() as stack:
        clients = {(kind, upgrade): stack.enter_context(relay.client()) for kind in KINDS for upgrade in (False, True)}
        for client in clients.values():
            assert client.ask(request(b"/health")).status == 200  # so that relayd has accepted it
        answers = {}
        for (kind, upgrade), client in clients.items():
            with without_descriptors(relay, free):
                answers[kind, upgrade] = ask(client, kind, upgrade)
        allowed = {(503, "out_of_resources")} | ({(200, ""), (101, "")} if free else set())
        assert set(answers.values()) <= allowed, answers
        if free < 2:
            assert answers["https", False] == (503, "out_of_resources")
        for upstream in relay.status()["upstreams"]:
            for endpoint in upstream["endpoints"]:
                assert endpoint["breaker"] == "closed", endpoint
        for kind, upgrade in clients:
            with relay.client() as client:
                assert ask(client, kind, upgrade)[0] in (200, 101)
        failed = [record for record in relay.records() if record.get("code") == "out_of_resources"]
        assert all(record["attempts"] == 1 for record in failed)


@pytest.mark.parametrize("health", [{"path": "/health"}, {"kind": "tcp"}])
def test_a_health_check_that_lacks_a_descriptor_says_nothing_about_the_endpoint(
    tmp_path: Path, certificate: tuple[str, str], health: dict[str, str]
) -> None:
    check = {"interval": "100ms", "timeout": "60s", "unhealthy": 1, **health}
    with relay_with(tmp_path, certificate, {"health": check}) as relay, relay.client() as admin:

        def reading() -> tuple[float, set[str]]:
            body = json.loads(admin.ask(request(b"/status")).body)
            found = {endpoint["health"] for upstream in body["upstreams"] for endpoint in upstream["endpoints"]}
            return float(body["uptime_s"]), found

        while reading()[1] != {"passing"}:
            pass
        with without_descriptors(relay):
            began_s = reading()[0]
            while (now := reading())[0] < began_s + 1:  # some ten checks of each endpoint
                assert now[1] == {"passing"}
