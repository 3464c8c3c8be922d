"""A slot: heads are looked at, bodies are bounded, uploads are read once."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.slot import INTERIM_MAX
from tests.functional.harness.message import Message, answer, chunk
from tests.unit.upstream.scripted import Keeper, Peer, Upstream, ask, begin, hello, pool_of, saying, spec_of

STREAMED = pytest.mark.parametrize("method", [b"POST", b"PUT", b"GET", b"DELETE", b"PATCH", b"BREW"])


async def test_a_head_keeps_order_case_and_duplicates(client: StreamClient) -> None:
    data = b"HTTP/1.1 299 Quite OK\r\nX-b: 2\r\nx-A:  1\r\nX-b: 3\r\nContent-Length: 0\r\n\r\n"
    async with Upstream(saying(data)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.response is not None and keeper.status == 299 and keeper.response.reason == b" Quite OK"
        assert keeper.response.keep == [b"X-b: 2\r\n", b"x-A:  1\r\n", b"X-b: 3\r\n"] and keeper.response.length == 0


async def test_interim_heads_come_one_by_one_and_100_is_kept_here(client: StreamClient) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await gate.wait()
        await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" + answer())

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint))
        await keeper.until(lambda: keeper.interim)
        assert keeper.interim[0].keep == [b"Link: </a>\r\n"] and keeper.response is None
        gate.set()
        assert (await keeper.done()).status == 200
        assert [head.status for head in keeper.interim] == [103, 102]


async def test_interim_heads_are_bounded(client: StreamClient) -> None:
    async with Upstream(saying(b"HTTP/1.1 103 Early Hints\r\n\r\n" * (INTERIM_MAX + 1) + answer())) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.errno and keeper.protocol_error == "too many interim heads" and keeper.response is None


async def test_trailers_are_no_part_of_head_or_body(client: StreamClient) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"one") + b"0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"
    async with Upstream(saying(data)) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = await ask(pool)
        assert keeper.errno == 0 and keeper.body == b"one" and keeper.response is not None
        assert keeper.trailers == [b"X-Sum: 1\r\n", b"X-Sum: 2\r\n"] and keeper.response.keep == []
        await ask(pool)
        assert upstream.connections == 1


async def test_trailers_are_bounded(client: StreamClient) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: %s\r\n" % (b"x" * 1000) * 20 + b"\r\n"
    async with Upstream(saying(data)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.errno and keeper.protocol_error == "trailer section too large"


@pytest.mark.parametrize("lines", [
    b"200 OK", b"Content-Length: 1\r\nContent-Length: 2", b"Content-Length: 1, 2", b"Content-Length: +5",
    b"Content-Length: 5x", b"Content-Length: -5", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: xchunked", b"X-A: 1\rX-B: 2", b"X-A: \x00", b": empty", b"no colon", b"X A: 1", b"X\x01A: 1",
    b"X-A: \x7f",
])
async def test_a_malformed_head_is_refused_and_its_connection_closed(client: StreamClient, lines: bytes) -> None:
    async with Upstream(saying(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\nhello")) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = await ask(pool)
        assert keeper.response is None and (keeper.errno or keeper.protocol_error) and not keeper.body
        upstream.script = hello
        assert (await ask(pool)).status == 200 and upstream.connections == 2


@pytest.mark.parametrize("start", [
    b"HTTP/1.1 99 Low", b"HTTP/1.1 600 High", b"HTTP/1.1 abc", b"HTP/1.1 200 OK", b"SSH-2.0-OpenSSH", b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket", b"HTTP/1.1 200 O\x00K",
])
async def test_a_malformed_status_line_or_unasked_switch_is_refused(client: StreamClient, start: bytes) -> None:
    async with Upstream(saying(start + b"\r\nContent-Length: 2\r\n\r\nhi", close=True)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.response is None and (keeper.errno or keeper.protocol_error) and not keeper.body


async def test_a_head_is_bounded(client: StreamClient) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + b"X: %s\r\n" % (b"x" * 1000) * 10 + b"Content-Length: 0\r\n\r\n"
    async with Upstream(saying(data)) as upstream:
        assert (await ask(pool_of(client, upstream.endpoint))).status == 200
        keeper = await ask(pool_of(client, upstream.endpoint, spec_of(upstream.endpoint, head_bytes=8192)))
        assert keeper.errno and keeper.protocol_error == "response head too large" and keeper.response is None


async def test_a_length_beside_a_transfer_coding_is_dropped(client: StreamClient) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"whole") + b"0\r\n\r\n"
    async with Upstream(saying(data)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.body == b"whole" and keeper.response is not None and keeper.response.length is None


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"])
async def test_a_cut_head_is_no_answer(client: StreamClient, head: bytes) -> None:
    async with Upstream(saying(head, close=True)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.errno is not None and keeper.response is None


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_cut_body_is_a_fault(client: StreamClient, framing: bytes, way: str) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + chunk(b"some"))
        await gate.wait()
        getattr(peer, way)()

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint))
        await keeper.until(lambda: b"some" in keeper.body)
        gate.set()
        assert (await keeper.done()).errno and keeper.status == 200


async def test_a_malformed_chunk_is_a_fault(client: StreamClient) -> None:
    async with Upstream(saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n")) as upstream:
        assert (await ask(pool_of(client, upstream.endpoint))).errno


async def test_an_old_upstream_ends_its_body_with_the_connection(client: StreamClient) -> None:
    async with Upstream(saying(b"HTTP/1.0 200 OK\r\n\r\nall of it", close=True)) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.errno == 0 and keeper.body == b"all of it"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_body_end_with_their_head(client: StreamClient, status: bytes) -> None:
    async with Upstream(saying(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.errno == 0 and keeper.status in (204, 304) and not keeper.body


@pytest.mark.parametrize("body", [None, b"with a body"])
async def test_a_head_request_ends_with_the_head_and_keeps_the_length(client: StreamClient, body: bytes | None) -> None:
    async with Upstream(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")) as upstream:
        pool = pool_of(client, upstream.endpoint)
        for _ in range(2):
            keeper = await ask(pool, b"HEAD", body=body)
            assert keeper.errno == 0 and keeper.response is not None and keeper.response.length == 12345
        assert upstream.connections == 1 and {request.method for request in upstream.requests} == {b"HEAD"}


async def test_a_compressed_body_is_not_touched(client: StreamClient) -> None:
    body = bytes(range(256)) * 20
    async with Upstream(saying(answer(body, b"Content-Encoding: gzip"))) as upstream:
        keeper = await ask(pool_of(client, upstream.endpoint))
        assert keeper.body == body and keeper.errno == 0


@STREAMED
@pytest.mark.parametrize("known", [True, False], ids=["length", "chunked"])
async def test_an_upload_is_streamed(client: StreamClient, method: bytes, known: bool) -> None:
    pieces = [b"first", b"x" * 100_000, b"last"]
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        for _ in range(2):
            keeper = begin(pool, method, length=sum(map(len, pieces)) if known else -1)
            slot = keeper.slot
            assert slot is not None
            for piece in pieces:
                slot.feed(piece, last=piece == b"last")
                await keeper.until(lambda: not slot.queued or keeper.errno is not None)  # noqa: B023
            assert (await keeper.done()).status == 200
        for request in upstream.requests:
            assert request.method == method and request.body == b"".join(pieces)
            assert request.framing == (b"length" if known else b"chunked")
            assert request.names.count(b"expect") == 0
        assert upstream.connections == 1 or method in (b"POST", b"PATCH", b"BREW")


@STREAMED
async def test_a_whole_body_is_sent_with_its_length(client: StreamClient, method: bytes) -> None:
    body = bytes(range(256)) * 400
    async with Upstream() as upstream:
        assert (await ask(pool_of(client, upstream.endpoint), method, body=body)).status == 200
        assert upstream.requests[0].body == body and upstream.requests[0].get("content-length") == b"102400"


async def test_an_empty_streamed_upload_ends(client: StreamClient) -> None:
    async with Upstream() as upstream:
        keeper = begin(pool_of(client, upstream.endpoint), b"PUT", length=-1)
        assert keeper.slot is not None
        keeper.slot.feed(b"", last=True)
        assert (await keeper.done()).status == 200 and upstream.requests[0].body == b""


async def test_a_slow_upstream_holds_back_the_upload(client: StreamClient) -> None:
    read = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await read.wait()
        await hello(peer, message)

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint), b"PUT", length=-1)
        slot = keeper.slot
        assert slot is not None
        fed = 0
        while not slot.queued and fed < 64 * 1024 * 1024:
            slot.feed(bytes(65536))
            fed += 65536
            for _ in range(3):  # as many turns as the upload would need
                await asyncio.sleep(0)
        assert slot.queued and fed < 64 * 1024 * 1024
        read.set()
        slot.feed(b"", last=True)
        assert (await keeper.done()).status == 200 and len(upstream.requests[0].body) == fed


@pytest.mark.parametrize("status", [b"413 Content Too Large", b"302 Found", b"500 Oops"])
@pytest.mark.parametrize("length", [-1, 1_000_000])
async def test_an_early_final_answer_ends_a_paused_upload(client: StreamClient, status: bytes, length: int) -> None:
    async def script(peer: Peer, message: Message) -> None:
        await peer.send(answer(b"enough", status=status))
        await peer.gone()

    async with Upstream(script) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = begin(pool, b"POST", length=length)
        assert keeper.slot is not None
        keeper.slot.feed(b"some")
        await keeper.done()
        assert keeper.status == int(status[:3]) and keeper.body == b"enough"
        upstream.script = hello
        assert (await ask(pool, b"POST", body=b"{}")).status == 200


async def test_an_upload_and_its_answer_may_run_side_by_side(client: StreamClient) -> None:
    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := int(await peer.reader.readline(), 16):
            await peer.send(chunk((await peer.reader.readexactly(size + 2))[:-2]))
        await peer.reader.readline()
        await peer.send(b"0\r\n\r\n")

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint), b"POST", length=-1)
        slot = keeper.slot
        assert slot is not None
        for data in (b"one ", b"two ", b"three"):
            slot.feed(data)
            await keeper.until(lambda: keeper.body.endswith(data))  # noqa: B023 - awaited in this turn
        slot.feed(b"", last=True)
        assert (await keeper.done()).errno == 0 and keeper.body == b"one two three"


async def test_a_held_slot_keeps_its_end_until_the_client_can_take_it(client: StreamClient) -> None:
    class Held(Keeper):
        def on_progress(self, slot: object) -> None:
            assert self.slot is not None
            self.slot.hold = self.response is None
            super().on_progress(self.slot)

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await gate.wait()
        await peer.send(b"0123456789")

    gate = asyncio.Event()
    async with Upstream(script) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = begin(pool, keeper=Held(pool))
        await keeper.head()
        gate.set()
        slot = keeper.slot
        assert slot is not None
        await keeper.until(lambda: slot.paused)
        assert keeper.errno is None and not keeper.body
        slot.unhold()
        assert (await keeper.done()).body == b"0123456789"


async def test_a_slot_that_comes_back_knows_nothing_of_its_last_transfer(client: StreamClient) -> None:
    async with Upstream(saying(b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n")) as upstream:
        pool = pool_of(client, upstream.endpoint)
        assert (await ask(pool)).protocol_error or (await ask(pool)).errno
        upstream.script = hello
        keeper = await ask(pool)
        assert keeper.status == 200 and not keeper.protocol_error and keeper.errno == 0 and keeper.body == b"hello"


async def test_it_is_known_whether_a_connection_stood(client: StreamClient) -> None:
    """Also over a kept connection, which takes no time to make."""
    came = asyncio.Event()

    async def silent(peer: Peer, message: Message) -> None:
        came.set()
        await peer.gone()

    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool)
        upstream.script = silent
        keeper = begin(pool, b"GET")
        assert keeper.slot is not None
        await asyncio.wait_for(came.wait(), 60)
        assert keeper.slot.reached()
        client.driver.cancel(keeper.slot)  # type: ignore[union-attr]
        pool.release(keeper.slot)


async def test_pieces_of_any_size_are_sent_in_order_and_small_ones_are_no_objects_of_their_own(client: StreamClient) -> None:
    body = bytes(range(256)) * 4000
    cuts = [0, 1, 2, 3, 900, 901, 500_000, 500_001, 500_900, len(body)]
    async with Upstream(hello) as upstream:
        pool = pool_of(client, upstream.endpoint)
        keeper = begin(pool, b"POST", length=len(body))
        slot = keeper.slot
        assert slot is not None
        for start, end in itertools.pairwise(cuts):
            slot.feed(body[start:end], end == len(body))
        assert slot.queued == len(body) and len(slot.queue or ()) < 6
        assert (await keeper.done()).status == 200
        assert upstream.requests[-1].body == body


async def test_a_failed_transfer_is_an_error_by_what_had_arrived(client: StreamClient) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer, message: Message) -> None:
        await gate.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        await asyncio.Event().wait()

    async with Upstream(script) as upstream:
        keeper = begin(pool_of(client, upstream.endpoint))
        slot = keeper.slot
        assert slot is not None
        assert slot.fault(52, "Empty reply").kind.code == slot.fault(0, "").kind.code == "upstream_closed"
        assert slot.fault(28, "late").kind.code == "connect_timeout" and slot.fault(28, "late").detail == "curl 28: late"
        assert slot.fault(-1, "no descriptor").kind.code == "out_of_resources"
        assert slot.fault(-1, "no descriptor").detail == "no descriptor"
        gate.set()
        await keeper.head()
        assert slot.fault(56, "reset").kind.code == slot.fault(0, "").kind.code == "upstream_cut"
        slot.protocol_error = "a control character"
        assert slot.fault(23, "").kind.code == "upstream_malformed" and slot.fault(23, "").detail == "a control character"
        keeper.cancel()
