"""Client streams: delivery by callback, pausing and the end of a stream."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop
from tornado.iostream import _StreamBuffer

from relayd.server.read_poller import ReadPoller
from relayd.server.stream import READS, RECORD, RECORDS, ClientStream, TlsClientStream
from tests.aids.turns import turned
from tests.unit.proxy.harness import until


def pair() -> tuple[ClientStream, socket.socket]:
    mine, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ClientStream(mine, ReadPoller(IOLoop.current(), lambda: None)), theirs


def goes_beyond(received: list[bytes], count: int) -> bool:
    return len(received) > count


async def test_a_stream_that_writes_nothing_has_no_buffers_and_shares_the_keys_of_its_dictionary() -> None:
    (stream, theirs), (other, others) = pair(), pair()
    with theirs, others:
        received: list[bytes] = []
        for one in (stream, other):
            one.begin(received.append)
            one.pause()
        assert len(stream.__dict__) <= 30  # CPython shares the keys of up to 30 members
        assert stream._write_futures is other._write_futures and not stream.backlog()
        await stream.write(b"x" * 100_000)
        assert stream._write_futures is not other._write_futures and not other.backlog()
        stream.close()
        other.close()


async def test_bytes_come_in_the_order_they_were_sent() -> None:
    stream, theirs = pair()
    received: list[bytes] = []
    with theirs:
        stream.begin(received.append)
        for piece in (b"one", b"two"):
            theirs.send(piece)
            await until(partial(received.__contains__, piece))
        assert b"".join(received) == b"onetwo"
        stream.close()


async def test_a_paused_stream_delivers_nothing_and_loses_nothing() -> None:
    stream, theirs = pair()
    received: list[bytes] = []
    with theirs:
        stream.begin(received.append)
        stream.pause()
        theirs.send(b"later")
        await turned()
        assert not received and not stream.reading_enabled
        stream.resume()
        await until(lambda: received)
        assert received == [b"later"] and stream.reading_enabled
        stream.close()


async def test_a_pause_within_the_callback_stops_delivery() -> None:
    stream, theirs = pair()
    received: list[bytes] = []

    def on_bytes(data: bytes) -> None:
        received.append(data)
        stream.pause()

    with theirs:
        stream.begin(on_bytes)
        sent = theirs.send(bytes(150_000))
        await until(lambda: received)
        await turned()
        assert len(received) == 1
        while sum(map(len, received)) < sent:
            count = len(received)
            stream.resume()
            await until(partial(goes_beyond, received, count))
        stream.close()


async def test_a_fast_client_does_not_hold_the_loop() -> None:
    stream, theirs = pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    turns: list[int] = [0]
    with theirs:
        sent = theirs.send(bytes(2 << 20))
        stream.begin(lambda data: turns.__setitem__(-1, turns[-1] + len(data)))
        while sum(turns) < sent:
            await asyncio.sleep(0)
            turns.append(0)
        assert max(turns) <= (READS + 1) * 65536
        stream.close()


async def test_the_end_of_the_other_side_closes_the_stream() -> None:
    for how in ("end", "half"):
        stream, theirs = pair()
        closed = asyncio.Event()
        stream.set_close_callback(closed.set)
        received: list[bytes] = []
        stream.begin(received.append)
        theirs.send(b"last")
        theirs.shutdown(socket.SHUT_WR) if how == "half" else theirs.close()
        await asyncio.wait_for(closed.wait(), 60)
        assert received == [b"last"] and stream.closed() and stream.backlog() == 0
        theirs.close()


async def test_the_backlog_counts_unwritten_bytes() -> None:
    stream, theirs = pair()
    with theirs:
        stream.begin(lambda data: None)
        future = stream.write(bytes(4 << 20))
        assert stream.backlog() > 0
        got = 0
        while got < 4 << 20:
            try:
                got += len(theirs.recv(1 << 20))
            except BlockingIOError:
                await asyncio.sleep(0)
        await future
        assert stream.backlog() == 0
        stream.close()


async def test_resuming_a_closed_stream_is_nothing(tmp_path: Path) -> None:
    stream, theirs = pair()
    with theirs:
        stream.begin(lambda data: None)
        stream.close()
        stream.resume()
        assert stream.closed()


async def test_only_while_bytes_wait_to_be_written_the_loop_knows_the_stream() -> None:
    stream, theirs = pair()
    received: list[bytes] = []
    with theirs:
        stream.begin(received.append)
        assert stream._state is None
        stream.write(bytes(4 << 20))
        assert stream._state is not None
        got = 0
        while got < 4 << 20:
            try:
                got += len(theirs.recv(1 << 20))
            except BlockingIOError:
                await asyncio.sleep(0)
        await until(lambda: stream._state is None)
        theirs.send(b"still read")
        await until(lambda: received)
        stream.close()


class Records(TlsClientStream):
    """A TLS stream after its handshake, with scripted records."""

    def __init__(self, records: list[bytes | OSError]) -> None:
        self.records, self.ended, self.received = records, False, list[bytes]()
        self.on_bytes, self.reading_enabled = self.received.append, True

    def read_from_fd(self, buffer: bytearray | memoryview) -> int | None:
        if not self.records:
            return None
        record = self.records.pop(0)
        if isinstance(record, OSError):
            raise record
        assert len(buffer) >= RECORD
        buffer[: len(record)] = record
        return len(record)

    def pause(self) -> None:
        self.reading_enabled = False

    def close(self, exc_info: object = False) -> None:
        self.ended = True

    def closed(self) -> bool:
        return self.ended

    def __del__(self) -> None:
        """It has no socket."""


def test_tls_records_of_one_byte_are_handed_on_together_and_a_bounded_number_in_a_turn() -> None:
    stream = Records([b"x"] * 1000)
    stream.receive()
    assert stream.received == [b"x" * RECORDS] and len(stream.records) == 1000 - RECORDS


def test_large_tls_records_are_bounded_too_and_none_is_cut() -> None:
    stream = Records([bytes([number]) * RECORD for number in range(100)])
    stream.receive()
    read = 100 - len(stream.records)
    assert b"".join(stream.received) == b"".join(bytes([number]) * RECORD for number in range(read))
    assert 4 <= read <= READS * 4


@pytest.mark.parametrize("end", [b"", OSError("reset")])
def test_bytes_before_the_end_of_a_tls_connection_are_delivered(end: bytes | OSError) -> None:
    stream = Records([b"a", b"b", end])
    stream.receive()
    assert stream.received == [b"ab"] and stream.ended


def test_a_pause_within_the_callback_of_a_tls_stream_stops_delivery() -> None:
    stream = Records([b"x" * RECORD] * 100)

    def pause(data: bytes) -> None:
        stream.received.append(data)
        stream.pause()

    stream.on_bytes = pause
    stream.receive()
    assert len(stream.received) == 1


@pytest.mark.parametrize("ending", ["close", "end_writing", "reset", "failed", "unwritten"])
async def test_only_a_clean_end_of_a_tls_stream_is_announced(ending: str) -> None:
    class Socket(socket.socket):
        alerts = 0

        def unwrap(self) -> None:
            self.alerts += 1
            raise ssl.SSLWantReadError

    mine, theirs = socket.socketpair()
    sock = Socket(fileno=mine.detach())
    sock.setblocking(False)
    stream = TlsClientStream(sock, ReadPoller(IOLoop.current(), lambda: None))
    stream._ssl_accepting = False  # after the handshake
    if ending == "unwritten":
        stream._write_buffer = _StreamBuffer()
        stream._write_buffer.append(b"x")
    endings: dict[str, Callable[[], None]] = {"end_writing": stream.end_writing, "reset": stream.reset, "failed": partial(stream.close, OSError())}
    endings.get(ending, stream.close)()
    assert sock.alerts == (ending in ("close", "end_writing"))
    assert theirs.recv(9) == b"" or ending == "reset"
    stream.close()
    theirs.close()
