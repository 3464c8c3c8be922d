"""An upstream whose name moves: kept connections follow it, and what is under way finishes where it began."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.names import namespaces_work
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

pytestmark = pytest.mark.skipif(not namespaces_work(), reason="this machine gives no mount namespaces: names cannot move here")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def naming(peer: Peer, message: Message) -> None:
    peer.whole(message)
    peer.send(answer(peer.upstream.host.encode()))


@pytest.fixture
def old() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.script = naming
        yield upstream


@pytest.fixture
def new(old: Upstream) -> Iterator[Upstream]:
    """On another address, at the same port."""
    with Upstream(host="127.0.0.2", port=old.port) as upstream:
        upstream.script = naming
        yield upstream


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    file = tmp_path / "hosts"
    names(file, "127.0.0.1")
    return file


def names(file: Path, *addresses: str) -> None:
    """What moving.test means from now on; the file stays the same one, because it is bound over /etc/hosts."""
    file.write_text("".join(["127.0.0.1 localhost\n", *(f"{address} moving.test\n" for address in addresses)]))


def relay_to(tmp_path: Path, hosts: Path, port: int, **more: Any) -> Relay:
    return Relay(tmp_path / "r", f"http://moving.test:{port}", {"upstreams": {"up": {"pool": {"dns_ttl": "1s"}, **more}}}, hosts=hosts)


def asked(relay: Relay) -> bytes:
    with relay.client() as client:
        return client.ask(request()).body


def test_a_kept_connection_follows_its_name_and_a_stream_finishes_on_the_old_address(tmp_path: Path, hosts: Path, old: Upstream, new: Upstream) -> None:
    go = threading.Event()

    def streaming(peer: Peer, message: Message) -> None:
        peer.send(HEAD + chunk(b"data: one\n\n"))
        assert go.wait(60)
        peer.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    with relay_to(tmp_path, hosts, old.port) as relay, relay.client() as client:
        for _ in range(3):
            assert asked(relay) == b"127.0.0.1"
        old.script = streaming
        client.send(request(b"/stream"))
        head = client.head()
        assert head.status == 200
        old.script = naming
        assert asked(relay) == b"127.0.0.1"  # a second connection, which is idle when the name moves
        names(hosts, "127.0.0.2")
        until(lambda: asked(relay) == b"127.0.0.2", what="a request at the new address")
        for _ in range(3):
            assert asked(relay) == b"127.0.0.2"
        assert new.connections == 1
        go.set()
        client.body(head, until_close=False)
        assert head.body == b"data: one\n\ndata: two\n\n" and head.complete
        until(lambda: all(peer.ended(1) for peer in old.peers), what="the end of the connections to the old address")


def test_an_address_that_is_added_ends_no_connection(tmp_path: Path, hosts: Path, old: Upstream, new: Upstream) -> None:
    with relay_to(tmp_path, hosts, old.port) as relay:
        until(lambda: relay.status()["upstreams"][0]["endpoints"][0].get("addresses"))
        assert asked(relay) == b"127.0.0.1"
        names(hosts, "127.0.0.1", "127.0.0.2")
        until(lambda: len(relay.status()["upstreams"][0]["endpoints"][0]["addresses"]) == 2)
        assert asked(relay) == b"127.0.0.1" and old.connections == 1


def test_a_name_that_is_gone_leaves_connections_as_they_are(tmp_path: Path, hosts: Path, old: Upstream) -> None:
    with relay_to(tmp_path, hosts, old.port) as relay:
        until(lambda: relay.status()["upstreams"][0]["endpoints"][0].get("addresses"))
        assert asked(relay) == b"127.0.0.1"
        names(hosts)
        told = until(lambda: next((end for end in relay.status()["upstreams"][0]["endpoints"] if end["lookup_fault"]), None))
        assert told["addresses"] == ["127.0.0.1"] and asked(relay) == b"127.0.0.1" and old.connections == 1
        assert b"moving.test cannot be resolved, and stays at 127.0.0.1" in relay.output()


def test_health_checks_follow_the_name_too(tmp_path: Path, hosts: Path, old: Upstream, new: Upstream) -> None:
    with relay_to(tmp_path, hosts, old.port, health={"interval": "200ms", "path": "/health"}):
        until(lambda: old.heads, what="a check of the old address")
        names(hosts, "127.0.0.2")
        until(lambda: new.heads, what="a check of the new address")
        until(lambda: all(peer.ended(1) for peer in old.peers), what="the end of the connections to the old address")


def test_status_shows_the_addresses_and_since_when(tmp_path: Path, hosts: Path, old: Upstream, new: Upstream) -> None:
    with relay_to(tmp_path, hosts, old.port) as relay:
        for address in ("127.0.0.1", "127.0.0.2"):
            names(hosts, address)
            end = until(lambda address=address: next((one for one in relay.status()["upstreams"][0]["endpoints"] if one.get("addresses") == [address]), None))  # type: ignore[misc]
            assert end["endpoint"] == f"moving.test:{old.port}" and end["addresses_age_s"] >= 0
        whole = json.loads(relay.admin("/upstreams")[1])["upstreams"][0]["endpoints"][0]
        assert whole["addresses"] == ["127.0.0.2"] and whole["addresses_age_s"] >= 0 and whole["lookup_fault"] == ""
        until(lambda: b"moving.test resolves to 127.0.0.2, no longer to 127.0.0.1" in relay.output())
