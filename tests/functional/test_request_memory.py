"""The memory of request bodies, seen from outside of the process: it returns, it is bounded, and nobody is locked out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

MIB = 1024 * 1024
BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"relayd " * (31 * MIB // 7) + b'"}]}'
SMALL = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
JSON = b"Content-Type: application/json"
COMPLETION = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
}).encode()


def head(length: int) -> bytes:
    return request(b"/v1/chat/completions", JSON, b"Content-Length: %d" % length, method=b"POST")


def completing(peer: Peer, message: Message) -> None:
    """Reads the body and forgets it."""
    peer.whole(message)
    message.body = b""
    peer.send(answer(COMPLETION, JSON))


def relaying(folder: Path, upstream: Upstream, size: str, **daemon: Any) -> Relay:
    upstream.script = completing
    return Relay(folder, upstream.url, {
        "upstreams": {"up": {"protocol": "openai_chat", "endpoints": [f"{upstream.url}/v1"]}},
        "models": {"m": "up"},
        "routes": [{"name": "all", "match": {"prefix": "/"}, "upstream": "by_model"}],
        "daemon": {"request_buffers": {"size": size, **daemon}},
    })


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def begun(relay: Relay, clients: contextlib.ExitStack, sends: bytes) -> Client:
    """A client that has sent the beginning of a large body, as far as it is taken."""
    client = clients.enter_context(relay.client())
    client.send(head(len(BODY)))
    client.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.sock.send(sends)
    client.sock.settimeout(60)
    return client


def asked(relay: Relay, body: bytes) -> int:
    with relay.client() as client:
        return client.ask(head(len(body)) + body).status


def buffers(relay: Relay) -> dict[str, Any]:
    found: dict[str, Any] = relay.status()["request_buffers"]
    return found


def test_the_memory_of_aborted_uploads_returns(folder: Path, upstream: Upstream) -> None:
    with relaying(folder, upstream, "0") as relay:
        assert asked(relay, BODY) == 200  # what is loaded at the first request is loaded
        relay.wait_quiet()
        before = relay.rss_kib()
        for _ in range(20):
            with relay.client() as client:
                client.send(head(len(BODY)) + BODY[:-MIB])
                until(lambda: buffers(relay)["bodies"] > 0)
            until(lambda: not buffers(relay)["bodies"])
        relay.wait_quiet()
        until(lambda: relay.rss_kib() - before < 2 * len(BODY) // 1024)


def test_uploads_that_stand_still_hold_no_more_than_the_bound(
    folder: Path, upstream: Upstream, clients: contextlib.ExitStack
) -> None:
    with relaying(folder, upstream, "64MiB", queue_timeout="1h") as relay:
        assert asked(relay, SMALL) == 200
        before = relay.rss_kib()
        for _ in range(20):
            begun(relay, clients, BODY[:-MIB])
        until(lambda: buffers(relay)["waiting"] >= 17)
        for _ in range(3):
            assert asked(relay, SMALL) == 200, "small requests do not wait"
        assert buffers(relay)["used_bytes"] <= 64 * MIB
        assert relay.rss_kib() - before < 2 * 64 * 1024
    assert b"request_buffers_full" not in relay.output()


def test_all_large_bodies_are_served_in_turn_however_many_come_at_once(
    folder: Path, upstream: Upstream, clients: contextlib.ExitStack
) -> None:
    with relaying(folder, upstream, "64MiB", queue_timeout="60s") as relay:
        started = [begun(relay, clients, b"") for _ in range(4)]
        until(lambda: buffers(relay)["waiting"] == 2)
        for client in started:
            client.send(BODY)
            assert client.answer(b"POST").status == 200
        assert buffers(relay)["peak_bytes"] <= 64 * MIB


def test_a_body_that_is_only_announced_locks_nobody_out(
    folder: Path, upstream: Upstream, clients: contextlib.ExitStack
) -> None:
    with relaying(folder, upstream, "64MiB", queue_timeout="60s") as relay:
        for _ in range(4):
            begun(relay, clients, b"{")
        until(lambda: buffers(relay)["waiting"] == 2)
        assert asked(relay, BODY) == 200


def test_a_body_that_can_never_fit_is_refused_before_it_is_sent(folder: Path, upstream: Upstream) -> None:
    with relaying(folder, upstream, "16MiB") as relay, relay.client() as client:
        client.send(head(len(BODY)))
        assert client.answer(b"POST").status == 413
        assert relay.record(code="body_too_large")["detail"].endswith("daemon.request_buffers")
