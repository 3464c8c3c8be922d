"""The tunnel: a connection of its own, both ways, with backpressure, and every end told exactly once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from relayd.upstream.spec import EndpointSpec, TlsSpec
from relayd.upstream.transport.tunnel import PIECE, Tunnel
from tests.aids.turns import turned
from tests.functional.harness.message import Message
from tests.unit.upstream.scripted import PATIENCE_S, Peer, Upstream, spec_of, wait_for

REQUEST = b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


class Ear:
    """A tunnel's sink."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.connected = self.writable = 0
        self.ends: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    def on_connected(self) -> None:
        self.connected += 1
        self.changed.set()

    def on_bytes(self, data: bytes) -> None:
        self.heard += data
        self.changed.set()

    def on_writable(self) -> None:
        self.writable += 1
        self.changed.set()

    def on_closed(self, code: str, detail: str) -> None:
        self.ends.append((code, detail))
        self.changed.set()

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self.changed.clear()
                await self.changed.wait()

    async def end(self) -> str:
        await self.until(lambda: self.ends)
        assert len(self.ends) == 1
        return self.ends[0][0]


async def echo(peer: Peer, message: Message) -> None:
    await peer.send(SWITCH)
    while data := await peer.reader.read(65536):
        await peer.send(data)


def dig(endpoint: EndpointSpec, ear: Ear, tls: TlsSpec | None = None, connect_s: float = 2.0) -> Tunnel:
    return Tunnel(spec_of(endpoint, tls=tls, connect_s=connect_s), endpoint, REQUEST, ear)


async def test_a_tunnel_carries_bytes_both_ways(io_loop: Any) -> None:
    async with Upstream(echo) as upstream:
        ear = Ear()
        tunnel = dig(upstream.endpoint, ear)
        await ear.until(lambda: bytes(ear.heard) == SWITCH)
        assert ear.connected == 1 and upstream.requests[0].target == b"/chat"
        assert tunnel.write(b"\x00one")
        await ear.until(lambda: bytes(ear.heard) == SWITCH + b"\x00one")
        tunnel.close()
        await wait_for(lambda: upstream.peers[0].reader.at_eof())
        assert not ear.ends


async def test_a_tunnel_goes_over_a_unix_socket(io_loop: Any, tmp_path: Path) -> None:
    async with Upstream(echo, unix=str(tmp_path / "up.sock")) as upstream:
        ear = Ear()
        tunnel = dig(upstream.endpoint, ear)
        await ear.until(lambda: bytes(ear.heard) == SWITCH)
        tunnel.close()


async def test_a_tunnel_is_verified_like_any_other_connection(io_loop: Any, certificates: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates / "named.pem", certificates / "named.key")
    authority = str(certificates / "ca.pem")
    async with Upstream(echo, tls=server) as upstream:
        for tls, fine in (
            (TlsSpec(ca=authority, server_name="relayd.test"), True), (TlsSpec(verify=False), True),
            (TlsSpec(ca=authority), False), (TlsSpec(server_name="relayd.test"), False),
            (TlsSpec(ca="missing.pem"), False),
        ):
            ear = Ear()
            tunnel = dig(upstream.endpoint, ear, tls)
            await ear.until(lambda: ear.heard or ear.ends)  # noqa: B023 - awaited in this turn
            assert bool(ear.heard) == fine, (tls, ear.ends)
            if not fine:
                assert await ear.end() == "tls_failed"
            tunnel.close()


async def test_the_end_of_the_endpoint_is_told_after_its_last_byte(io_loop: Any) -> None:
    async def script(peer: Peer, message: Message) -> None:
        await peer.send(SWITCH + b"bye")
        peer.close()

    async with Upstream(script) as upstream:
        ear = Ear()
        dig(upstream.endpoint, ear)
        assert await ear.end() == "" and bytes(ear.heard) == SWITCH + b"bye"


@pytest.mark.parametrize("waits", [False, True])
async def test_what_came_before_the_end_is_not_lost(io_loop: Any, waits: bool) -> None:
    async def script(peer: Peer, message: Message) -> None:
        await peer.send(SWITCH + b"x" * 60_000)

    class Slow(Ear):
        def on_bytes(self, data: bytes) -> None:
            super().on_bytes(data)
            if len(self.heard) == len(data):
                if waits:
                    tunnel.pause()
                assert tunnel._stream is not None
                tunnel._stream.close()  # as IOStream does where it reads the end together with the last bytes

    async with Upstream(script) as upstream:
        ear = Slow()
        tunnel = dig(upstream.endpoint, ear)
        await ear.until(lambda: ear.heard)
        had = tunnel._stream._read_buffer_size  # type: ignore[union-attr]
        assert had
        for _ in range(10):
            await asyncio.sleep(0)
        if waits:
            assert not ear.ends and len(ear.heard) == PIECE
            tunnel.resume()
        assert await ear.end() == "" and len(ear.heard) == PIECE + had


