"""Clients known by their address, anonymous ones, users with passwords, and addresses that try many keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.faults import get
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream

KEY = b"Authorization: Bearer team-key-0123456789"


def secret(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / name).write_text(text)
    (folder / name).chmod(0o600)
    return {"file": str(folder / name)}


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("proxied", "dual")}


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("addresses")
    change: dict[str, Any] = {
        "listeners": {
            "proxied": {"address": f"127.0.0.1:{ports['proxied']}", "trusted_proxies": ["127.0.0.1"]}, "dual": {"address": f"[::]:{ports['dual']}"},
            "unix": {"address": f"unix:{folder}/client.sock"},
        },
        "consumers": {
            "team": {"key": secret(folder, "team", "team-key-0123456789"), "addresses": ["203.0.113.0/24"]},
            "ann": {"basic": {"user": "ann", "password": secret(folder, "ann", "pass:wörd")}},
            "house": {"addresses": ["10.0.0.0/8"]},
            "office": {"addresses": ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"]},
            "anybody": {"none": True},
        },
        "routes": [
            {"name": "open", "match": {"prefix": "/open"}, "upstream": "up", "allow": ["anybody", "office"]},
            {"name": "house", "match": {"prefix": "/house"}, "upstream": "up", "allow": ["house"]},
            {"name": "web", "match": {"prefix": "/web"}, "upstream": "up", "allow": ["ann"]},
            {"name": "all", "upstream": "up", "allow": ["team", "office", "ann"]},
        ],
        "daemon": {"failed_keys": {"limit": 20, "per": "1h"}},
    }
    with Relay(folder / "relay", module_upstream.url, change) as running:
        yield running


def ask(address: tuple[str, int] | str, path: bytes, *lines: bytes) -> Message:
    with Client(address) as client:
        return client.ask(request(path, *lines))


def consumer(relay: Relay, path: bytes) -> str:
    return str(relay.record(path=path.decode())["consumer"])


def test_a_client_in_a_network_needs_no_key_and_one_with_a_wrong_key_is_refused(relay: Relay, upstream: Upstream) -> None:
    assert get(relay, b"/plain").status == 200 and consumer(relay, b"/plain") == "office"
    assert get(relay, b"/placeholder", b"Authorization: Bearer none").status == 200
    assert get(relay, b"/wrong", b"Authorization: Bearer wrong").status == 401
    assert get(relay, b"/right", KEY).status == 200 and consumer(relay, b"/right") == "team"


@pytest.mark.parametrize(("forwarded", "status", "name"), [
    ("10.1.2.3", 200, "office"), ("::ffff:10.1.2.3", 200, "office"), ("2001:db8::7", 200, "office"), ("203.0.113.9", 200, "team"), ("198.51.100.1", 401, ""),
    ("10.1.2.3, 198.51.100.1", 401, ""), ("198.51.100.1, 10.1.2.3", 200, "office"),
    ("unknown", 200, "office"),  # the proxy itself, at 127.0.0.1
])
def test_behind_a_trusted_proxy_the_address_of_the_client_counts(forwarded: str, status: int, name: str, relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    path = f"/f-{abs(hash(forwarded))}".encode()
    assert ask(("127.0.0.1", ports["proxied"]), path, b"X-Forwarded-For: " + forwarded.encode()).status == status
    assert consumer(relay, path) == name


def test_of_several_consumers_in_one_network_the_one_counts_that_the_route_allows(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    there, client = ("127.0.0.1", ports["proxied"]), b"X-Forwarded-For: 10.9.9.9"
    assert ask(there, b"/house/a", client).status == 200 and consumer(relay, b"/house/a") == "house"
    assert ask(there, b"/office/a", client).status == 200 and consumer(relay, b"/office/a") == "office"
    assert ask(there, b"/web", client).status == 401, "a key is missing"
    assert ask(there, b"/house/b", KEY).status == 403


def test_a_client_cannot_claim_an_address(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    assert ask(("::1", ports["dual"]), b"/claimed", b"X-Forwarded-For: 10.1.2.3", b"Forwarded: for=10.1.2.3", b"X-Real-IP: 10.1.2.3").status == 401


def test_an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    assert ask(("127.0.0.1", ports["dual"]), b"/mapped").status == 200 and consumer(relay, b"/mapped") == "office"


def test_an_anonymous_client_is_a_consumer_where_it_is_allowed(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    there = ("::1", ports["dual"])
    assert ask(there, b"/open/a").status == 200 and consumer(relay, b"/open/a") == "anybody"
    assert ask(there, b"/open/b", b"X-Api-Key: wrong").status == 401
    assert ask(there, b"/shut").status == 401
    assert get(relay, b"/open/office").status == 200 and consumer(relay, b"/open/office") == "office"


def test_a_user_with_a_password_is_asked_for_it_where_one_is_allowed(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    def line(text: str) -> bytes:
        return b"Authorization: Basic " + base64.b64encode(text.encode())

    there = ("::1", ports["dual"])
    asked = ask(there, b"/web", b"X-Api-Key: wrong")
    assert asked.status == 401 and asked.get_all("www-authenticate") == [b"Bearer", b'Basic realm="relayd", charset="UTF-8"']
    assert ask(there, b"/web/in", line("ann:pass:wörd")).status == 200 and consumer(relay, b"/web/in") == "ann"
    assert upstream.heads[-1].get("authorization") is None
    for wrong in ("ann:pass", "ann:", ":pass:wörd", "ann", "bob:pass:wörd", "ANN:pass:wörd"):
        assert ask(there, b"/web/in", line(wrong)).status == 401
    assert ask(there, b"/web/in", b"Authorization: Basic !!!").status == 401
    assert "pass:wörd".encode() not in relay.output() and base64.b64encode("ann:pass:wörd".encode()) not in relay.output()


def test_an_address_with_many_wrong_keys_is_refused_and_a_right_key_from_another_is_served(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    """10,000 wrong keys cost the attacker's address its access, and nobody else anything."""
    statuses: dict[int, int] = {}
    with Client(("127.0.0.1", ports["proxied"])) as client:
        for number in range(10_000):
            answer = client.ask(request(b"/guess", b"X-Forwarded-For: 198.51.100.77", b"Authorization: Bearer guess-%d" % number))
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            if answer.get("connection") == b"close" or number % 900 == 899:
                client.close()
                client = Client(("127.0.0.1", ports["proxied"])).__enter__()
            if number % 1000 == 999:
                other = ask(("127.0.0.1", ports["proxied"]), b"/other", b"X-Forwarded-For: 198.51.100.78", KEY)
                assert other.status == 200
        client.close()
    assert statuses == {401: 20, 429: 9980}
    assert not [head for head in upstream.heads if head.target == b"/guess"]
    refused = ask(("127.0.0.1", ports["proxied"]), b"/", b"X-Forwarded-For: 198.51.100.77", KEY)
    assert refused.status == 429 and 0 < int(refused.get("retry-after") or b"0") <= 3600, "a right key from there is not told apart"
    assert ask(("127.0.0.1", ports["proxied"]), b"/", b"X-Forwarded-For: 198.51.100.77").status == 401, "without a key nothing was tried"
    assert relay.record(code="too_many_failed_keys", client="198.51.100.77")
    output = relay.output()
    assert b"keys_limited" in output and b"guess-" not in output
    assert b"relayd_access_failed_keys_total" in relay.admin("/metrics")[1]


def test_a_misconfigured_client_locks_out_only_its_own_key(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    nat = b"X-Forwarded-For: 198.51.100.80"
    statuses = [ask(("127.0.0.1", ports["proxied"]), b"/", nat, b"Authorization: Bearer old-key").status for _ in range(30)]
    assert statuses == [401] * 20 + [429] * 10
    assert ask(("127.0.0.1", ports["proxied"]), b"/", nat, KEY).status == 200


def test_a_unix_socket_and_a_proxy_that_names_nobody_have_no_limit(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    for address in (("127.0.0.1", ports["proxied"]), str(relay.folder.parent / "client.sock")):
        for number in range(40):
            assert ask(address, b"/", b"Authorization: Bearer many-%d" % number).status == 401
        assert ask(address, b"/", KEY).status == 200


def test_a_reload_changes_the_limit(relay: Relay, upstream: Upstream, ports: dict[str, int]) -> None:
    relay.write({"daemon": {"failed_keys": 0}})
    assert relay.admin("/reload", "POST")[0] == 200
    assert ask(("127.0.0.1", ports["proxied"]), b"/", b"X-Forwarded-For: 198.51.100.77", KEY).status == 200
