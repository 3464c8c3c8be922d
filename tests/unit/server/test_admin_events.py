"""The events: one for all clients, none for a slow client, and an end when a newer plan is in force."""

from __future__ import annotations

import pytest

from relayd.server import admin_events
from relayd.server.admin_events import EventFeed, EventStream
from relayd.server.stream_places import TooManyStreams
from relayd.wire.json_steps import Steps
from tests.unit.proxy.harness import until
from tests.unit.server.recording_responder import RecordingResponder, later


class Status:
    """Numbers the created events."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Steps[bytes]:
        self.made += 1
        yield
        return b'{"made": %d}\n' % self.made


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Status:
    monkeypatch.setattr(admin_events, "INTERVAL_S", 0.001)
    return Status()


def subscribed(feed: EventFeed) -> tuple[RecordingResponder, EventStream]:
    responder = RecordingResponder()
    stream = feed.open(responder, "GET", "team")
    assert isinstance(stream, EventStream)
    return responder, stream


async def test_the_first_event_comes_at_once_and_all_clients_share_the_later_ones(status: Status) -> None:
    feed = EventFeed(status, bool, later)
    (one, first), (two, second) = subscribed(feed), subscribed(feed)
    assert one.pieces == [b'retry: 1000\n\nevent: status\ndata: {"made": 1}\n\n']
    assert one.response is not None and one.response.length is None
    assert one.response.get(b"content-type") == "text/event-stream; charset=utf-8"
    await until(lambda: len(one.pieces) > 2)
    assert one.pieces[1:3] == two.pieces[1:3] == [b'event: status\ndata: {"made": %d}\n\n' % made for made in (3, 4)]
    first.close()
    second.close()


async def test_a_client_that_is_behind_gets_the_newest_when_it_has_caught_up(status: Status) -> None:
    feed = EventFeed(status, bool, later)
    (slow, stream), (quick, other) = subscribed(feed), subscribed(feed)
    slow.has_room = False
    await until(lambda: stream.is_behind)
    before = len(quick.pieces)
    await until(lambda: len(quick.pieces) > before + 3)
    assert stream.is_behind and len(slow.pieces) < len(quick.pieces) - 3
    has = len(slow.pieces)
    slow.has_room = True
    stream.unhold()
    await until(lambda: len(slow.pieces) > has)
    assert slow.pieces[has] in quick.pieces[before + 3:]
    stream.close()
    other.close()


async def test_a_stream_ends_in_good_order_when_it_is_superseded(status: Status) -> None:
    feed = EventFeed(status, bool, later)
    (responder, stream), (_, other) = subscribed(feed), subscribed(feed)
    responder.superseded = True
    await until(lambda: responder.ended)
    stream.close()
    other.close()


async def test_all_streams_end_in_good_order_when_the_process_ends(status: Status) -> None:
    ending: list[bool] = []
    feed = EventFeed(status, lambda: bool(ending), later)
    both = [subscribed(feed), subscribed(feed)]
    await until(lambda: len(both[1][0].pieces) > 1)
    ending.append(True)
    await until(lambda: all(responder.ended for responder, _ in both))
    for _, stream in both:
        stream.close()


async def test_no_event_is_created_without_clients(status: Status) -> None:
    feed, other = EventFeed(status, bool, later), EventFeed(Status(), bool, later)
    subscribed(feed)[1].close()
    responder, stream = subscribed(other)
    await until(lambda: len(responder.pieces) > 5)
    assert status.made == 1
    stream.close()


async def test_the_number_of_clients_is_bounded(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_events, "MAX_OF_OWNER", 1)
    feed = EventFeed(status, bool, later)
    _, stream = subscribed(feed)
    with pytest.raises(TooManyStreams):
        feed.open(RecordingResponder(), "GET", "team")
    other = feed.open(RecordingResponder(), "GET", "other")
    for one in (stream, other):
        one.close()
    subscribed(feed)[1].close()


async def test_a_client_whose_first_event_fails_is_not_subscribed(status: Status) -> None:
    faults = [RuntimeError("one upstream")]

    def read() -> Steps[bytes]:
        if faults:
            raise faults.pop()
        return (yield from status())

    feed, responder = EventFeed(read, bool, later), RecordingResponder()
    with pytest.raises(RuntimeError, match="one upstream"):
        feed.open(responder, "GET", "team")
    assert responder.response is None and not feed._clients
    first, stream = subscribed(feed)
    await until(lambda: len(first.pieces) > 2)
    assert responder.pieces == []
    stream.close()


async def test_head_has_the_fields_of_the_stream_and_ends(status: Status) -> None:
    responder = RecordingResponder()
    feed = EventFeed(status, bool, later)
    assert feed.open(responder, "HEAD", "team") is not None
    assert responder.ended and not responder.written and not status.made
    assert responder.response is not None and responder.response.length is None
