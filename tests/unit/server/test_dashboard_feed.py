"""The event stream of the dashboard: one reading for all, differences, resumption, slow and dead clients, bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.access.sessions import Session
from relayd.proxy.respond import answer
from relayd.server import dashboard_feed
from relayd.server.dashboard_feed import DashboardFeed, DashboardStream
from relayd.server.dashboard_state import State
from relayd.server.stream_places import TooManyStreams
from relayd.wire.json_steps import Steps
from tests.unit.proxy.harness import until
from tests.unit.server.recording_responder import RecordingResponder, later


class Source:
    """A state with one number, which grows with each reading unless it is `still`."""

    def __init__(self) -> None:
        self.made = 0
        self.still = False

    def __call__(self) -> Steps[State]:
        self.made += not self.still
        yield
        return {"process": {"made": [self.made]}, "streams": {"same": [1, 2]}}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(dashboard_feed, "INTERVAL_S", 0.001)
    return Source()


def opened(
    feed: DashboardFeed, last_id: bytes | None = None, session: Session | None = None, owner: str = ""
) -> tuple[RecordingResponder, DashboardStream]:
    responder = RecordingResponder()
    stream = feed.open(responder, answer(200, "text/event-stream", b""), last_id, session, owner)
    assert isinstance(stream, DashboardStream)
    return responder, stream


def events(responder: RecordingResponder) -> list[tuple[str, str, Any]]:
    """The events written so far: id, name, data."""
    blocks = (block.split("\n") for block in responder.written.decode().split("\n\n") if "data:" in block)
    return [(lines[0][4:], lines[1][7:], json.loads(lines[2][6:])) for lines in blocks]


async def test_the_state_comes_once_and_then_only_what_has_changed(source: Source) -> None:
    feed = DashboardFeed(source, bool, later)
    (one, first), (two, second) = opened(feed), opened(feed)
    await until(lambda: len(one.pieces) > 3)
    first.close()
    second.close()
    found = events(one)
    assert found[0][1] == "state" and found[0][2]["tables"]["streams"] == {"same": [1, 2]}
    assert found[1][1:] == ("change", {"process": {"set": {"made": {"0": 2}}}})
    assert one.pieces == two.pieces and source.made == len(found)


async def test_a_browser_that_reconnects_gets_what_it_has_missed(source: Source) -> None:
    feed = DashboardFeed(source, bool, later)
    one, first = opened(feed)
    await until(lambda: len(one.pieces) > 4)
    first.close()
    last = events(one)[1][0]
    two, second = opened(feed, last.encode())
    missed = events(two)
    assert [name for _, name, _ in missed] == ["change"] * len(missed)
    assert missed[0][2]["process"]["set"]["made"]["0"] == 3 and missed[-1][2]["process"]["set"]["made"]["0"] == source.made
    second.close()
    for strange in (b"x", b"-", b"00-1", last.partition("-")[0].encode() + b"-999999", last.encode() + b"x"):
        three, third = opened(feed, strange)
        assert events(three)[0][1] == "state", strange
        third.close()


async def test_differences_are_kept_within_bounds(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_feed, "MAX_RECENT", 3)
    feed = DashboardFeed(source, bool, later)
    one, first = opened(feed)
    await until(lambda: len(one.pieces) > 8)
    first.close()
    two, second = opened(feed, events(one)[0][0].encode())
    assert events(two)[0][1] == "state" and len(feed._recent) == 3
    second.close()


async def test_a_slow_client_gets_the_whole_state_when_it_has_read(source: Source) -> None:
    feed = DashboardFeed(source, bool, later)
    slow, stream = opened(feed)
    other, second = opened(feed)
    slow.has_room = False
    await until(lambda: len(slow.pieces) == 2)
    await until(lambda: len(other.pieces) > 6)
    assert len(slow.pieces) == 2
    slow.has_room = True
    stream.unhold()
    await until(lambda: len(slow.pieces) > 3)
    assert [name for _, name, _ in events(slow)][:4] == ["state", "change", "state", "change"]
    stream.close()
    second.close()


async def test_a_client_that_never_reads_is_disconnected(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_feed, "STALLED_TICKS", 3)
    feed = DashboardFeed(source, bool, later)
    dead = RecordingResponder()
    dead.has_room = False
    stream = feed.open(dead, answer(200, "text/event-stream", b""), None, None, "")
    await until(lambda: dead.failed)
    assert len(dead.pieces) == 1
    stream.close()


async def test_without_changes_only_a_comment_is_sent_now_and_then(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_feed, "SILENT_TICKS", 2)
    source.still = True
    feed = DashboardFeed(source, bool, later)
    responder, stream = opened(feed)
    await until(lambda: len(responder.pieces) > 3)
    assert responder.pieces[1:4] == [b":\n\n"] * 3
    stream.close()


async def test_a_stream_whose_state_cannot_be_read_is_not_counted(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_feed, "MAX_STREAMS", 1)
    faults = [RuntimeError("one row")]

    def read() -> Steps[State]:
        if faults:
            raise faults.pop()
        return (yield from source())

    feed, session = DashboardFeed(read, bool, later), Session(b"d", 1e9)
    with pytest.raises(RuntimeError, match="one row"):
        opened(feed, None, session)
    assert session.streams == 0
    opened(feed, None, session)[1].close()


async def test_streams_are_bounded_for_each_session_each_consumer_and_in_total(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard_feed, "MAX_OF_OWNER", 3)
    monkeypatch.setattr(dashboard_feed, "ON_SOCKET", 1)
    monkeypatch.setattr(dashboard_feed, "MAX_STREAMS", 4)
    monkeypatch.setattr(dashboard_feed, "MAX_OF_SESSION", 2)
    feed, mine, new = DashboardFeed(source, bool, later), Session(b"d", 1e9), Session(b"d", 1e9)
    streams = [opened(feed, None, mine, "ops")[1] for _ in range(2)]
    with pytest.raises(TooManyStreams) as refused:
        opened(feed, None, mine, "ops")
    assert refused.value.of_owner
    streams.append(opened(feed, None, new, "ops")[1])
    with pytest.raises(TooManyStreams) as refused:
        opened(feed, None, new, "ops")
    assert refused.value.of_owner
    with pytest.raises(TooManyStreams) as refused:
        opened(feed, None, None, "other")
    assert not refused.value.of_owner
    streams.append(opened(feed)[1])
    with pytest.raises(TooManyStreams) as refused:
        opened(feed)
    assert not refused.value.of_owner and new.streams == 1
    for stream in streams:
        stream.close()
    assert mine.streams == 0
    opened(feed, None, mine)[1].close()


@pytest.mark.parametrize("ends", ["drain", "reload"])
async def test_streams_end_with_their_configuration_and_before_the_process(source: Source, ends: str) -> None:
    ending: list[bool] = []
    feed = DashboardFeed(source, lambda: bool(ending), later)
    responder, stream = opened(feed)
    if ends == "drain":
        ending.append(True)
    responder.superseded = ends == "reload"
    await until(lambda: responder.ended)
    stream.close()
