"""An exchange from the accepted head to its record: the client's and the endpoint's view, and its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relayd import clock
from relayd.proxy.exchange import Exchange
from relayd.proxy.sweep import enforce_timeouts
from tests.aids.turns import turned
from tests.unit.proxy.harness import OK, Harness, Side, get, post, running, saying, status_of, until

HOUR = 3600.0


def only(harness: Harness) -> Exchange:
    (one,) = harness.gateway.exchanges
    return one


def streaming(*pieces: bytes) -> tuple[list[asyncio.Event], object]:
    """An endpoint that sends each piece when its event is set."""
    events = [asyncio.Event() for _ in pieces]

    async def script(side: Side) -> None:
        await side.message()
        for event, piece in zip(events, pieces, strict=True):
            await event.wait()
            side.write(piece)
        await side.gone()

    return events, script


async def silent(side: Side) -> None:
    await side.message()
    await side.gone()


# ---- complete responses


async def test_a_request_goes_there_and_its_answer_comes_back(tmp_path: Path) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(side: Side) -> None:
        seen.append(await side.message())
        side.write(b"HTTP/1.1 201 Made\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhallo")

    async with running(tmp_path, script) as harness:
        head, body = await harness.ask(post(b"ping", "X-Client: 1"))
        assert head.startswith(b"HTTP/1.1 201 Made\r\nX-A: b\r\n") and body == b"hallo"
        assert seen[0][0].startswith(b"POST /x HTTP/1.1\r\n") and seen[0][1] == b"ping"
        assert b"X-Client: 1\r\n" in seen[0][0]
        (record,) = await harness.accounted(1)
        assert (record.status, record.bytes_in, record.bytes_out, record.attempts) == (201, 4, 5, 1)
        assert (record.outcome, record.route, record.upstream) == ("complete", "all", "web")
        assert 0 <= record.first_byte_s <= record.total_s


@pytest.mark.parametrize(("version", "answer", "framing", "body"), [
    ("1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"Content-Length: 2", b"ok"),
    ("1.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"Transfer-Encoding: chunked",
     b"2\r\nok\r\n0\r\n\r\n"),
    ("1.1", b"HTTP/1.0 200 OK\r\n\r\nok", b"Transfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
    ("1.0", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"Connection: close", b"ok"),
    ("1.0", b"HTTP/1.0 200 OK\r\n\r\nok", b"Connection: close", b"ok"),
])
async def test_every_framing_becomes_one_that_the_client_can_read(
    tmp_path: Path, version: str, answer: bytes, framing: bytes, body: bytes
) -> None:
    async def script(side: Side) -> None:
        await side.message()
        side.write(answer)  # and close

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", "Connection: close", version=version))
        head = await side.head()
        assert framing in head and await side.rest() == body
        await harness.accounted(1)


@pytest.mark.parametrize(("method", "answer"), [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"), ("GET", b"HTTP/1.1 204 None\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Same\r\nContent-Length: 1000\r\n\r\n"),
])
async def test_answers_without_a_body_leave_the_connection_in_step(tmp_path: Path, method: str, answer: bytes) -> None:
    async with running(tmp_path, saying(answer)) as harness:
        side = await harness.connect()
        for _ in range(2):
            side.write(get(method=method))
            head, _ = await side.message(bodyless=True)
            assert (b"Content-Length: 1000" in head) == (b"1000" in answer)
        assert all(record.bytes_out == 0 for record in await harness.accounted(2))


async def test_interim_heads_pass_to_newer_clients_only(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    async with running(tmp_path, saying(answer)) as harness:
        side = await harness.connect()
        side.write(get())
        assert (await side.head()).startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
        assert (await side.message())[1] == b"ok"
        assert status_of((await harness.ask(get(version="1.0")))[0]) == 200


@pytest.mark.parametrize("pass_on", [True, False])
async def test_trailers_pass_where_the_route_wants_them(tmp_path: Path, pass_on: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nHost: b\r\n\r\n"
    async with running(tmp_path, saying(answer), route=f"trailers: {str(pass_on).lower()}") as harness:
        side = await harness.connect()
        side.write(get("/x", "Connection: close"))
        tail = (await side.rest()).partition(b"\r\n\r\n")[2]
        assert tail == b"2\r\nok\r\n0\r\n" + (b"X-Sum: 7\r\n" if pass_on else b"") + b"\r\n"


async def test_events_leave_in_the_turn_they_come_in(tmp_path: Path) -> None:
    events, script = streaming(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n")
    async with running(tmp_path, script) as harness:  # type: ignore[arg-type]
        side = await harness.connect()
        side.write(get())
        events[0].set()
        assert status_of(await side.head()) == 200
        for event, piece in zip(events[1:], (b"one", b"two"), strict=True):
            event.set()
            assert await side.chunk() == piece
        assert await side.chunk() == b""
        await harness.accounted(1)


# ---- incomplete responses


@pytest.mark.parametrize(("answer", "code"), [
    (b"", "upstream_closed"), (b"HTTP/1.1 200 OK\r\nContent-Le", "upstream_closed"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "upstream_malformed"),
    (b"HTTP/1.1 099 No\r\n\r\n", "upstream_malformed"),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "upstream_malformed"),
])
async def test_an_answer_that_is_none_becomes_a_502(tmp_path: Path, answer: bytes, code: str) -> None:
    async def script(side: Side) -> None:
        await side.message()
        side.write(answer)

    async with running(tmp_path, script) as harness:
        head, body = await harness.ask(post(b"x"))
        assert status_of(head) == 502 and b"curl" not in body and b"127.0.0.1" not in body
        (record,) = await harness.accounted(1)
        assert (record.code, record.ended_by) == (code, "upstream") and len(harness.endpoint_sides) == 1


@pytest.mark.parametrize(("version", "begin", "end"), [
    ("1.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", b""),
    ("1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\none", b""),
    ("1.0", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", b"3\r\ntw"),
    ("1.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", b"zz\r\n"),
])
async def test_a_cut_answer_never_looks_complete(tmp_path: Path, version: str, begin: bytes, end: bytes) -> None:
    cut = asyncio.Event()

    async def script(side: Side) -> None:
        await side.message()
        side.write(begin)
        await cut.wait()
        side.write(end)

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get(version=version))
        head = await side.head()
        assert status_of(head) == 200
        cut.set()
        if b"chunked" in head:
            assert b"0\r\n\r\n" not in await side.rest()
        elif b"Content-Length" in head:
            assert len(await side.rest()) < 10
        else:
            with pytest.raises(ConnectionResetError):
                await side.rest()
        (record,) = await harness.accounted(1)
        assert record.status == 200 and record.code.startswith("upstream") and record.outcome == "upstream.transfer"


async def test_an_endpoint_that_nobody_serves_is_a_502(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.server.close()
        head, _ = await harness.ask(get())
        assert status_of(head) == 502 and (await harness.accounted(1))[0].code == "connect_failed"


async def test_an_answer_that_is_cut_before_its_head_went_on_is_a_502(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.message()
        side.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\none")

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", "Connection: close"))
        answer = await side.rest()
        assert status_of(answer) == 502 or not answer.endswith(b"}\n")
        assert (await harness.accounted(1))[0].outcome in ("upstream.attempt", "upstream.transfer")


# ---- time, by the sweep


async def test_a_silent_endpoint_times_out(tmp_path: Path) -> None:
    async with running(tmp_path, silent, upstream="timeouts: {first_byte: 300s}") as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        now = clock.monotonic()
        enforce_timeouts(only(harness), now + 299)
        assert harness.gateway.exchanges
        enforce_timeouts(only(harness), now + 301)
        assert status_of((await side.message())[0]) == 504
        assert (await harness.accounted(1))[0].code == "first_byte_timeout"


async def test_silence_inside_an_answer_breaks_it_off(tmp_path: Path) -> None:
    events, script = streaming(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    async with running(tmp_path, script, route="timeouts: {idle: 5s}") as harness:  # type: ignore[arg-type]
        side = await harness.connect()
        side.write(get())
        events[0].set()
        await side.head()
        assert await side.exactly(3) == b"abc"
        enforce_timeouts(only(harness), clock.monotonic() + 4)
        enforce_timeouts(only(harness), clock.monotonic() + 6)
        assert await side.rest() == b""
        (record,) = await harness.accounted(1)
        assert (record.code, record.status, record.outcome) == ("idle_timeout", 200, "upstream.transfer")


async def test_a_limit_for_the_whole_exchange_holds_from_its_begin(tmp_path: Path) -> None:
    async with running(tmp_path, silent, upstream="timeouts: {total: 10s}") as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.gateway.exchanges)
        enforce_timeouts(only(harness), only(harness).record.started + 9.9)
        enforce_timeouts(only(harness), only(harness).record.started + 10.1)
        assert status_of((await side.message())[0]) == 504
        assert (await harness.accounted(1))[0].code == "total_timeout"


async def test_limits_that_are_off_never_end_anything(tmp_path: Path) -> None:
    async with running(tmp_path, silent, upstream="timeouts: {first_byte: 0, idle: 0, total: 0}") as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        enforce_timeouts(only(harness), clock.monotonic() + 1000 * HOUR)
        assert harness.gateway.exchanges
        side.close()
        await harness.accounted(1)


# ---- clients that leave


@pytest.mark.parametrize("began", [False, True])
async def test_when_the_client_leaves_the_endpoint_is_left_at_once(tmp_path: Path, began: bool) -> None:
    left = asyncio.Event()

    async def script(side: Side) -> None:
        await side.message()
        if began:
            side.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await side.gone()
        left.set()

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        if began:
            await side.head()
        side.close()
        await asyncio.wait_for(left.wait(), 60)
        (record,) = await harness.accounted(1)
        assert (record.code, record.ended_by) == ("client_gone", "client")
        assert record.status == (200 if began else 499)


async def test_a_route_may_let_the_endpoint_finish_for_a_client_that_left(tmp_path: Path) -> None:
    done, go = asyncio.Event(), asyncio.Event()

    async def script(side: Side) -> None:
        await side.message()
        side.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
        await go.wait()
        side.write(b"x" * 2000000)
        await side.writer.drain()
        done.set()
        await side.gone()

    async with running(tmp_path, script, route="on_disconnect: finish") as harness:
        side = await harness.connect()
        side.write(get())
        await side.head()
        side.close()
        await until(lambda: not harness.listening.connections)
        assert harness.gateway.exchanges and not harness.accounts
        go.set()
        await asyncio.wait_for(done.wait(), 60)
        (record,) = await harness.accounted(1)
        assert (record.code, record.status, record.ended_by) == ("client_gone", 200, "client")


async def test_a_finishing_endpoint_that_breaks_is_accounted_once(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(side: Side) -> None:
        await side.message()
        await go.wait()

    async with running(tmp_path, script, route="on_disconnect: finish") as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        side.close()
        await until(lambda: not harness.listening.connections)
        go.set()
        (record,) = await harness.accounted(1)
        assert record.status == 499


async def test_a_client_that_dies_in_its_upload_never_completes_it(tmp_path: Path) -> None:
    came: list[bytes] = []

    async def script(side: Side) -> None:
        await side.head()
        came.append(await side.rest())

    async with running(tmp_path, script, route="on_disconnect: finish") as harness:
        side = await harness.connect()
        side.write(get("/x", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
        await until(lambda: harness.endpoint_sides)
        await until(lambda: harness.accounts or only(harness).record.bytes_in == 3)
        side.reset()
        (record,) = await harness.accounted(1)
        assert (record.code, record.status) == ("client_gone", 499)
        await until(lambda: came)
        assert not came[0].endswith(b"0\r\n\r\n")


# ---- uploads


async def test_a_streamed_body_arrives_piece_by_piece(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        for piece in (b"one", b"two"):
            assert await side.exactly(3) == piece
            got.set()
        side.write(OK)

    got = asyncio.Event()
    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 6", method="POST") + b"one")
        await asyncio.wait_for(got.wait(), 60)
        side.write(b"two")
        assert (await side.message())[1] == b"ok"
        assert (await harness.accounted(1))[0].bytes_in == 6


async def test_a_chunked_body_above_the_limit_is_413_and_the_endpoint_left(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def script(side: Side) -> None:
        await side.head()
        await side.gone()
        left.set()

    async with running(tmp_path, script, route="body_limit: 10") as harness:
        side = await harness.connect()
        side.write(get("/x", "Transfer-Encoding: chunked", method="POST") + b"8\r\n12345678\r\n")
        await until(lambda: harness.endpoint_sides)
        side.write(b"8\r\n12345678\r\n")
        head, body = await side.message()
        assert status_of(head) == 413 and b"Connection: close" in head and b"body_too_large" in body
        await asyncio.wait_for(left.wait(), 60)
        assert (await harness.accounted(1))[0].code == "body_too_large"


async def test_a_whole_chunked_body_above_the_limit_is_refused_too(tmp_path: Path) -> None:
    async with running(tmp_path, route="body_limit: 10") as harness:
        head, _ = await harness.ask(get("/x", "Transfer-Encoding: chunked", method="POST") + b"b\r\n12345678901\r\n0\r\n\r\n")
        assert status_of(head) == 413 and not harness.endpoint_sides
        await harness.accounted(1)


async def test_an_early_answer_reaches_a_client_that_still_uploads(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        side.write(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        await side.gone()

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 100000", method="POST") + b"x" * 1000)
        head, body = await side.message()
        assert status_of(head) == 401 and body == b"no" and b"Connection: close" in head
        side.write(b"x" * 10000)  # the client does not know yet; its data is drained and not answered by a reset
        side.writer.write_eof()
        assert await side.rest() == b""
        (record,) = await harness.accounted(1)
        assert (record.status, record.outcome) == (401, "complete")


async def test_an_endpoint_that_does_not_read_holds_back_the_client(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(side: Side) -> None:
        head = await side.head()
        await go.wait()
        await side.exactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        side.write(OK)

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        size = 24 << 20
        side.write(get("/x", f"Content-Length: {size}", method="POST"))
        side.write(bytes(size))
        await until(lambda: harness.gateway.exchanges and only(harness).buffered() > 64 * 1024)
        await turned(500)
        assert only(harness).buffered() < 512 * 1024 and only(harness).record.bytes_in < size
        go.set()
        assert (await side.message())[1] == b"ok"
        assert (await harness.accounted(1))[0].bytes_in == size


async def test_a_client_that_does_not_read_holds_back_the_endpoint(tmp_path: Path) -> None:
    size = 24 << 20

    async def script(side: Side) -> None:
        await side.message()
        side.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await side.gone()

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        side.write(get())
        await until(lambda: harness.gateway.exchanges and only(harness).buffered() > 0)
        await turned(500)
        assert only(harness).buffered() < 768 * 1024 and only(harness).record.bytes_out < size
        enforce_timeouts(only(harness), clock.monotonic() + HOUR)  # idle does not count while the client is the slow side
        assert harness.gateway.exchanges
        side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        head, body = await side.message()
        assert status_of(head) == 200 and len(body) == size
        assert (await harness.accounted(1))[0].outcome == "complete"


# ---- one record for every kind of end


@pytest.mark.parametrize("ending", ["stop", "gone", "timeout", "endpoint"])
async def test_endings_that_meet_are_one_account(tmp_path: Path, ending: str) -> None:
    async with running(tmp_path, silent) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        exchange, connection = only(harness), harness.connection
        if ending == "stop":
            connection.end()
        elif ending == "gone":
            side.reset()
            await until(lambda: not harness.listening.connections)
        elif ending == "timeout":
            enforce_timeouts(exchange, clock.monotonic() + HOUR)
        else:
            harness.endpoint_sides[0].reset()
            await until(lambda: harness.accounts)
        connection.end()
        exchange.client_gone()
        enforce_timeouts(exchange, clock.monotonic() + HOUR)
        exchange.on_drained()
        await harness.accounted(1)