async def test_a_reset_is_a_fault_of_the_upstream(io_loop: Any) -> None:
    async def script(peer: Peer, message: Message) -> None:
        await peer.send(SWITCH)
        await peer.reader.readexactly(1)
        peer.reset()

    async with Upstream(script) as upstream:
        ear = Ear()
        tunnel = dig(upstream.endpoint, ear)
        await ear.until(lambda: ear.heard)
        tunnel.write(b"x")
        assert await ear.end() == "upstream_closed"


async def test_a_refused_tunnel_is_connect_failed(io_loop: Any, tmp_path: Path) -> None:
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        for endpoint in (
            EndpointSpec(f"http://127.0.0.1:{bound.getsockname()[1]}", "", "tcp"),
            EndpointSpec("http://localhost", "", "unix", str(tmp_path / "missing")),
        ):
            ear = Ear()
            dig(endpoint, ear)
            assert await ear.end() == "connect_failed" and not ear.connected


async def test_an_endpoint_that_does_not_accept_is_connect_timeout(io_loop: Any) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        for _ in range(3):  # the queue of connections overflows: further ones are not answered
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        ear = Ear()
        dig(EndpointSpec(f"http://127.0.0.1:{address[1]}", "", "full"), ear, connect_s=0.1)
        assert await ear.end() == "connect_timeout"
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("how", ["late", "left"])
async def test_a_handshake_ends_when_it_is_late_or_nobody_waits(io_loop: Any, how: str) -> None:
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            arrived.set()
        writer.close()
        gone.set()

    arrived = asyncio.Event()
    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ear = Ear()
    endpoint = EndpointSpec(f"https://127.0.0.1:{port}", "", "mute")
    tunnel = dig(endpoint, ear, TlsSpec(verify=False), connect_s=0.1 if how == "late" else 5.0)
    await asyncio.wait_for(arrived.wait(), PATIENCE_S)
    if how == "late":
        assert await ear.end() == "connect_timeout"
    else:
        tunnel.close()
    await asyncio.wait_for(gone.wait(), 60)
    assert len(ear.ends) == (how == "late") and not ear.connected
    server.close()
    await turned()  # transports close in a later turn


async def test_a_slow_endpoint_is_told_and_then_writable_again(io_loop: Any) -> None:
    read = asyncio.Event()
    total = 0

    async def script(peer: Peer, message: Message) -> None:
        nonlocal total
        await peer.send(SWITCH)
        await read.wait()
        while data := await peer.reader.read(65536):
            total += len(data)

    async with Upstream(script) as upstream:
        ear = Ear()
        tunnel = dig(upstream.endpoint, ear)
        await ear.until(lambda: ear.heard)
        wrote = 0
        for _ in range(2000):
            wrote += 65536
            if not tunnel.write(bytes(65536)):
                break
        assert tunnel.buffered() > 0 and wrote < 2000 * 65536
        before = ear.writable
        read.set()
        await ear.until(lambda: ear.writable > before)
        await wait_for(lambda: total == wrote)
        assert tunnel.buffered() == 0
        tunnel.close()


async def test_a_paused_tunnel_holds_back_the_endpoint_and_loses_nothing(io_loop: Any) -> None:
    size, sent = 8 * 1024 * 1024, 0

    async def script(peer: Peer, message: Message) -> None:
        nonlocal sent
        await peer.send(SWITCH)
        for _ in range(size // 65536):
            await peer.send(bytes(65536))
            sent += 65536
        peer.close()

    class Slow(Ear):
        tunnel: Tunnel | None = None

        def on_bytes(self, data: bytes) -> None:
            super().on_bytes(data)
            if self.tunnel is not None:
                self.tunnel.pause()

    async with Upstream(script) as upstream:
        ear = Slow()
        ear.tunnel = tunnel = dig(upstream.endpoint, ear)
        await ear.until(lambda: ear.heard)
        forced_open = len(ear.heard)
        await turned()  # it could come, were it not held
        assert len(ear.heard) == forced_open and sent < size and not ear.ends
        ear.tunnel = None
        tunnel.resume()
        assert await ear.end() == "" and len(ear.heard) == len(SWITCH) + size


async def test_a_tunnel_closed_before_it_began_connects_nowhere(io_loop: Any) -> None:
    async with Upstream(echo) as upstream:
        ear = Ear()
        dig(upstream.endpoint, ear).close()
        await turned()  # it could connect
        assert upstream.connections == 0 and not ear.ends and not ear.connected
