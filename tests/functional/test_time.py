"""Everything that waits has a limit of its own, with a code of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import silent, stuck_for
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_streaming import SSE, full_listener

OK = b"HTTP/1.1 200 OK\r\n"


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    """An upstream for each limit, which has no other one that a slow machine could reach first."""
    limits = {
        "first": {"first_byte": "2s"}, "idle": {"idle": "400ms"}, "total": {"total": "600ms"}, "steady": {"idle": "1500ms"},
    }
    named: list[dict[str, Any]] = [
        {"name": name, "match": {"prefix": f"/{name}"}, "upstream": name} for name in limits
    ]
    longer = {"name": "patient", "match": {"prefix": "/patient"}, "upstream": "idle", "timeouts": {"idle": "off"}}
    return {
        "listeners": {"public": {"timeouts": {"write": "600ms"}}},
        "upstreams": {name: {"endpoints": [url], "timeouts": limit} for name, limit in limits.items()},
        "routes": [*named, longer, {"name": "all", "match": {"prefix": "/"}, "upstream": "up"}],
    }


def code_of(message: Message) -> str:
    body = json.loads(message.body)
    return str(body.get("code") or body.get("error", {}).get("code"))


def test_a_silent_upstream_ends_in_504_first_byte_timeout(relay: Relay, upstream: Upstream) -> None:
    upstream.script = silent
    begun = time.monotonic()
    with relay.client() as client:
        message = client.ask(request(b"/first", method=b"POST", body=b"{}"))
    assert message.status == 504 and code_of(message) == "first_byte_timeout"
    assert time.monotonic() - begun > 1.9
    upstream.left.get(timeout=60)
    assert len(upstream.heads) == 1


def test_a_head_that_is_dribbled_does_not_stretch_the_first_byte_limit(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(OK)
        while not peer.ended(0.1):
            peer.send(b"X-A: b\r\n")

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/first/dribble"))
    assert message.status in (502, 504)


def test_a_stalled_stream_is_broken_off_and_says_so_in_the_log(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        peer.wait_gone()

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/idle"))
    assert message.body == b"data: 1\n\n" and not message.complete
    assert relay.record(path="/idle")["code"] == "idle_timeout"


def test_a_stalled_stream_is_broken_off_for_an_old_client_too(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        peer.wait_gone()

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/idle/old", version=b"HTTP/1.0"))
    assert not message.complete


def test_a_steady_slow_stream_is_not_idle(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE)
        for _ in range(10):
            time.sleep(0.2)
            peer.send(chunk(b"x"))
        peer.send(b"0\r\n\r\n")

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/steady"))
    assert message.complete and message.body == b"x" * 10


def test_the_pause_of_a_slow_client_is_not_the_silence_of_the_upstream(tmp_path: Path, upstream: Upstream) -> None:
    size, sent = 32 << 20, 0

    def script(peer: Peer, message: Message) -> None:
        nonlocal sent
        peer.send(OK + b"Content-Length: %d\r\n\r\n" % size)
        while sent < size:
            peer.send(b"x" * 65536)
            sent += 65536

    upstream.script = script
    change = {"upstreams": {"up": {"timeouts": {"idle": "1s"}}}}
    with Relay(tmp_path / "r", upstream.url, change) as relay, relay.client(receive_buffer=65536) as client:
        client.send(request())
        message = client.head_of_answer()
        stuck_for(lambda: sent, 2.0)  # twice as long as an upstream may be silent
        client.body(message, until_close=True)
        assert message.complete and len(message.body) == size


def test_total_ends_an_exchange_that_is_neither_silent_nor_idle(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE)
        while not peer.ended(0.05):
            peer.send(chunk(b"x"))

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/total"))
    assert not message.complete
    assert relay.record(path="/total")["code"] == "total_timeout"


def test_total_before_the_head_is_504(relay: Relay, upstream: Upstream) -> None:
    upstream.script = lambda peer, message: (peer.wait_gone(), None)[1]
    with relay.client() as client:
        message = client.ask(request(b"/total/silent"))
    assert message.status == 504 and code_of(message) == "total_timeout"


def test_a_route_may_wait_longer(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"a"))
        time.sleep(0.8)  # twice what the upstream may be silent elsewhere
        peer.send(chunk(b"b") + b"0\r\n\r\n")

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/patient"))
    assert message.complete and message.body == b"ab"


def test_an_address_that_does_not_accept_is_504_connect_timeout(tmp_path: Path) -> None:
    listener, waiting = full_listener()
    try:
        change = {"upstreams": {"up": {"timeouts": {"connect": "300ms"}}}}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Relay(tmp_path / "r", url, change) as relay, relay.client() as client:
            message = client.ask(request(b"/", method=b"POST", body=b"{}"))
            assert message.status == 504 and code_of(message) == "connect_timeout"
    finally:
        for sock in (listener, *waiting):
            sock.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_an_address_that_refuses_is_502_connect_failed_and_names_nobody(url: str, tmp_path: Path) -> None:
    with Relay(tmp_path / "r", url) as relay, relay.client() as client:
        message = client.ask(request(b"/", method=b"POST", body=b"{}"))
        assert message.status == 502 and code_of(message) == "connect_failed"
        assert b"127.0.0.1" not in message.body and b"invalid" not in message.body.replace(b"is not valid", b"")


def test_a_slow_upload_does_not_count_against_the_first_byte(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(b"POST /first/slowly HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):  # longer in all than the limit
            time.sleep(0.3)
            client.send(b"x")
        assert client.answer().status == 200


def test_a_client_that_never_reads_is_let_go(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.sock.settimeout(60)
        try:
            peer.send(answer(b"x" * (64 << 20)))
        except OSError:
            upstream.left.put(time.monotonic())

    upstream.script = script
    with relay.client(receive_buffer=65536) as client:
        client.send(request(b"/stalled-reader"))
        client.head_of_answer()
        upstream.left.get(timeout=60)
    assert relay.record(path="/stalled-reader")["code"] == "client_stalled"
