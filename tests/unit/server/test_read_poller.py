"""The read poller: one epoll for many connections, and one call behind each turn."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from relayd.server.read_poller import ReadPoller
from tests.aids.turns import turned
from tests.unit.proxy.harness import until


class RecordingStream:
    """A polled socket that records its events."""

    def __init__(self, events: list[str], name: str) -> None:
        self.mine, self.theirs = socket.socketpair()
        self.mine.setblocking(False)
        self.events, self.name, self.reading_enabled = events, name, True

    def receive(self) -> None:
        self.events.append(f"{self.name}:{self.mine.recv(100).decode()}")

    def on_hangup(self) -> None:
        self.events.append(f"{self.name} hung up")
        self.reading_enabled = True

    def on_unread_end(self) -> None:
        self.events.append(f"{self.name} ended")

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def streams(events: list[str]) -> Iterator[list[RecordingStream]]:
    made = [RecordingStream(events, name) for name in "ab"]
    yield made
    for stream in made:
        stream.close()


async def test_after_is_called_once_behind_the_reads_of_a_turn(events: list[str], streams: list[RecordingStream]) -> None:
    poller = ReadPoller(IOLoop.current(), lambda: events.append("after"))
    for stream in streams:
        poller.add(stream.mine.fileno(), stream)
        stream.theirs.send(b"x")
    await until(lambda: "after" in events)
    assert sorted(events[:2]) == ["a:x", "b:x"] and events[2:] == ["after"]
    poller.close()


async def test_a_paused_connection_wakes_the_loop_only_after_rearm(events: list[str], streams: list[RecordingStream]) -> None:
    turns: list[int] = []
    poller = ReadPoller(IOLoop.current(), lambda: turns.append(1))
    stream = streams[0]
    poller.add(stream.mine.fileno(), stream)
    stream.reading_enabled = False
    stream.theirs.send(b"later")
    await until(lambda: turns)
    await turned()
    assert len(turns) == 1 and not events
    stream.reading_enabled = True
    poller.rearm(stream.mine.fileno())
    await until(lambda: events)
    assert events == ["a:later"]
    poller.close()


async def test_the_hangup_of_a_paused_connection_is_reported(events: list[str], streams: list[RecordingStream]) -> None:
    poller = ReadPoller(IOLoop.current(), lambda: None)
    stream = streams[0]
    poller.add(stream.mine.fileno(), stream)
    stream.reading_enabled = False
    stream.theirs.send(b"unread")
    await turned()
    stream.theirs.close()
    await until(lambda: events)
    assert events[0] == "a hung up"
    poller.close()


async def test_the_end_behind_unread_bytes_of_a_paused_connection_is_reported_once(events: list[str], streams: list[RecordingStream]) -> None:
    turns: list[int] = []
    poller = ReadPoller(IOLoop.current(), lambda: turns.append(1))
    stream, other = streams
    poller.add(stream.mine.fileno(), stream)
    poller.watch_end(other.mine.fileno(), other)
    for one in streams:
        one.reading_enabled = False
        one.theirs.send(b"unread")
    await turned()
    assert not events
    for one in streams:
        one.theirs.shutdown(socket.SHUT_WR)
    await until(lambda: len(events) == 2)
    assert sorted(events) == ["a ended", "b ended"]
    count = len(turns)
    await turned()
    assert len(turns) <= count + 1
    for one in streams:
        one.reading_enabled = True
    poller.rearm(stream.mine.fileno())
    poller.unwatch(other.mine.fileno())
    poller.unwatch(other.mine.fileno())
    await until(lambda: len(events) > 2)
    assert events[2] == "a:unread" and "b:unread" not in events
    poller.close()


async def test_a_connection_that_raises_stops_no_other(events: list[str], streams: list[RecordingStream]) -> None:
    class Broken(RecordingStream):
        def receive(self) -> None:
            super().receive()
            raise ValueError(self.name)

    poller = ReadPoller(IOLoop.current(), lambda: events.append("after"))
    broken = Broken(events, "c")
    for stream in (broken, *streams):
        poller.add(stream.mine.fileno(), stream)
        stream.theirs.send(b"x")
    await until(lambda: "after" in events)
    assert sorted(events) == ["a:x", "after", "b:x", "c:x"]
    poller.close()
    broken.close()


async def test_a_removed_connection_is_not_polled(events: list[str], streams: list[RecordingStream]) -> None:
    poller = ReadPoller(IOLoop.current(), lambda: events.append("after"))
    first = streams[0]

    class Remover(RecordingStream):
        def receive(self) -> None:
            super().receive()
            for stream in streams:
                poller.remove(stream.mine.fileno())

    remover = Remover(events, "r")
    poller.add(remover.mine.fileno(), remover)
    remover.theirs.send(b"x")
    await until(lambda: "after" in events)
    for stream in streams:
        poller.add(stream.mine.fileno(), stream)
        stream.theirs.send(b"y")
    poller.remove(first.mine.fileno())
    events.clear()
    await until(lambda: "after" in events)
    assert events[0] == "b:y" and "a:y" not in events
    poller.close()
    remover.close()
