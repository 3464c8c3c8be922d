"""Everything that waits has a limit of its own, with a code of its own."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_streaming import SSE, full_listener

OK = b"HTTP/1.1 200 OK\r\n"


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    short = {"connect": "400ms", "first_byte": "400ms", "idle": "400ms"}
    return {
        "listeners": {"public": {"timeouts": {"write": "600ms"}}},
        "upstreams": {"up": {"timeouts": short}, "total": {"endpoints": [url], "timeouts": {"total": "600ms"}}},
        "routes": [
            {"name": "total", "match": {"prefix": "/total"}, "upstream": "total"},
            {"name": "patient", "match": {"prefix": "/patient"}, "upstream": "up", "timeouts": {"first_byte": "5s", "idle": "off"}},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


def code_of(message: Message) -> str:
    body = json.loads(message.body)
    return str(body.get("code") or body.get("error", {}).get("code"))


def test_a_silent_upstream_ends_in_504_first_byte_timeout(relay: Relay, upstream: Upstream) -> None:
    upstream.script = lambda peer, message: (peer.whole(message), peer.wait_gone())[0] and None
    begun = time.monotonic()
    with relay.client() as client:
        message = client.ask(request(b"/silent", method=b"POST", body=b"{}"))
    assert message.status == 504 and code_of(message) == "first_byte_timeout"
    assert 0.3 < time.monotonic() - begun < 2
    upstream.left.get(timeout=2)
    assert len(upstream.heads) == 1


def test_a_head_that_is_dribbled_does_not_stretch_the_first_byte_limit(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(OK)
        while not peer.ended(0.1):
            peer.send(b"X-A: b\r\n")

    upstream.script = script
    begun = time.monotonic()
    with relay.client() as client:
        message = client.ask(request(b"/dribble"))
    assert message.status in (502, 504) and time.monotonic() - begun < 3


def test_a_stalled_stream_is_broken_off_and_says_so_in_the_log(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        peer.wait_gone()

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/stall"))
    assert message.body == b"data: 1\n\n" and not message.complete
    assert relay.record(path="/stall")["code"] == "idle_timeout"


def test_a_stalled_stream_is_broken_off_for_an_old_client_too(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        peer.wait_gone()

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/stall10", version=b"HTTP/1.0"))
    assert not message.complete


def test_a_steady_slow_stream_is_not_idle(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE)
        for _ in range(6):
            threading.Event().wait(0.15)
            peer.send(chunk(b"x"))
        peer.send(b"0\r\n\r\n")

    upstream.script = script
    with relay.client() as client:
        message = client.ask(request(b"/steady"))
    assert message.complete and message.body == b"x" * 6


def test_the_pause_of_a_slow_client_is_not_the_silence_of_the_upstream(tmp_path: Path, upstream: Upstream) -> None:
    size = 32 << 20
    upstream.script = lambda peer, message: peer.send(answer(b"x" * size))
    change = {"upstreams": {"up": {"timeouts": {"idle": "300ms"}}}}
    with Relay(tmp_path / "r", upstream.url, change) as relay, relay.client(receive_buffer=65536) as client:
        client.send(request())
        message = client.head_of_answer()
        time.sleep(1)
        client.body(message, until_close=True)
        assert message.complete and len(message.body) == size


def test_total_ends_an_exchange_that_is_neither_silent_nor_idle(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE)
        while not peer.ended(0.05):
            peer.send(chunk(b"x"))

    upstream.script = script
    begun = time.monotonic()
    with relay.client() as client:
        message = client.ask(request(b"/total"))
    assert not message.complete and time.monotonic() - begun < 2
    assert relay.record(path="/total")["code"] == "total_timeout"


def test_total_before_the_head_is_504(relay: Relay, upstream: Upstream) -> None:
    upstream.script = lambda peer, message: (peer.wait_gone(), None)[1]
    with relay.client() as client:
        message = client.ask(request(b"/total/silent"))
    assert message.status == 504 and code_of(message) == "total_timeout"


def test_a_route_may_wait_longer(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        threading.Event().wait(0.8)
        peer.send(SSE + chunk(b"a"))
        threading.Event().wait(0.8)
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
            begun = time.monotonic()
            message = client.ask(request(b"/", method=b"POST", body=b"{}"))
            assert message.status == 504 and code_of(message) == "connect_timeout"
            assert time.monotonic() - begun < 2
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
        client.send(b"POST /slowup HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.1)
            client.send(b"x")
        assert client.answer().status == 200


def test_a_client_that_never_reads_is_let_go(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.sock.settimeout(8)
        try:
            peer.send(answer(b"x" * (64 << 20)))
        except OSError:
            upstream.left.put(time.monotonic())

    upstream.script = script
    with relay.client(receive_buffer=65536) as client:
        client.send(request(b"/stalled-reader"))
        client.head_of_answer()
        upstream.left.get(timeout=6)
    assert relay.record(path="/stalled-reader")["code"] == "client_stalled"
