"""Mutual TLS: clients that are known by their certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.certificates import Pair, made
from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Closed, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream


class House:
    """A relayd with a listener that asks for certificates and one that requires them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.clients = made(folder, "clients", authority=True)
        self.strangers = made(folder, "strangers", authority=True)
        self.server = made(folder, "server", "server.test", "other.test", authority=True)
        second = made(folder, "second", "second.test", authority=True)
        self.pairs = {
            "worker": made(folder, "worker", "one.workers.test", issuer=self.clients), "other": made(folder, "other", "elsewhere.test", issuer=self.clients),
            "expired": made(folder, "expired", "one.workers.test", begins_d=-9, ends_d=-1, issuer=self.clients),
            "early": made(folder, "early", "one.workers.test", begins_d=1, issuer=self.clients),
            "foreign": made(folder, "foreign", "one.workers.test", issuer=self.strangers), "own": made(folder, "own", "one.workers.test"),
        }  # fmt: skip
        (folder / "team").write_text("team-key-0123456789")
        (folder / "team").chmod(0o600)
        self.ports = {"asks": free_port(), "requires": free_port()}
        certificates = [{"cert": one.cert, "key": one.key} for one in (self.server, second)]
        tls: dict[str, Any] = {"certificates": certificates, "client_ca": self.clients.cert}
        change = {
            "listeners": {
                "asks": {"address": f"127.0.0.1:{self.ports['asks']}", "tls": tls},
                "requires": {"address": f"127.0.0.1:{self.ports['requires']}", "tls": {**tls, "client_certificate": "required"}},
            },
            "consumers": {
                "team": {"key": {"file": str(folder / "team")}},
                "workers": {"mtls": {"san": ["DNS:*.workers.test"]}},
                "machine": {"mtls": {"subject": ["CN=other"]}},
            },
            "routes": [
                {"name": "machines", "match": {"prefix": "/machines"}, "upstream": "up", "allow": ["machine"]},
                {"name": "all", "upstream": "up", "allow": ["team", "workers", "machine"]},
            ],
        }
        self.relay = Relay(folder / "relay", url, change)

    def ask(self, listener: str, name: str | None, path: bytes, *lines: bytes, server: str = "server.test", version: Any = ssl.TLSVersion.TLSv1_3) -> int:
        """The status; 0 if the handshake or the connection failed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(self.server.cert)
        context.load_verify_locations(str(self.folder / "second.pem"))
        if name is not None:
            pair: Pair = self.pairs[name]
            context.load_cert_chain(pair.cert, pair.key)
        try:
            with Client(("127.0.0.1", self.ports[listener]), tls=context, server_name=server) as client:
                return client.ask(request(path, *lines)).status
        except (OSError, Closed):
            return 0


@pytest.fixture(scope="module")
def house(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    found = House(tmp_path_factory.mktemp("mtls"), module_upstream.url)
    with found.relay:
        yield found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("server", ["server.test", "second.test"])
def test_a_certificate_of_the_authority_names_its_consumer(server: str, version: Any, house: House, upstream: Upstream) -> None:
    path = f"/{server}-{version}".encode()
    assert house.ask("asks", "worker", path, server=server, version=version) == 200
    assert house.relay.record(path=path.decode())["consumer"] == "workers"
    assert house.ask("asks", "other", b"/machines", server=server, version=version) == 200
    assert house.ask("asks", "worker", b"/machines", server=server, version=version) == 403


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["expired", "early", "foreign", "own"])
def test_a_certificate_that_is_not_valid_ends_the_handshake_also_with_a_key(name: str, version: Any, house: House, upstream: Upstream) -> None:
    key = b"Authorization: Bearer team-key-0123456789"
    assert house.ask("asks", name, b"/", key, version=version) == 0
    assert not upstream.heads
    until(lambda: b"handshake_failed" in house.relay.output())


def test_without_a_certificate_a_key_is_needed_and_enough(house: House, upstream: Upstream) -> None:
    assert house.ask("asks", None, b"/") == 401
    assert house.ask("asks", None, b"/", b"Authorization: Bearer team-key-0123456789") == 200
    assert house.ask("requires", None, b"/", b"Authorization: Bearer team-key-0123456789") == 0
    assert house.ask("requires", "worker", b"/") == 200


def test_a_key_comes_before_the_certificate_and_a_wrong_key_does_not_take_it_away(house: House, upstream: Upstream) -> None:
    assert house.ask("asks", "worker", b"/key-first", b"X-Api-Key: team-key-0123456789") == 200
    assert house.relay.record(path="/key-first")["consumer"] == "team"
    assert house.ask("asks", "worker", b"/key-wrong", b"X-Api-Key: wrong") == 200
    assert house.relay.record(path="/key-wrong")["consumer"] == "workers"


def test_a_plain_listener_knows_no_certificate(house: House, upstream: Upstream) -> None:
    with house.relay.client() as client:
        assert client.ask(request(b"/")).status == 401


def test_authorities_that_change_are_in_force_within_seconds(house: House, upstream: Upstream) -> None:
    file = Path(house.clients.cert)
    before = file.read_bytes()
    file.write_bytes(before + Path(house.strangers.cert).read_bytes())
    until(lambda: house.ask("asks", "foreign", b"/") == 200)
    file.write_bytes(before)
    until(lambda: house.ask("asks", "foreign", b"/") == 0)
    assert house.ask("asks", "worker", b"/") == 200
