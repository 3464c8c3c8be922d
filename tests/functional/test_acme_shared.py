"""Certificates of two machines that share a Redis: real relayds with a state of their own each, and a real directory whose
validation reaches either of them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.aids.pebble import Pebble, needs_pebble
from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.redis import Redis, missing
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.test_acme import OK, WAIT_S, certificate, is_obtained, until

pytest.importorskip("acme", reason="needs python3-acme")
pytestmark = [needs_pebble(), pytest.mark.skipif(bool(missing()), reason=missing())]


class Alternating:
    """A balancer: each connection to its port goes to the next machine, whose ports are `targets`; a context manager."""

    def __init__(self, port: int, targets: list[int]) -> None:
        self.targets, self.served = targets, [0] * len(targets)
        self._sock = socket.create_server(("127.0.0.1", port))
        self._turn = 0
        self.may_serve, self.is_asked = threading.Event(), threading.Event()
        self.may_serve.set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.is_asked.set()
        self.may_serve.wait(60)
        first = self._turn = self._turn + 1  # connections are served side by side
        for place in range(first, first + len(self.targets)):
            place %= len(self.targets)
            try:
                server = socket.create_connection(("127.0.0.1", self.targets[place]), timeout=30)
            except OSError:
                continue  # a machine that is down gets no connection
            self.served[place] += 1
            other = threading.Thread(target=_copy, args=(server, client), daemon=True)
            other.start()
            _copy(client, server)
            other.join()
            server.close()
            break
        client.close()

    def __enter__(self) -> Alternating:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(60)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Machines:
    """Two relayds behind balancers at the ports at which `pebble` validates."""

    def __init__(self, folder: Path, pebble: Pebble, redis: Redis, *domains: str, count: int = 2, **acme: Any) -> None:
        self.folder, self.pebble, self.redis = folder, pebble, redis
        (key := folder / "sharing.key").write_text(secrets.token_urlsafe(32))
        key.chmod(0o600)
        self.plain, self.tls = [free_port() for _ in range(count)], [free_port() for _ in range(count)]
        self.acme = pebble.section(*domains, **{"sharing_key": {"file": str(key)}, **acme})
        self.relays = [self.relay(number) for number in range(count)]
        self.balancers = [Alternating(pebble.http_port, self.plain), Alternating(pebble.tls_port, self.tls)]

    def relay(self, number: int, store: dict[str, Any] | None = None, **acme: Any) -> Relay:
        listeners = {
            "public": {"address": f"127.0.0.1:{self.plain[number]}"},
            "tls": {"address": f"127.0.0.1:{self.tls[number]}", "tls": {"acme": self.acme | acme}},
        }
        where = {"kind": "redis", "url": self.redis.url, "timeout": "5s", **(store or {})}
        folder = self.folder / f"machine-{number}"
        (folder / "state").mkdir(parents=True, exist_ok=True)
        environment = {"STATE_DIRECTORY": str(folder / "state")}
        one = Relay(folder, "http://127.0.0.1:1", {**OK, "listeners": listeners, "store": where}, environment=environment)
        one.address = ("127.0.0.1", self.plain[number])
        return one

    def presented(self, number: int, name: str) -> dict[str, Any]:
        """The certificate that a machine presents for a name, verified; empty if the handshake fails."""
        context = ssl.create_default_context(cafile=str(self.pebble.roots()))
        try:
            with Client(("127.0.0.1", self.tls[number]), tls=context, server_name=name) as client:
                assert isinstance(client.sock, ssl.SSLSocket)
                return dict(client.sock.getpeercert() or {})
        except (ssl.SSLError, ConnectionError):
            return {}

    def all_present(self, name: str) -> str:
        """The serial number of the certificate that all machines present; empty if they do not."""
        serials = {str(self.presented(number, name).get("serialNumber", "")) for number in range(len(self.relays))}
        return serials.pop() if len(serials) == 1 else ""

    @contextlib.contextmanager
    def serving(self, name: str) -> Iterator[None]:
        """All machines serve and know of each other; then the certificate is due on all of them at the same moment."""
        for one in self.relays:
            self.note(one, name, time.time() + 3600)
        with contextlib.ExitStack() as stack:
            for one in self.relays:
                stack.enter_context(one)
            until(self.are_members)
            for one in self.relays:
                self.note(one, name, 0.0)
                one.write({"daemon": {"drain_timeout": "3s"}})
            reloads = [threading.Thread(target=one.admin, args=("/reload", "POST")) for one in self.relays]
            for thread in reloads:
                thread.start()
            for thread in reloads:
                thread.join()
            yield

    @staticmethod
    def note(one: Relay, name: str, next_try: float) -> None:
        folder = one.folder / "state/acme/certificates"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({"next_try": next_try}))

    def are_members(self) -> bool:
        members = self.redis.keys("*:acme:*:members")
        return bool(members) and len(self.redis.ask("HKEYS", members[0])) == len(self.relays)

    def close(self) -> None:
        for one in self.balancers:
            one.__exit__()


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with Pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.mark.parametrize("kind", ["http-01", "tls-alpn-01"])
def test_one_machine_orders_and_both_serve_the_certificate(folder: Path, pebble: Pebble, redis: Redis, kind: str) -> None:
    name, orders = f"{kind.partition('-')[0]}.example.org", pebble.orders()
    machines = Machines(folder, pebble, redis, name, challenges=[kind])
    try:
        with machines.serving(name):
            until(lambda: machines.all_present(name))
            assert pebble.orders() == orders + 1
            served = machines.balancers[kind == "tls-alpn-01"].served
            assert all(served), f"the authority validated from several places, which reached both: {served}"
    finally:
        machines.close()


def accounts(machines: Machines) -> set[str]:
    """The accounts of all machines at the directory."""
    files = [file for one in machines.relays for file in (one.folder / "state/acme/accounts").glob("*.json")]
    return {json.loads(file.read_text())["uri"] for file in files}


def test_the_machine_that_is_asked_renews_and_both_serve_the_new_certificate(folder: Path, pebble: Pebble, redis: Redis) -> None:
    name, orders = "renewed.example.org", pebble.orders()
    machines = Machines(folder, pebble, redis, name, challenges=["http-01"])
    try:
        with machines.serving(name):
            first = until(lambda: machines.all_present(name))
            owner = 0 if not certificate(machines.relays[0], name)["origin"] else 1
            other = machines.relays[1 - owner]
            assert other.admin(f"/certs/{name}/renew", "POST")[0] == 200
            second = until(lambda: (serial := machines.all_present(name)) != first and serial)
            assert pebble.orders() == orders + 2 and second
            assert len(accounts(machines)) == 1, "the machine that renews uses the account of the one that has ordered"
            until(lambda: not certificate(other, name)["origin"] and certificate(machines.relays[owner], name)["origin"])
            shown = subprocess.run([sys.executable, "-m", "relayd", "certs", "list", "--socket", machines.relays[owner].admin_path],
                                   capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout
            assert platform.node() in shown and "ORDERED BY" in shown
            both = [certificate(one, name) for one in machines.relays]
            assert both[0]["renew_at"] == both[1]["renew_at"] and both[0]["warning"] == both[1]["warning"] == ""
        stored = b"".join(redis.ask("HVALS", redis.keys("*:texts")[0]))
        assert b"PRIVATE KEY" not in stored and b"CERTIFICATE" not in stored
    finally:
        machines.close()


def test_another_machine_orders_after_the_one_that_orders_was_killed(folder: Path, pebble: Pebble, redis: Redis) -> None:
    name = "killed.example.org"
    machines = Machines(folder, pebble, redis, name, challenges=["http-01"])
    balancer = machines.balancers[0]
    balancer.may_serve.clear()
    try:
        with machines.serving(name):
            until(balancer.is_asked.is_set)
            holder = redis.ask("HGET", state_key(redis), "holder")
            first, second = machines.relays
            assert all(list((one.folder / "state/acme/challenges/http-01").iterdir()) for one in (first, second))
            dead, left = (first, second) if is_ordering(first) else (second, first)
            os.kill(dead.pid, signal.SIGKILL)
            assert dead.process is not None
            dead.process.wait()
            balancer.may_serve.set()
            assert left.admin(f"/certs/{name}/renew", "POST")[0] == 200  # it does not wait for the pause after a failed attempt
            until(lambda: is_obtained(left, name), 3 * WAIT_S)
            assert redis.ask("HGET", state_key(redis), "holder") != holder
            dead.process = None
            dead.start()
            until(partial(is_obtained, dead, name))
            until(lambda: machines.all_present(name))
            assert certificate(dead, name)["origin"] and not certificate(dead, name)["warning"]
    finally:
        machines.close()


def state_key(redis: Redis) -> str:
    return redis.keys("*:acme:*:state")[0]


def has_logged(one: Relay, text: bytes) -> bool:
    return text in one.output()


def is_ordering(one: Relay) -> bool:
    return any((one.folder / "state/acme/accounts").glob("*"))


def test_without_redis_machines_serve_and_restart_with_what_they_have(folder: Path, pebble: Pebble, redis: Redis) -> None:
    name = "away.example.org"
    machines = Machines(folder, pebble, redis, name, challenges=["http-01"])
    try:
        with machines.serving(name):
            serial = until(lambda: machines.all_present(name))
            redis.kill()
            orders = pebble.orders()
            assert machines.all_present(name) == serial
        with machines.relays[0] as first, machines.relays[1]:
            assert machines.all_present(name) == serial, "from the own state"
            redis.start()
            until(lambda: redis.keys("*:acme:*:texts") and machines.are_members())  # Redis had lost everything
            assert pebble.orders() == orders
            assert first.admin(f"/certs/{name}/renew", "POST")[0] == 200
            until(lambda: machines.all_present(name) not in ("", serial))
            assert pebble.orders() == orders + 1
    finally:
        machines.close()


def test_a_machine_with_another_key_is_reported_by_both_and_orders_for_itself(folder: Path, pebble: Pebble, redis: Redis) -> None:
    name, orders = "keys.example.org", pebble.orders()
    machines = Machines(folder, pebble, redis, name, challenges=["http-01"])
    (key := folder / "other.key").write_text(secrets.token_urlsafe(32))
    key.chmod(0o600)
    machines.relays[1] = machines.relay(1, sharing_key={"file": str(key)})
    try:
        machines.balancers[0].targets = [machines.plain[0]]
        with machines.relays[0] as first:
            until(lambda: is_obtained(first, name))
            machines.balancers[0].targets = [machines.plain[1]]
            with machines.relays[1] as second:
                until(lambda: is_obtained(second, name))
                assert pebble.orders() == orders + 2 and not certificate(second, name)["origin"]
                for one in (first, second):
                    until(partial(has_logged, one, b"certificates_not_shared_with_all"))
                    assert has_logged(one, b"another sharing_key")
                assert machines.presented(0, name)["serialNumber"] != machines.presented(1, name)["serialNumber"]
    finally:
        machines.close()


def test_machines_with_another_prefix_share_nothing(folder: Path, pebble: Pebble, redis: Redis) -> None:
    name, orders = "prefixes.example.org", pebble.orders()
    machines = Machines(folder, pebble, redis, name, challenges=["http-01"])
    machines.relays[1] = machines.relay(1, {"prefix": "other"})
    try:
        for number, one in enumerate(machines.relays):
            machines.balancers[0].targets = [machines.plain[number]]
            with one:
                until(partial(is_obtained, one, name))
                assert b"certificates_not_shared_with_all" not in one.output()
        assert pebble.orders() == orders + 2 and len(accounts(machines)) == 2
    finally:
        machines.close()
