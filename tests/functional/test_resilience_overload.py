"""relayd itself has too much to do: who is turned away, who is not, and that it ends; limits of routes that tunnel."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.functional.harness.client import Client
from tests.functional.harness.faults import get, metric, reload, says, settled, until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_resilience_fallbacks import completion

KEYS = {"bulk": "sk-bulk-0123456789", "vip": "sk-vip-0123456789"}
PATH = b"/v1/messages"


def consumers(folder: Path) -> dict[str, Any]:
    made = {}
    for name, key in KEYS.items():
        file = folder / name
        file.write_text(key)
        file.chmod(0o600)
        made[name] = {"bearer": {"file": str(file)}, "priority": 10 if name == "vip" else -10}
    return made


def key(name: str) -> bytes:
    return f"Authorization: Bearer {KEYS[name]}".encode()


def body() -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}).encode()


def make_late(relay: Relay) -> None:
    """Let the loop be late for longer than the bound, however quick and however busy the machine is."""
    os.kill(relay.pid, signal.SIGSTOP)
    try:
        time.sleep(1.0)
    finally:
        os.kill(relay.pid, signal.SIGCONT)


def test_when_the_loop_is_late_bulk_is_turned_away_and_the_important_is_served(upstream: Upstream, folder: Path) -> None:
    def chat(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(completion("yes"), b"Content-Type: application/json"))

    upstream.script = chat
    change = {
        "upstreams": {"up": {"protocol": "openai_chat", "endpoints": [upstream.url], "timeouts": {"connect": "60s"}}},
        "routes": [{"name": "llm", "protocol": "anthropic_messages", "upstream": "up"}],
        "consumers": consumers(folder), "daemon": {"overload": {"loop_lag": "500ms"}},
    }
    seen, stop = list[tuple[int, bytes | None, bytes]](), threading.Event()
    with Relay(folder, upstream.url, change) as relay:

        def asked(name: str) -> Message:
            with Client(relay.address) as client:
                return client.ask(request(PATH, key(name), b"Content-Type: application/json", method=b"POST", body=body()))

        def bulk() -> None:
            while not stop.is_set():
                found = asked("bulk")
                seen.append((found.status, found.get("retry-after"), found.body[:200]))

        def answered_more(count: int) -> None:
            wanted = len(seen) + count
            until(lambda: len(seen) >= wanted, what="bulk that is answered")

        threads = [threading.Thread(target=bulk) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            answered_more(20)
            while not any(status == 503 for status, _, _ in seen):
                make_late(relay)
                answered_more(40)
            vip = [asked("vip") for _ in range(20)]
            assert {one.status for one in vip} == {200}
            told = relay.status()["overload"]
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert {status for status, _, _ in seen} == {200, 503}
        for status, after, words in seen:
            if status == 503:
                assert int(after or b"0") >= 1
                assert b"overloaded" in words
        assert told["refused"] > 0
        until(lambda: not relay.status()["overload"]["active"], what="the end of overload")
        assert b"overload_ended" in relay.output()
        with Client(relay.address) as client:
            ask = request(PATH, key("bulk"), b"Content-Type: application/json", method=b"POST", body=body())
            assert {client.ask(ask).status for _ in range(10)} == {200}
        settled(relay)


def test_memory_above_its_bound_turns_requests_away_until_it_is_below(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"yes")
    with Relay(folder, upstream.url, {"consumers": consumers(folder), "daemon": {"overload": {"memory": "1MiB"}}}) as relay:
        until(lambda: relay.status()["overload"]["share"] > 0.9)
        statuses = [get(relay, b"/x", key("bulk")).status for _ in range(30)]
        assert statuses.count(503) >= 25
        assert relay.status()["overload"]["why"] == "memory"
        assert metric(relay, "relayd_overload_share") > 0.9
        for path in ("/health", "/ready", "/live", "/status"):
            assert relay.admin(path)[0] == 200
        reload(relay, {"daemon": {"overload": {"memory": "4GiB"}}})
        until(lambda: not relay.status()["overload"]["active"])
        assert {get(relay, b"/x", key("bulk")).status for _ in range(10)} == {200}


def test_who_is_served_already_is_not_cut_by_overload(upstream: Upstream, folder: Path) -> None:
    go = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        go.wait(60)
        peer.send(answer(b"served"))

    upstream.script = script
    with Relay(folder, upstream.url) as relay, Client(relay.address) as client:
        client.send(request(b"/held"))
        until(lambda: upstream.heads)
        reload(relay, {"daemon": {"overload": {"memory": "1MiB"}}})
        until(lambda: relay.status()["overload"]["active"])
        go.set()
        assert client.answer().body == b"served"


# ---- tunnels

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def echo(peer: Peer, message: Message) -> None:
    accept = base64.b64encode(hashlib.sha1((message.get("sec-websocket-key") or b"") + GUID).digest())
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: " + accept]
    peer.send(b"\r\n".join([*lines, b"", b""]))
    while data := peer.read_some():
        peer.send(data)


def opening() -> bytes:
    lines = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
             b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16))]
    return request(b"/ws", *lines)


def test_a_tunnel_holds_its_permit_as_long_as_it_is_open(upstream: Upstream, folder: Path) -> None:
    upstream.script = echo
    change = {
        "upstreams": {"up": {"endpoints": [upstream.url], "limits": {"requests": 2, "queue": 1}, "breaker": {"failures": 3}}},
        "routes": [{"name": "ws", "upstream": "up", "upgrade": True}],
    }
    with Relay(folder, upstream.url, change) as relay, ExitStack() as stack:
        tunnels = [stack.enter_context(Client(relay.address)) for _ in range(3)]
        for client in tunnels[:2]:
            client.send(opening())
            assert client.head_of_answer().status == 101
            client.send(b"hello")
            assert client.take(5) == b"hello"
        tunnels[2].send(opening())
        until(lambda: json.loads(relay.admin("/queue")[1])["gates"][0]["depth"] == 1)
        with Client(relay.address) as fourth:
            assert fourth.ask(opening()).status == 503
        tunnels[0].close()
        assert tunnels[2].head_of_answer().status == 101
        tunnels[2].send(b"again")
        assert tunnels[2].take(5) == b"again"
        tunnels[1].close()
        tunnels[2].close()
        settled(relay)


def test_a_tunnel_that_is_a_probe_closes_the_breaker(upstream: Upstream, folder: Path) -> None:
    for number, more in enumerate(({}, {"limits": {"requests": 5}})):
        upstream.script = says(b"ill", status=b"500 No")
        change = {
            "upstreams": {"up": {"endpoints": [upstream.url], "breaker": {"failures": 1, "open_for": "200ms"}, **more}},
            "routes": [{"name": "ws", "upstream": "up", "upgrade": True}],
        }
        with Relay(folder / str(number), upstream.url, change) as relay, Client(relay.address) as client:
            assert get(relay, b"/x").status == 500

            def state(relay: Relay = relay) -> str:
                return str(json.loads(relay.admin("/upstreams")[1])["upstreams"][0]["endpoints"][0]["breaker"])

            until(lambda: state() == "half_open")
            upstream.script = echo
            client.send(opening())
            assert client.head_of_answer().status == 101
            until(lambda: state() == "closed")
