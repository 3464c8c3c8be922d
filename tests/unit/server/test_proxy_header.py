"""The PROXY protocol header before a connection."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from relayd import clock
from relayd.config.listener import Tls
from relayd.server.tls import make_context
from relayd.wire.proxy_protocol import SIGNATURE
from tests.aids.turns import turned
from tests.unit.proxy.harness import Side, get, running, status_of, until
from tests.unit.server.certificates import certificate

ON = 'proxy_protocol: true, trusted_proxies: ["127.0.0.0/8"]'
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
V2 = SIGNATURE + b"\x21\x11" + struct.pack("!H", 12) + bytes([203, 0, 113, 7, 192, 0, 2, 1]) + struct.pack("!HH", 4711, 80)


async def script(side: Side) -> None:
    while True:
        head, _ = await side.message()
        value = head.lower().partition(b"x-real-ip: ")[2].partition(b"\r\n")[0]
        side.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(value) + value)


@pytest.mark.parametrize("header", [V1, V2])
async def test_the_named_address_is_the_clients(tmp_path: Path, header: bytes) -> None:
    async with running(tmp_path, script, listener=ON) as harness:
        side = await harness.connect()
        side.write(header + get())
        assert (await side.message())[1] == b"203.0.113.7"
        assert (await harness.accounted(1))[0].peer == "203.0.113.7"


@pytest.mark.parametrize("header", [V1, V2])
async def test_a_header_may_come_in_pieces(tmp_path: Path, header: bytes) -> None:
    async with running(tmp_path, script, listener=ON) as harness:
        side = await harness.connect()
        for piece in (header[:3], header[3:14], header[14:-1], header[-1:] + get()[:5], get()[5:]):
            side.write(piece)
            await turned()
        assert (await side.message())[1] == b"203.0.113.7"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00"])
async def test_a_header_without_an_address_keeps_the_peer(tmp_path: Path, header: bytes) -> None:
    async with running(tmp_path, script, listener=ON) as harness:
        side = await harness.connect()
        side.write(header + get())
        assert status_of((await side.message())[0]) == 200
        await harness.accounted(1)


@pytest.mark.parametrize("raw", [get(), b"PROXY TCP4 a b c d\r\n" + get(), V1.replace(b"\r\n", b"\n") + get(), b"P" * 300,
                                 SIGNATURE + b"\x31\x11\x00\x00" + get()])
async def test_a_connection_without_a_valid_header_is_closed(tmp_path: Path, raw: bytes) -> None:
    async with running(tmp_path, script, listener=ON) as harness:
        side = await harness.connect()
        side.write(raw)
        await side.gone()
        await until(lambda: harness.listening.count == 0)
        await harness.accounted(0)


async def test_a_header_from_an_untrusted_peer_is_rejected(tmp_path: Path) -> None:
    async with running(tmp_path, script, listener='proxy_protocol: true, trusted_proxies: ["192.0.2.0/24"]') as harness:
        side = await harness.connect()
        side.write(V1 + get())
        await side.gone()
        await harness.accounted(0)


async def test_a_header_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, script, listener=ON + ", timeouts: {handshake: 10s}") as harness:
        side = await harness.connect()
        side.write(V1[:10])
        await until(lambda: harness.listening.count == 1)
        harness.listening.sweep(clock.monotonic() + 9)
        assert harness.listening.count == 1
        harness.listening.sweep(clock.monotonic() + 11)
        await side.gone()
        assert harness.listening.count == 0
        await asyncio.sleep(0.06)  # the scheduled retry finds a closed socket
        await harness.accounted(0)


async def test_a_client_that_leaves_within_the_header_is_dropped(tmp_path: Path) -> None:
    async with running(tmp_path, script, listener=ON) as harness:
        side = await harness.connect()
        await until(lambda: harness.listening.count == 1)
        side.reset()
        await until(lambda: harness.listening.count == 0)
        await harness.accounted(0)


async def test_tls_may_follow_the_header(tmp_path: Path) -> None:
    import ssl

    context = make_context("public", Tls(certificates=(certificate(tmp_path, "one.example"),)))
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    async with running(tmp_path, script, listener=ON, context=context) as harness:
        side = await harness.connect()
        side.write(V1)
        transport = await asyncio.get_running_loop().start_tls(
            side.writer.transport, side.writer.transport.get_protocol(), client, server_hostname="one.example"
        )
        assert transport is not None
        transport.write(get())
        assert (await side.message())[1] == b"203.0.113.7"
        await harness.accounted(1)
        transport.abort()
