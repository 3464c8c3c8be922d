"""One client connection: requests, responses, pipelining and timeouts."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from relayd import clock, work_queue
from relayd.proxy.exchange import Exchange
from relayd.server import connection
from relayd.telemetry.outcome import Record
from tests.aids.turns import turned
from tests.unit.proxy.harness import OK, Side, Turns, get, post, running, saying, status_of, until

FIXED = "{name: fixed, match: {prefix: /fixed}, respond: {status: 200, body: hallo}},"


async def silent(side: Side) -> None:
    await side.message()
    await side.gone()


def arrived_or_over(exchange: Exchange, size: int) -> bool:
    return exchange.record.bytes_in == size or exchange.is_over


# ---- one request after the other


async def test_a_connection_carries_many_requests(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        side = await harness.connect()
        for _ in range(3):
            side.write(post(b"abc"))
            head, body = await side.message()
            assert body == b"ok" and b"Connection" not in head
        assert len(harness.listening.connections) == 1 and len(harness.endpoint_sides) == 1
        await harness.accounted(3)


async def test_requests_behind_one_another_are_answered_in_order(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        while True:
            head, body = await side.message()
            text = head.split(b" ")[1] + body
            side.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    async with running(tmp_path, script, before=FIXED) as harness:
        side = await harness.connect()
        side.write(get("/a") + post(b"body", path="/b") + get("/fixed") + get("/c") + get("/d", "Connection: close") + get("/e"))
        bodies = [(await side.message())[1] for _ in range(5)]
        assert bodies == [b"/a", b"/bbody", b"hallo", b"/c", b"/d"]
        assert await side.rest() == b""
        await harness.accounted(5)


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_a_request_may_come_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    bodies: list[bytes] = []

    async def script(side: Side) -> None:
        while True:
            bodies.append((await side.message())[1])
            side.write(OK)

    whole = get("/x", "Transfer-Encoding: chunked", method="POST") + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n" + post(b"12345")
    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        for place in range(0, len(whole), size):
            side.write(whole[place : place + size])
            await asyncio.sleep(0)
        assert [(await side.message())[1] for _ in range(2)] == [b"ok", b"ok"]
        assert bodies == [b"abcde", b"12345"]
        assert [record.bytes_in for record in await harness.accounted(2)] == [5, 5]


async def test_old_clients_stay_only_when_they_ask(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        side = await harness.connect()
        side.write(get("/x", "Connection: keep-alive", version="1.0"))
        assert b"Connection: keep-alive\r\n" in (await side.message())[0]
        side.write(get("/x", version="1.0"))
        assert b"Connection: close\r\n" in (await side.message())[0]
        assert await side.rest() == b""
        await harness.accounted(2)


async def test_the_last_request_that_a_connection_may_carry_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, listener="limits: {requests: 2}") as harness:
        side = await harness.connect()
        side.write(get() + get() + get())
        assert b"Connection: close" not in (await side.message())[0]
        assert b"Connection: close\r\n" in (await side.message())[0]
        assert await side.rest() == b""
        await harness.accounted(2)


async def test_one_empty_line_before_a_request_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        side = await harness.connect()
        side.write(b"\r\n" + get())
        assert status_of((await side.message())[0]) == 200
        side.write(b"\r")
        await turned()
        side.write(b"\n" + get())
        assert status_of((await side.message())[0]) == 200
        side.write(b"\r\n\r\n" + get())
        assert status_of((await side.message())[0]) == 400
        await harness.accounted(3)


# ---- refusals


@pytest.mark.parametrize(("raw", "status"), [
    (b"\x16\x03\x01\x02\x00", 400), (b"GET /x HTTP/1.1\n", 400), (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\n", 505), (b"GET /x HTTP/1.1\r\n\r\n", 400), (b"GET /" + b"x" * 20000, 414),
    (b"GET / HTTP/1.1\r\nA: " + b"x" * 70000, 431), (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: much\r\n\r\n", 417),
])
async def test_a_malformed_request_is_rejected_once_and_the_connection_ends(tmp_path: Path, raw: bytes, status: int) -> None:
    async with running(tmp_path) as harness:
        side = await harness.connect()
        side.write(raw + get())
        head, _ = await side.message()
        assert status_of(head) == status and b"Connection: close\r\n" in head
        assert await side.rest() == b""
        (record,) = await harness.accounted(1)
        assert record.status == status and not harness.endpoint_sides


async def test_a_refusal_behind_a_request_waits_for_its_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        side = await harness.connect()
        side.write(get() + b"garbage here\r\n\r\n")
        assert (await side.message())[1] == b"ok"
        assert status_of((await side.message())[0]) == 400
        await harness.accounted(2)


async def test_a_body_that_turns_malformed_ends_the_exchange(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def script(side: Side) -> None:
        await side.head()
        assert not (await side.rest()).endswith(b"0\r\n\r\n")
        left.set()

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
        await until(lambda: harness.endpoint_sides)
        side.write(b"3\r\nabcdef\r\n")
        head, _ = await side.message()
        assert status_of(head) == 400 and b"Connection: close" in head
        await asyncio.wait_for(left.wait(), 60)
        assert (await harness.accounted(1))[0].code == "bad_request"


# ---- Expect


async def test_a_client_with_expect_gets_100_continue(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert await side.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        side.write(b"abc")
        assert status_of((await side.message())[0]) == 200
        await harness.accounted(1)


@pytest.mark.parametrize("target", [("/fixed", "5"), ("/x", "999999999")])
async def test_a_rejected_client_gets_no_100_continue(tmp_path: Path, target: tuple[str, str]) -> None:
    path, length = target
    async with running(tmp_path, before=FIXED) as harness:
        side = await harness.connect()
        side.write(get(path, f"Content-Length: {length}", "Expect: 100-continue", method="POST"))
        head, _ = await side.message()
        assert status_of(head) in (200, 413) and b"Connection: close" in head
        assert await side.rest() == b""
        await harness.accounted(1)


async def test_a_body_sent_with_the_head_needs_no_100_continue(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        assert status_of((await harness.ask(post(b"abc", "Expect: 100-continue")))[0]) == 200


# ---- lingering


async def test_an_answer_outlives_the_rest_of_an_upload(tmp_path: Path) -> None:
    async with running(tmp_path, before=FIXED) as harness:
        side = await harness.connect()
        side.write(get("/fixed", "Content-Length: 900000", method="POST") + bytes(500000))
        head, body = await side.message()
        assert status_of(head) == 200 and body == b"hallo"
        assert await side.rest() == b""  # the other direction is still read
        side.write(bytes(400000))
        await side.writer.drain()
        harness.connection.enforce_timeouts(clock.monotonic() + 4)
        assert harness.listening.connections
        harness.connection.enforce_timeouts(clock.monotonic() + 6)
        await until(lambda: not harness.listening.connections)
        await harness.accounted(1)


async def test_an_upload_without_end_is_not_drained_for_ever(tmp_path: Path) -> None:
    async with running(tmp_path, before=FIXED) as harness:
        side = await harness.connect()
        side.write(get("/fixed", "Content-Length: 90000000", method="POST"))
        await side.message()
        side.write(bytes(8 << 20))
        await until(lambda: not harness.listening.connections)
        await harness.accounted(1)


# ---- time


async def test_a_header_section_has_one_limit_that_dribbling_does_not_reset(tmp_path: Path) -> None:
    async with running(tmp_path, listener="timeouts: {header: 10s}") as harness:
        side = await harness.connect()
        side.write(b"GET / HTTP/1.1\r\n")
        await until(lambda: harness.listening.connections)
        await turned()
        begun = clock.monotonic()
        side.write(b"A: b\r\n")
        await turned()
        harness.connection.enforce_timeouts(begun + 9.5)
        harness.connection.enforce_timeouts(begun + 10)
        assert status_of((await side.message())[0]) == 408
        assert await side.rest() == b""
        assert (await harness.accounted(1))[0].code == "request_timeout"


async def test_a_silent_connection_is_closed_without_a_response(tmp_path: Path) -> None:
    async with running(tmp_path, listener="timeouts: {header: 10s}") as harness:
        side = await harness.connect()
        await until(lambda: harness.listening.connections)
        harness.connection.enforce_timeouts(clock.monotonic() + 11)
        assert await side.rest() == b""
        await harness.accounted(0)


async def test_an_idle_connection_is_closed_after_the_keepalive_timeout(tmp_path: Path) -> None:
    async with running(tmp_path, listener="timeouts: {keepalive: 75s, header: 10s}") as harness:
        side = await harness.connect()
        side.write(get())
        await side.message()
        harness.connection.enforce_timeouts(clock.monotonic() + 74)
        assert harness.listening.connections
        harness.connection.enforce_timeouts(clock.monotonic() + 76)
        assert await side.rest() == b""
        await harness.accounted(1)


async def test_a_body_that_stops_coming_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, silent, listener="timeouts: {body: 30s}") as harness:
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 30000", method="POST") + bytes(20000))
        await until(lambda: harness.endpoint_sides)
        harness.connection.enforce_timeouts(clock.monotonic() + 29)
        harness.connection.enforce_timeouts(clock.monotonic() + 31)
        assert status_of((await side.message())[0]) == 408
        assert (await harness.accounted(1))[0].code == "request_timeout"


async def test_a_dribbled_body_is_too_slow(tmp_path: Path) -> None:
    async with running(tmp_path, silent, listener="timeouts: {body: 30s}") as harness:
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 30000", method="POST") + bytes(10))
        await until(lambda: harness.gateway.exchanges)
        await turned()
        begun = clock.monotonic()
        side.write(bytes(10))
        await until(lambda: not harness.gateway.exchanges or next(iter(harness.gateway.exchanges)).record.bytes_in == 20)
        harness.connection.enforce_timeouts(begun + 30)
        assert status_of((await side.message())[0]) == 408
        await harness.accounted(1)


@pytest.mark.parametrize("route", ["", "match: {model: m}"], ids=["streamed", "gathered"])
async def test_a_dribbled_body_is_too_slow_however_short_its_limit_of_silence_is(
    tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_s, real = 0.0, clock.monotonic
    async with running(tmp_path, silent, listener="timeouts: {body: 5s}", route=route) as harness:
        monkeypatch.setattr(clock, "monotonic", lambda: real() + later_s)
        side = await harness.connect()
        side.write(get("/x", "Content-Length: 30000", method="POST") + bytes(10))
        await until(lambda: harness.gateway.exchanges)
        (exchange,) = harness.gateway.exchanges
        for sent in range(11, 19):  # one byte every four seconds
            later_s += 4
            side.write(bytes(1))
            await until(partial(arrived_or_over, exchange, sent))
            harness.connection.enforce_timeouts(clock.monotonic())
        assert status_of((await side.message())[0]) == 408
        assert (await harness.accounted(1))[0].code == "request_timeout"


async def test_a_client_that_reads_nothing_is_broken_off(tmp_path: Path) -> None:
    size = 32 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with running(tmp_path, saying(answer), listener="timeouts: {write: 60s}") as harness:
        side = await harness.connect()
        side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        side.write(get())
        await until(lambda: harness.listening.connections and harness.connection.buffered() > 0)
        await turned(500)  # fill the buffers of the kernel
        now = clock.monotonic()
        harness.connection.enforce_timeouts(now)
        harness.connection.enforce_timeouts(now + 59)
        assert harness.gateway.exchanges
        harness.connection.enforce_timeouts(now + 61)
        (record,) = await harness.accounted(1)
        assert (record.code, record.status) == ("client_stalled", 200)
        await until(lambda: not harness.listening.connections)


# ---- the end


async def test_a_drain_closes_connections_between_requests(tmp_path: Path) -> None:
    async with running(tmp_path, silent) as harness:
        idle, busy = await harness.connect(), await harness.connect()
        busy.write(get())
        await until(lambda: harness.gateway.exchanges and len(harness.listening.connections) == 2)
        harness.gateway.draining = True
        assert sorted(one.close_idle() for one in list(harness.listening.connections)) == [False, True]
        assert await idle.rest() == b""
        harness.endpoint_sides[0].write(OK)
        head, _ = await busy.message()
        assert b"Connection: close\r\n" in head and await busy.rest() == b""
        await harness.accounted(1)


async def test_an_ended_connection_answers_while_it_can(tmp_path: Path) -> None:
    async with running(tmp_path, silent) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        harness.connection.end()
        assert status_of((await side.message())[0]) == 503
        record = (await harness.accounted(1))[0]
        assert (record.code, record.ended_by) == ("stopped", "admin")


async def test_a_half_closed_client_counts_as_gone(tmp_path: Path) -> None:
    async with running(tmp_path, silent) as harness:
        side = await harness.connect()
        side.write(get())
        side.writer.write_eof()
        assert (await harness.accounted(1))[0].code == "client_gone"


@pytest.mark.parametrize("how", ["half", "close", "reset"])
@pytest.mark.parametrize("first", [get("/x"), post(b"x" * 200_000)])
async def test_a_client_that_pipelines_more_than_is_read_is_noticed_when_it_leaves(tmp_path: Path, how: str, first: bytes) -> None:
    async with running(tmp_path, silent) as harness:
        side = await harness.connect()
        side.write(first + get("/y", "X-Pad: " + "x" * 400) * (2 * connection.PIPELINED // 400))
        await side.writer.drain()
        await until(lambda: harness.endpoint_sides and not harness.connection._stream.reading_enabled)
        if how == "half":
            side.writer.write_eof()
        else:
            side.reset() if how == "reset" else side.close()
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone"
        await until(lambda: not harness.listening.connections)


async def test_pipelined_requests_before_the_end_are_answered_if_no_endpoint_is_needed(tmp_path: Path) -> None:
    async with running(tmp_path, before=FIXED, listener="limits: {requests: 0}") as harness:
        side = await harness.connect()
        count = 2 * connection.PIPELINED // 400
        side.write(get("/fixed", "X-Pad: " + "x" * 400) * count)
        side.writer.write_eof()
        for _ in range(count):
            assert (await side.message())[1] == b"hallo"
        assert await side.rest() == b""


# ---- a bounded piece of work per turn


@pytest.mark.parametrize("path", ["/fixed", "/none"])
async def test_requests_in_one_segment_that_are_answered_here_leave_the_loop_to_others(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "SHARE_S", 0.0)
    whole = "routes: [{name: fixed, match: {prefix: /fixed}, respond: {status: 200, body: hallo}}]"
    async with running(tmp_path, whole=whole) as harness:
        side = await harness.connect()
        account, turns = harness.gateway.account, Turns()

        def noted(record: Record) -> None:
            turns.note()
            account(record)

        harness.gateway.account = noted
        with turns:
            side.write(get(path) * 100)
            for _ in range(100):
                await side.message()
        assert turns.total == 100 and turns.most == 1


async def test_pipelined_requests_beyond_the_buffer_are_all_answered_and_read_no_faster_than_that(tmp_path: Path) -> None:
    async with running(tmp_path, before=FIXED, listener="limits: {requests: 0}") as harness:
        side = await harness.connect()
        one = get("/fixed", "X-Pad: " + "x" * 400)
        count = 3 * connection.PIPELINED // len(one)
        side.write(one * count)
        most = 0
        for _ in range(count):
            assert (await side.message())[1] == b"hallo"
            most = max(most, len(harness.connection._buffer))
        assert most < 4 * connection.PIPELINED
        side.write(get("/fixed"))
        assert (await side.message())[1] == b"hallo"


async def test_small_chunks_of_a_body_are_decoded_a_bounded_number_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "SHARE_S", 0.0)
    bodies: list[bytes] = []

    async def script(side: Side) -> None:
        bodies.append((await side.message())[1])
        side.write(OK)

    async with running(tmp_path, script) as harness:
        side, turns = await harness.connect(), Turns()
        side.write(get("/x", "Transfer-Encoding: chunked", method="POST"))
        await until(lambda: harness.gateway.exchanges)
        (exchange,) = harness.gateway.exchanges
        feed = type(exchange.body)._feed

        def noted(self: object, slot: object, data: bytes, last: bool) -> None:
            turns.note(len(data))
            feed(self, slot, data, last)  # type: ignore[arg-type]

        monkeypatch.setattr(type(exchange.body), "_feed", noted)
        with turns:
            side.write(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
            assert status_of((await side.message())[0]) == 200
        assert bodies == [b"x" * 20_000] and turns.total == 20_000 and turns.most <= 2 * connection.CHUNKS


async def test_small_chunks_do_not_undo_the_pause_that_a_slow_endpoint_causes(tmp_path: Path) -> None:
    async def script(side: Side) -> None:
        await side.head()
        await side.gone()

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", "Transfer-Encoding: chunked", method="POST"))
        await until(lambda: harness.gateway.exchanges)
        (exchange,) = harness.gateway.exchanges
        most = 0
        piece = b"1\r\nx\r\n" * 10_000 + b"8000\r\n" + b"y" * 0x8000 + b"\r\n"
        await until(lambda: harness.endpoint_sides)
        harness.endpoint_sides[0].writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(600):
            side.write(piece)
            await asyncio.sleep(0)
            slot = None if exchange.attempt is None else exchange.attempt.slot
            most = max(most, 0 if slot is None else slot.queued)
        assert most < 512 * 1024


# ---- a client that has ended its side


async def test_requests_before_a_client_eof_are_answered_before_the_close(tmp_path: Path) -> None:
    async with running(tmp_path, before=FIXED, listener="limits: {requests: 0}") as harness:
        side = await harness.connect()
        side.write(get("/fixed") * 300)
        side.writer.write_eof()
        assert (await side.rest()).count(b"HTTP/1.1 200 ") == 300
        await until(lambda: not harness.listening.connections)


LARGE = "routes: [{name: fixed, match: {prefix: /fixed}, respond: {status: 200, body: " + "x" * 900_000 + "}}]"


async def test_answers_that_wait_for_a_client_that_has_ended_its_side_are_delivered(tmp_path: Path) -> None:
    async with running(tmp_path, whole=LARGE) as harness:
        side = await harness.connect()
        side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        side.write(get("/fixed") * 30)
        side.writer.write_eof()
        await until(lambda: harness.connection._client_eof and harness.connection.buffered())
        side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(30):
            assert len((await side.message())[1]) == 900_000
        assert await side.rest() == b""
        await until(lambda: not harness.listening.connections)


async def test_the_next_request_waits_while_the_client_does_not_take_the_answers_before_it(tmp_path: Path) -> None:
    async with running(tmp_path, whole=LARGE) as harness:
        side = await harness.connect()
        side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        side.write(get("/fixed") * 300)
        await until(lambda: harness.connection.buffered() > connection.HIGH)
        begun = len(harness.accounts)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(harness.accounts) <= begun + 1 and harness.connection.buffered() < 2_000_000
        harness.connection.enforce_timeouts(clock.monotonic() + 11)  # no timeout: relayd itself delays these requests
        side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(300):
            head, body = await side.message()
            assert status_of(head) == 200 and len(body) == 900_000


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_an_early_answer_is_delivered_to_a_client_that_has_ended_its_side(tmp_path: Path, framing: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def script(side: Side) -> None:
        await side.head()
        side.write(b"HTTP/1.1 401 No\r\nContent-Length: 8\r\n\r\n")
        begun.set()
        await ended.wait()
        side.write(b"in peace")
        await side.gone()

    async with running(tmp_path, script) as harness:
        side = await harness.connect()
        side.write(get("/x", framing, method="POST") + b"10\r\n")
        await begun.wait()
        head = await side.head()
        side.writer.write_eof()
        await until(lambda: harness.connection._client_eof)
        ended.set()
        assert status_of(head) == 401 and await side.rest() == b"in peace"
        await until(lambda: not harness.listening.connections)
        await harness.accounted(1)


async def test_a_client_eof_during_a_request_to_an_endpoint_counts_as_gone(tmp_path: Path) -> None:
    async with running(tmp_path, silent) as harness:
        side = await harness.connect()
        side.write(get("/x"))
        await until(lambda: harness.endpoint_sides)
        side.writer.write_eof()
        assert await side.rest() == b""
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone"
