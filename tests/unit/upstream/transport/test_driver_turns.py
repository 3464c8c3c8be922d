"""The driver: one turn of the loop has bounded work, and sinks that have not finished are called again."""

from __future__ import annotations

import asyncio
import random

import pycurl
import pytest

from relayd import work_queue
from relayd.upstream.transport import driver
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import PIECES, Slot
from tests.functional.harness.message import answer
from tests.unit.upstream.scripted import FIELDS, Keeper, Upstream, ask, begin, driver_of, pool_of, saying


class Slow(Keeper):
    """A sink that takes `share` bytes per call and says that it has not finished."""

    def __init__(self, pool: Pool, share: int) -> None:
        super().__init__(pool)
        self.share, self.left, self.calls, self.most_left = share, b"", 0, 0

    def _take(self, slot: Slot) -> None:
        self.response = slot.response
        self.left += b"".join(slot.chunks)
        slot.chunks = []
        self.calls += 1
        self.most_left = max(self.most_left, len(self.left))
        self.body += self.left[: self.share]
        self.left = self.left[self.share :]
        slot.unfinished = bool(self.left)
        self.changed.set()

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        if slot.unfinished or slot.chunks:
            self._take(slot)
        if not slot.unfinished:
            super().on_done(slot, errno, message)


def slow(pool: Pool, share: int) -> Slow:
    keeper = Slow(pool, share)
    keeper.slot = pool.acquire(b"GET", False)
    keeper.slot.turn = 16 * 1024
    pool.start(keeper.slot, keeper, b"GET", b"/slow", FIELDS)
    return keeper


async def test_a_sink_that_has_not_finished_is_called_again_and_hears_of_the_end_last(client: StreamClient) -> None:
    data = random.Random(5).randbytes(200_000)
    async with Upstream(saying(answer(data))) as upstream:
        keeper = slow(pool_of(client, upstream.endpoint), 1000)
        await keeper.done()
        assert bytes(keeper.body) == data and keeper.errno == 0
        assert keeper.calls >= 200 and keeper.most_left <= 64 * 1024


async def test_a_sink_that_has_not_finished_waits_while_its_client_is_behind(
    client: StreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "SHARE_S", 0.0)
    async with Upstream(saying(answer(b"x" * 20_000))) as upstream:
        keeper = slow(pool_of(client, upstream.endpoint), 1000)
        await keeper.until(lambda: keeper.body)
        slot = keeper.slot
        assert slot is not None
        slot.hold = True
        had = len(keeper.body)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(keeper.body) <= had + 1000 and keeper.errno is None
        slot.unhold()
        await keeper.done()
        assert len(keeper.body) == 20_000


async def test_a_slot_cancelled_with_work_left_is_heard_no_more(
    client: StreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "SHARE_S", 0.0)
    async with Upstream(saying(answer(b"x" * 20_000))) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = slow(pool, 1000)
        await keeper.until(lambda: keeper.body)
        slot, keeper.slot = keeper.slot, None
        assert slot is not None
        driver_of(client).cancel(slot)
        pool.release(slot)
        had = keeper.calls
        for _ in range(50):
            await asyncio.sleep(0)
        assert keeper.calls == had and (await ask(pool)).status == 200


async def test_small_chunks_are_handed_over_a_bounded_number_at_a_time(client: StreamClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    most = 0
    async with Upstream(saying(head + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = Keeper(pool)
        take = keeper._take

        def counted(slot: Slot) -> None:
            nonlocal most
            most = max(most, len(slot.chunks))
            take(slot)

        keeper._take = counted  # type: ignore[method-assign]
        keeper.slot = pool.acquire(b"GET", False)
        pool.start(keeper.slot, keeper, b"GET", b"/", FIELDS)
        await keeper.done()
        assert bytes(keeper.body) == b"x" * 50_000 and 1 < most <= PIECES


async def test_many_ready_transfers_share_one_turn_and_none_is_forgotten(
    client: StreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "SHARE_S", 0.0)
    async with Upstream(saying(answer(b"x" * 300_000))) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keepers = [begin(pool) for _ in range(20)]
        for keeper in keepers:
            await keeper.done()
            assert len(keeper.body) == 300_000


@pytest.mark.parametrize(("data", "bad"), [
    (b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 6000 + b"Content-Length: 0\r\n\r\n", "too many fields"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * 100 + b"\r\n", "trailer section too large"),
])
async def test_fields_and_trailers_are_bounded_in_number(client: StreamClient, data: bytes, bad: str) -> None:
    async with Upstream(saying(data)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.errno and (keeper.protocol_error == bad or (not keeper.protocol_error and keeper.errno == 100))  # newer libcurl's own


async def test_small_pieces_of_an_upload_are_sent_together(client: StreamClient) -> None:
    sizes: list[int] = []
    async with Upstream() as upstream:
        keeper = begin(pool_of(client, upstream.endpoint), b"POST", b"/up", length=-1)
        slot = keeper.slot
        assert slot is not None
        read = slot._on_read

        def noted(size: int) -> bytes | int:
            data = read(size)
            if isinstance(data, bytes):
                sizes.append(len(data))
            return data

        slot.curl.setopt(pycurl.READFUNCTION, noted)
        for number in range(5000):
            slot.feed(b"x", last=number == 4999)
        await keeper.done()
        assert upstream.requests[-1].body == b"x" * 5000 and sum(sizes) == 5000 and len(sizes) < 50
