"""The driver: transfers move, pause, end and are cancelled, each at the right moment and only once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random

import pytest

from relayd.upstream.transport import driver as driver_module
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.slot import Slot
from tests.functional.harness.message import Message, answer, chunk
from tests.unit.upstream.scripted import Keeper, Peer, Upstream, ask, begin, driver_of, hello, pool_of, saying, wait_for

BIG = 32 * 1024 * 1024
WAYS_TO_DIE = pytest.mark.parametrize("way", ["close", "reset"])


def dying(way: str) -> object:
    """A script that reads the whole request and dies without an answer."""

    async def script(peer: Peer, message: Message) -> None:
        await peer.whole(message)
        getattr(peer, way)()

    return script


@WAYS_TO_DIE
@pytest.mark.parametrize("body", [b"{}", b"x" * 100_000, None, b""], ids=["small", "large", "none", "empty"])
async def test_a_post_is_delivered_once_when_its_kept_connection_dies(client: StreamClient, way: str, body: bytes | None) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        assert (await ask(pool)).status == 200
        upstream.script = dying(way)  # type: ignore[assignment]
        lost = await ask(pool, b"POST", b"/once", body=body)
        assert lost.errno and lost.response is None
        upstream.script = hello
        after = await ask(pool, b"POST", b"/after", body=b"{}")
        assert after.status == 200 and after.errno == 0
        assert [request.target for request in upstream.requests] == [b"/", b"/once", b"/after"]


@WAYS_TO_DIE
async def test_an_unknown_method_is_delivered_once(client: StreamClient, way: str) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool)
        upstream.script = dying(way)  # type: ignore[assignment]
        for method, body in ((b"PATCH", b"{}"), (b"PATCH", None), (b"BREW", None), (b"BREW", b"tea")):
            assert (await ask(pool, method, b"/once", body=body)).errno
        assert len(upstream.requests) == 5


async def test_a_streamed_post_is_delivered_once(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool)
        upstream.script = dying("close")  # type: ignore[assignment]
        keeper = begin(pool, b"POST", b"/once", length=-1)
        assert keeper.slot is not None
        keeper.slot.feed(b"piece", last=True)
        assert (await keeper.done()).errno
        assert [request.body for request in upstream.requests] == [b"", b"piece"]


@WAYS_TO_DIE
async def test_a_get_survives_the_death_of_its_kept_connection(client: StreamClient, way: str) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool)

        async def die_once(peer: Peer, message: Message) -> None:
            upstream.script = saying(answer(b"second"))
            getattr(peer, way)()

        upstream.script = die_once
        keeper = await ask(pool)
        assert keeper.status == 200 and keeper.body == b"second" and len(upstream.requests) == 3


@WAYS_TO_DIE
async def test_a_post_right_after_an_idle_connection_ended_succeeds(client: StreamClient, way: str) -> None:
    for number in range(5):  # each time elsewhere: for a while after a death nothing is kept there
        async with Upstream() as upstream:
            pool = pool_of(client, upstream.endpoint)
            assert (await ask(pool, b"POST", b"/warm", body=b"{}")).status == 200
            getattr(upstream.peers[-1], way)()
            await wait_for(lambda: pool.origin in pool.driver.closed_s)  # noqa: B023 - awaited in this turn
            keeper = await ask(pool, b"POST", b"/next", body=b"{}")
            assert keeper.errno == 0 and keeper.status == 200, number
            assert len(upstream.requests) == 2


@WAYS_TO_DIE
async def test_a_post_of_another_upstream_at_this_address_succeeds_too(client: StreamClient, way: str) -> None:
    """libcurl shares the connections of all pools to one origin."""
    for number in range(5):
        async with Upstream() as upstream:
            pool, other = pool_of(client, upstream.endpoint), pool_of(client, upstream.endpoint)
            assert (await ask(pool, b"POST", b"/warm", body=b"{}")).status == 200
            getattr(upstream.peers[-1], way)()
            await wait_for(lambda: pool.origin in pool.driver.closed_s)  # noqa: B023 - awaited in this turn
            keeper = await ask(other, b"POST", b"/next", body=b"{}")
            assert keeper.errno == 0 and keeper.status == 200, (number, keeper.errno)


async def test_the_memory_of_closed_connections_is_bounded(client: StreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "MAX_CLOSED", 2)
    for _ in range(5):
        async with Upstream() as upstream:
            pool = pool_of(client, upstream.endpoint)
            await ask(pool)
            upstream.peers[-1].close()
            await wait_for(lambda: pool.origin in pool.driver.closed_s)  # noqa: B023 - awaited in this turn
            assert len(pool.driver.closed_s) <= 2


async def test_a_connection_is_used_again(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        for method, body in ((b"GET", None), (b"POST", b"{}"), (b"DELETE", None), (b"PUT", b"x"), (b"HEAD", None), (b"GET", None)):
            upstream.script = saying(answer(b"") if method == b"HEAD" else answer())
            assert (await ask(pool, method, body=body)).errno == 0
        assert upstream.connections == 1


async def test_the_head_comes_before_the_body(client: StreamClient) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 Fine\r\nContent-Length: 4\r\nX-One: 1\r\n\r\n")
        await gate.wait()
        await peer.send(b"body")

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint))
        await keeper.head()
        assert keeper.status == 200 and not keeper.body and keeper.errno is None
        gate.set()
        assert (await keeper.done()).body == b"body"


async def test_every_chunk_comes_when_it_was_sent(client: StreamClient) -> None:
    turn: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while data := await turn.get():
            await peer.send(chunk(data))
        await peer.send(b"0\r\n\r\n")

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint))
        wanted = b""
        for number in range(20):
            data = b"data: %d\n\n" % number
            wanted += data
            turn.put_nowait(data)
            await keeper.until(lambda: bytes(keeper.body) == wanted)  # noqa: B023 - awaited in this turn
        turn.put_nowait(b"")
        assert (await keeper.done()).errno == 0


async def test_a_slow_client_holds_back_the_upstream_and_gets_every_byte(client: StreamClient) -> None:
    block = random.Random(7).randbytes(1024 * 1024)
    sent = 0

    async def script(peer: Peer, message: Message) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for _ in range(BIG // len(block)):
            await peer.send(block)
            sent += len(block)

    class Slow(Keeper):
        digest, size, largest, slow = hashlib.sha256(), 0, 0, True

        def on_progress(self, slot: Slot) -> None:
            brought = sum(map(len, slot.chunks))
            self.largest = max(self.largest, brought)
            for piece in slot.chunks:
                self.digest.update(piece)
            self.size += brought
            slot.chunks = []
            if brought and self.slow:
                slot.hold = True
            super().on_progress(slot)

    async with Upstream(script) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = Slow(pool)
        begin(pool, keeper=keeper)
        await keeper.until(lambda: keeper.slot is not None and keeper.slot.paused)
        quiet, seen = 0, -1
        while quiet < 20:  # until the upstream, too, has come to a stop
            await asyncio.sleep(0.005)
            quiet, seen = (quiet + 1, seen) if seen == sent else (0, sent)
        forced_open = keeper.size
        assert forced_open < 1024 * 1024 and sent < BIG // 2
        for _ in range(3):  # step by step, then free
            assert keeper.slot is not None
            size = keeper.size
            keeper.slot.unhold()
            await keeper.until(lambda: keeper.size > size)  # noqa: B023 - awaited in this turn
        keeper.slow = False
        assert keeper.slot is not None
        keeper.slot.unhold()
        await keeper.done()
        for piece in (bytes(keeper.body),):
            keeper.digest.update(piece)
        wanted = hashlib.sha256()
        for _ in range(BIG // len(block)):
            wanted.update(block)
        assert keeper.size + len(keeper.body) == BIG and keeper.digest.digest() == wanted.digest()
        assert keeper.largest < 512 * 1024


async def test_a_transfer_in_full_flow_leaves_the_others_their_turn(client: StreamClient) -> None:
    flowing = True

    async def script(peer: Peer, message: Message) -> None:
        if message.target == b"/flood":
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while flowing:
                await peer.send(bytes(262144))
        else:
            await peer.send(answer())

    async with Upstream(script) as upstream:
        pool = pool_of(client, upstream.endpoint)
        flood = begin(pool, target=b"/flood")
        await flood.head()
        for _ in range(10):
            assert (await ask(pool)).status == 200
        flood.cancel()
        flowing = False


@pytest.mark.parametrize("phase", ["at once", "waiting", "head", "body", "held", "upload"])
async def test_a_cancelled_transfer_closes_its_connection_at_once(client: StreamClient, phase: str) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        arrived.set()
        if phase in ("head", "body", "held"):
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        if phase == "body":
            await peer.send(b"some")
        elif phase == "held":
            await peer.send(bytes(262144))
        await peer.gone()
        gone.set()

    async with Upstream(script) as upstream:
        driver, pool = driver_of(client), pool_of(client, upstream.endpoint)
        keeper = begin(pool, b"POST" if phase == "upload" else b"GET", length=-1 if phase == "upload" else None)
        slot = keeper.slot
        assert slot is not None
        if phase != "at once":
            await arrived.wait()
        if phase == "upload":
            slot.feed(b"first")
            await keeper.until(lambda: slot.queued == 0)
        if phase == "head":
            await keeper.head()
        if phase == "body":
            await keeper.until(lambda: keeper.body)
        if phase == "held":
            slot.hold = True
            await keeper.until(lambda: slot.paused)
        keeper.cancel()
        assert driver.active == 0 and pool.in_use == 0
        if phase != "at once":
            await asyncio.wait_for(gone.wait(), 60)
        upstream.script = hello
        assert (await ask(pool, b"POST", b"/after", body=b"{}")).status == 200
        assert keeper.errno is None  # nothing more was heard of the cancelled one


async def test_a_transfer_cancelled_while_it_connects_is_forgotten(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        for _ in range(20):
            begin(pool, b"POST", body=b"{}").cancel()
        assert driver_of(client).active == 0
        assert (await ask(pool)).status == 200


async def test_a_transfer_begun_inside_a_sink_runs(client: StreamClient) -> None:
    class Again(Keeper):
        second: Keeper | None = None

        def on_done(self, slot: Slot, errno: int, message: str) -> None:
            super().on_done(slot, errno, message)
            self.second = begin(self.pool, b"POST", b"/second", body=b"{}")

    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        first = Again(pool)
        begin(pool, keeper=first)
        await first.done()
        assert first.second is not None and (await first.second.done()).status == 200


async def test_a_transfer_begun_and_cancelled_inside_a_sink_is_never_sent(client: StreamClient) -> None:
    class Again(Keeper):
        def on_done(self, slot: Slot, errno: int, message: str) -> None:
            super().on_done(slot, errno, message)
            begin(self.pool, b"POST", b"/second", body=b"{}").cancel()

    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        first = Again(pool)
        begin(pool, keeper=first)
        await first.done()
        assert (await ask(pool, target=b"/third")).status == 200
        assert [request.target for request in upstream.requests] == [b"/", b"/third"]


async def test_a_sink_may_cancel_its_own_transfer(client: StreamClient) -> None:
    class Leaver(Keeper):
        def on_progress(self, slot: Slot) -> None:
            super().on_progress(slot)
            self.cancel()

    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = Leaver(pool)
        begin(pool, keeper=keeper)
        await keeper.until(lambda: keeper.slot is None)
        assert driver_of(client).active == 0 and (await ask(pool)).status == 200


@pytest.mark.parametrize("where", ["on_progress", "on_done"])
async def test_a_sink_that_raises_ends_alone(client: StreamClient, where: str, caplog: pytest.LogCaptureFixture) -> None:
    async def slowly(peer: Peer, message: Message) -> None:
        if message.target == b"/broken" and where == "on_progress":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            await peer.gone()
        else:
            await peer.send(answer())

    class Faulty(Keeper):
        def on_progress(self, slot: Slot) -> None:
            if where == "on_progress":
                raise ValueError("on purpose")

        def on_done(self, slot: Slot, errno: int, message: str) -> None:
            raise ValueError("on purpose")

    async with Upstream(slowly) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper, other = Faulty(pool), begin(pool, target=b"/other")
        with caplog.at_level(logging.CRITICAL, "relayd.transport"):
            begin(pool, target=b"/broken", keeper=keeper)
            await keeper.done()
        assert keeper.broken and keeper.slot is not None
        pool.release(keeper.slot)
        assert (await other.done()).status == 200 and (await ask(pool)).status == 200
        assert driver_of(client).active == 0


async def test_many_transfers_run_side_by_side(client: StreamClient) -> None:
    async def echo(peer: Peer, message: Message) -> None:
        await peer.whole(message)
        await peer.send(answer(message.target + message.body))

    async with Upstream(echo) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keepers = [begin(pool, b"POST", b"/%d" % number, body=b"?") for number in range(100)]
        for number, keeper in enumerate(keepers):
            assert (await keeper.done()).body == b"/%d?" % number
        assert pool.in_use == 0 and driver_of(client).active == 0


async def test_a_dead_kept_connection_is_closed_without_another_request(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool)
        peer = upstream.peers[0]
        peer.writer.write_eof()  # the upstream is done with it; its end of the connection shows when libcurl is
        await wait_for(peer.reader.at_eof)
        assert driver_of(client).active == 0 and (await ask(pool)).status == 200


async def test_closing_the_driver_ends_a_live_stream(client: StreamClient) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await peer.gone()
        gone.set()

    async with Upstream(script) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = begin(pool)
        await keeper.head()
        driver_of(client).close()
        await asyncio.wait_for(gone.wait(), 60)
        assert driver_of(client).active == 0 and keeper.errno is None
        pool.release(keeper.slot)  # type: ignore[arg-type]
        pool.close()
        client.driver = None
