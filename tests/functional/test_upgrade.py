"""WebSocket and other upgrades: a tunnel where the route allows it, plain HTTP everywhere else."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, saying

CONFIG = {"routes": [
    {"name": "ws", "match": {"prefix": "/ws"}, "upstream": "up", "upgrade": True},
    {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
]}
ASK = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13")
YES = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
       b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")


def echo(peer: Peer, message: Message) -> None:
    peer.send(YES + b"first")
    while data := peer.read_some():
        peer.send(data)
    peer.upstream.left.put(time.monotonic())
    peer.close()


def test_a_websocket_becomes_a_tunnel_and_the_first_bytes_are_not_lost(relay: Relay, upstream: Upstream) -> None:
    upstream.script = echo
    with relay.client() as client:
        client.send(request(b"/ws/chat?x", *ASK) + b"early")
        head = client.head()
        assert head.status == 101 and head.get("sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (head.get("upgrade") or b"").lower() == b"websocket"
        assert client.take(10) == b"firstearly"
        for size in (1, 1000, 300_000):
            data = bytes(range(256)) * (size // 256 + 1)
            threading.Thread(target=client.send, args=(data,)).start()
            assert client.take(len(data)) == data
    seen = upstream.heads[-1]
    assert seen.target == b"/ws/chat?x" and (seen.get("upgrade") or b"").lower() == b"websocket"
    assert b"upgrade" in (seen.get("connection") or b"").lower()
    assert seen.get("sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
    upstream.left.get(timeout=60)
    relay.wait_quiet()


def test_a_tunnel_ends_when_the_upstream_ends(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(YES + b"bye")
        peer.close()

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/ws", *ASK))
        client.head()
        assert client.read_all() == b"bye"
    relay.wait_quiet()


def test_a_refused_upgrade_stays_http(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"no", status=b"403 Forbidden"))
    with relay.client() as client:
        client.send(request(b"/ws", *ASK))
        assert client.answer().status == 403
        upstream.script = saying(answer(b"plain"))
        assert client.ask(request(b"/x")).body == b"plain"


def test_a_route_without_upgrade_does_not_tunnel(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        message = client.ask(request(b"/plain", *ASK))
        assert message.status in (200, 400, 426)
    assert not [head for head in upstream.heads if head.get("upgrade")]


def test_other_fields_of_one_hop_do_not_hide_what_was_agreed(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(YES.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\r\n") + b"bye")
        peer.close()

    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/ws", *ASK))
        head = client.head()
        assert head.status == 101 and head.get("upgrade") == b"websocket" and head.get("keep-alive") is None
        assert client.read_all() == b"bye"


def test_a_refused_upgrade_says_what_would_be_accepted(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"no", b"Upgrade: websocket", b"Connection: Upgrade", status=b"426 Upgrade Required"))
    with relay.client() as client:
        client.send(request(b"/ws", *ASK))
        message = client.answer()
        assert message.status == 426 and message.get("upgrade") == b"websocket"


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
])
def test_a_101_for_another_protocol_is_502(head: bytes, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(head + b"poison")
    with relay.client() as client:
        client.send(request(b"/ws", *ASK))
        message = client.answer()
        assert message.status == 502 and b"poison" not in message.body


def test_h2c_is_not_forwarded(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        message = client.ask(request(b"/ws", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"))
        assert message.status in (200, 400)
    for head in upstream.heads:
        assert b"h2c" not in (head.get("upgrade") or b"") and head.get("http2-settings") is None


def test_a_client_that_does_not_read_holds_back_the_tunnel(relay: Relay, upstream: Upstream) -> None:
    sent = 0

    def script(peer: Peer, message: Message) -> None:
        nonlocal sent
        peer.send(YES)
        peer.sock.settimeout(0.5)
        try:
            while sent < 64 << 20:
                peer.sock.sendall(b"x" * 65536)
                sent += 65536
        except TimeoutError:
            pass
        peer.upstream.left.put(0.0)
        peer.close()

    upstream.script = script
    before = relay.rss_kib()
    with relay.client(receive_buffer=65536) as client:
        client.send(request(b"/ws", *ASK))
        client.head()
        upstream.left.get(timeout=60)
        assert sent < 24 << 20
        assert relay.rss_kib() - before < 2048


@pytest.mark.client
def test_a_real_websocket_client_and_server_talk_through_relayd(tmp_path, upstream: Upstream) -> None:  # type: ignore[no-untyped-def]
    server_module = pytest.importorskip("websockets.asyncio.server")
    client_module = pytest.importorskip("websockets.asyncio.client")

    async def repeat(connection) -> None:  # type: ignore[no-untyped-def]
        async for message in connection:
            await connection.send(message)

    async def talk() -> None:
        async with server_module.serve(repeat, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            change = {"routes": [{"name": "ws", "upstream": "up", "upgrade": True}]}
            relay = Relay(tmp_path / "r", f"http://127.0.0.1:{port}", change)
            await asyncio.to_thread(relay.__enter__)
            try:
                async with client_module.connect(f"ws://127.0.0.1:{relay.port}/x", proxy=None) as connection:
                    for text in ("hello", "x" * 200_000, b"\x00\xff" * 1000):
                        await connection.send(text)
                        assert await connection.recv() == text
                    await connection.ping()
            finally:
                await asyncio.to_thread(relay.__exit__, None, None, None)

    with ThreadPoolExecutor(1) as thread:  # a loop of its own, beside the one that the plug-in keeps here
        thread.submit(asyncio.run, talk()).result(60)
