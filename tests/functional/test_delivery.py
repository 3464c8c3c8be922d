"""Kept connections to the upstream: a POST is delivered at most once, and nobody notices a connection that has ended."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, hello, saying_then_close


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    aged = {"endpoints": [url], "pool": {"max_idle_age": "1s"}}
    return {
        "upstreams": {"aged": aged},
        "routes": [{"name": "aged", "match": {"prefix": "/aged"}, "upstream": "aged"}, {"name": "all", "upstream": "up"}],
    }


def warm(client: Client, upstream: Upstream) -> None:
    """Ask until a kept connection is used; after the end of one relayd makes new ones for a while."""
    def kept() -> bool:
        before = upstream.connections
        assert client.ask(request(b"/warm")).status == 200
        return upstream.connections == before

    client.ask(request(b"/warm"))
    until(kept)


def nothing_follows(relay: Relay, upstream: Upstream) -> None:
    """Nothing is under way any more, and what is asked now arrives: whatever was to come before has come."""
    relay.wait_quiet()
    upstream.script = hello
    with relay.client() as client:
        assert client.ask(request(b"/last")).status == 200


def test_a_post_is_delivered_once_when_the_kept_connection_dies_under_it(relay: Relay, upstream: Upstream) -> None:
    for reset in (False, True):
        with relay.client() as client:
            warm(client, upstream)

            def script(peer: Peer, message: Message) -> None:
                peer.whole(message)
                if reset:  # noqa: B023 - used in this turn only
                    peer.reset()
                peer.close()

            upstream.script = script
            message = client.ask(request(b"/once", method=b"POST", body=b"{}"))
            assert message.status == 502
            upstream.script = hello
    nothing_follows(relay, upstream)
    assert len([head for head in upstream.heads if head.target == b"/once"]) == 2


def test_a_post_on_a_fresh_connection_that_dies_is_delivered_once(relay: Relay, upstream: Upstream) -> None:
    upstream.drop_idle()
    upstream.script = saying_then_close(b"")
    with relay.client() as client:
        assert client.ask(request(b"/fresh", method=b"POST", body=b"{}")).status == 502
    nothing_follows(relay, upstream)
    assert [head.target for head in upstream.heads] == [b"/fresh", b"/last"]


def test_a_get_survives_the_end_of_a_kept_connection(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        warm(client, upstream)
        died = threading.Event()

        def script(peer: Peer, message: Message) -> None:
            if not died.is_set():
                died.set()
                peer.close()
                return
            peer.send(answer(b"second"))

        upstream.script = script
        message = client.ask(request(b"/again"))
        assert died.is_set() and message.status == 200 and message.body == b"second"


def test_a_post_right_after_the_upstream_closed_an_idle_connection_succeeds(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        for _ in range(10):
            assert client.ask(request(b"/warm", method=b"POST", body=b"{}")).status == 200
            upstream.drop_idle()
            assert client.ask(request(b"/next", method=b"POST", body=b"{}")).status == 200
    assert len([head for head in upstream.heads if head.target == b"/next"]) == 10


def test_a_post_right_after_an_upstream_reset_its_idle_connection_succeeds(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        for _ in range(5):
            assert client.ask(request(b"/warm")).status == 200
            upstream.drop_idle(reset=True)
            assert client.ask(request(b"/next", method=b"POST", body=b"{}")).status == 200


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_nobody_notices_that_the_upstream_closed_thirty_idle_connections(
    method: bytes, reset: bool, relay: Relay, upstream: Upstream
) -> None:
    together = threading.Barrier(30)

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        together.wait(60)
        peer.send(answer())

    upstream.script = script
    clients = [relay.client() for _ in range(30)]
    try:
        for client in clients:
            client.send(request(b"/warm"))
        assert [client.answer().status for client in clients] == [200] * 30
    finally:
        for client in clients:
            client.close()
    upstream.drop_idle(reset=reset)
    upstream.script = hello
    with relay.client() as client:
        for _ in range(10):
            assert client.ask(request(b"/next", method=method, body=b"{}" if method == b"POST" else None)).status == 200


def test_connections_made_beside_a_dead_one_do_not_pile_up(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/warm"))
        upstream.drop_idle()
        for _ in range(40):
            assert client.ask(request(b"/next", method=b"POST", body=b"{}")).status == 200
        until(lambda: len(upstream.peers) <= 3)


def test_a_connection_that_was_idle_too_long_is_not_used_again(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/aged/warm"))
        before = upstream.connections
        time.sleep(2.1)  # libcurl counts whole seconds, and nothing tells that they are over
        assert client.ask(request(b"/aged/later")).status == 200
    assert upstream.connections == before + 1


def test_an_upload_that_the_upstream_cuts_is_delivered_once(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.read_some()
        peer.reset()

    upstream.script = script
    with relay.client() as client:
        try:
            client.send(b"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        except OSError:
            pass
        message = client.answer_or_none()
        assert message is None or message.status == 502
    nothing_follows(relay, upstream)
    assert [head.target for head in upstream.heads] == [b"/cut", b"/last"]


def test_endpoints_are_used_in_turn_and_a_dead_one_is_passed_over(tmp_path: Any, upstream: Upstream) -> None:
    with Upstream() as second:
        change = {"upstreams": {"up": {"endpoints": [upstream.url, second.url]}}}
        with Relay(tmp_path / "r", "", change) as relay, relay.client() as client:
            for _ in range(6):
                assert client.ask(request(method=b"POST", body=b"{}")).status == 200
            assert (len(upstream.heads), len(second.heads)) == (3, 3)


def test_hundred_clients_at_once_share_a_pool(relay: Relay, upstream: Upstream) -> None:
    clients = [relay.client() for _ in range(100)]
    try:
        for number, client in enumerate(clients):
            client.send(request(b"/many/%d" % number, method=b"POST", body=b"%d" % number))
        upstream.script = lambda peer, message: peer.send(answer(peer.whole(message).body))
        answers = [client.answer().status for client in clients]
        assert answers == [200] * 100
    finally:
        for client in clients:
            client.close()
