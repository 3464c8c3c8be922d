"""The client: Tornado's fetch() and the streaming slots live on one multi, and end together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from relayd.upstream.transport.client import StreamClient
from tests.functional.harness.message import Message, answer
from tests.unit.upstream.scripted import Peer, Upstream, ask, begin, driver_of, pool_of, saying, wait_for


async def test_fetch_works_beside_the_slots(client: StreamClient) -> None:
    async def echo(peer: Peer, message: Message) -> None:
        await peer.whole(message)
        await peer.send(answer(message.method + message.target))

    async with Upstream(echo) as upstream:
        pool, url = pool_of(client, upstream.endpoint), upstream.endpoint.origin
        fetches = [client.fetch(f"{url}/f{number}") for number in range(25)]  # more than Tornado runs at one time
        keepers = [begin(pool, b"POST", b"/s%d" % number, body=b"{}") for number in range(25)]
        for number, fetch in enumerate(fetches):
            assert (await fetch).body == b"GET/f%d" % number
        for number, keeper in enumerate(keepers):
            assert (await keeper.done()).body == b"POST/s%d" % number
        assert driver_of(client).active == 0


async def test_fetch_posts_and_reads_fields(client: StreamClient) -> None:
    async with Upstream(saying(answer(b"x", b"X-Field: 1"))) as upstream:
        response = await client.fetch(upstream.endpoint.origin + "/hook", method="POST", body=b"{}")
        assert response.headers["X-Field"] == "1" and upstream.requests[0].body == b"{}"


async def test_a_failed_fetch_is_told_and_disturbs_nobody(client: StreamClient) -> None:
    async with Upstream(saying(answer(b"", status=b"503 No"))) as upstream:
        with pytest.raises(HTTPClientError) as told:
            await client.fetch(upstream.endpoint.origin)
        assert told.value.code == 503
    with pytest.raises(HTTPClientError) as told:
        await client.fetch(upstream.endpoint.origin)
    assert told.value.code == 599 and driver_of(client).active == 0
    async with Upstream() as upstream:
        assert (await ask(pool_of(client, upstream.endpoint))).status == 200


async def test_a_fetch_that_takes_too_long_ends(client: StreamClient) -> None:
    async def silent(peer: Peer, message: Message) -> None:
        await peer.gone()

    async with Upstream(silent) as upstream:
        with pytest.raises(HTTPClientError) as told:
            await client.fetch(upstream.endpoint.origin, request_timeout=0.05)
        assert told.value.code == 599
        await wait_for(lambda: driver_of(client).active == 0)


async def test_the_slots_live_on_while_a_fetch_is_silent(client: StreamClient) -> None:
    async def script(peer: Peer, message: Message) -> None:
        if message.target == b"/silent":
            await gate.wait()
        await peer.send(answer())

    gate = asyncio.Event()
    async with Upstream(script) as upstream:
        fetch = client.fetch(upstream.endpoint.origin + "/silent")
        pool = pool_of(client, upstream.endpoint)
        for _ in range(10):
            assert (await ask(pool)).status == 200
        gate.set()
        assert (await fetch).code == 200


async def test_the_client_closes_with_a_stream_alive(io_loop: Any) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await peer.gone()
        gone.set()

    async with Upstream(script) as upstream:
        client: StreamClient = StreamClient(force_instance=True)
        pool = pool_of(client, upstream.endpoint)
        streaming, starting = begin(pool), begin(pool)
        await streaming.head()
        paused = begin(pool, b"POST", length=-1)
        client.close()
        await asyncio.wait_for(gone.wait(), 60)
        for _ in range(5):  # what was still scheduled finds the driver closed
            await asyncio.sleep(0)
        assert client.driver is None
        for keeper in (streaming, starting, paused):
            if keeper.slot is not None:
                pool.release(keeper.slot)
        pool.close()


async def test_the_periodic_scan_of_older_tornado_is_stopped(client: StreamClient) -> None:
    scan = getattr(client, "_force_timeout_callback", None)
    assert scan is None or not scan.is_running()


async def test_clients_are_made_apart(client: StreamClient) -> None:
    other: StreamClient = StreamClient(force_instance=True)
    try:
        assert other is not client and other.driver is not client.driver
    finally:
        other.close()
