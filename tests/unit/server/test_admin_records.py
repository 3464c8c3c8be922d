"""The stream of access records: formatted once for all, bounded for a slow client, and nothing without clients."""

from __future__ import annotations

import io
import json

import pytest

from relayd.server import admin_records
from relayd.server.admin_records import FOLLOWING, MAX_OF_OWNER, RecordFeed, RecordStream
from relayd.server.stream_places import TooManyStreams
from relayd.telemetry.outcome import Record
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from tests.unit.proxy.harness import until
from tests.unit.server.recording_responder import RecordingResponder


class Case:
    """A feed with its telemetry."""

    def __init__(self) -> None:
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        self.ending = False
        self.feed = RecordFeed(self.telemetry, lambda: self.ending)

    def subscribed(self) -> tuple[RecordingResponder, RecordStream]:
        responder = RecordingResponder()
        stream = self.feed.open(responder, "GET", "")
        assert isinstance(stream, RecordStream)
        return responder, stream

    def account(self, count: int = 1, path: str = "/") -> None:
        for number in range(count):
            record = Record("public", "192.0.2.1", 1)
            record.id, record.status, record.path = f"id{number}", 200, path
            self.telemetry.account(record)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(admin_records, "INTERVAL_S", 0.001)
    return Case()


def lines(responder: RecordingResponder) -> list[dict[str, object]]:
    return [json.loads(line) for line in responder.written.splitlines()]


async def test_every_client_gets_every_record_and_nothing_happens_without_clients(case: Case) -> None:
    assert case.telemetry.on_record is None
    (one, first), (two, second) = case.subscribed(), case.subscribed()
    assert one.pieces == [FOLLOWING] and one.response is not None and one.response.length is None
    case.account(3)
    await until(lambda: len(lines(two)) > 3)
    assert [line.get("id") for line in lines(one)] == [None, "id0", "id1", "id2"] and one.written == two.written
    assert len(one.pieces) == 2, "records are written together"
    first.close()
    assert case.telemetry.on_record is not None
    second.close()
    assert case.telemetry.on_record is None
    case.account()
    assert len(lines(one)) == 4


async def test_a_slow_client_has_a_bound_and_learns_how_many_it_missed(case: Case) -> None:
    slow, stream = case.subscribed()
    quick, other = case.subscribed()
    slow.has_room = False
    case.account()
    await until(lambda: len(slow.pieces) > 1)
    case.account(400, "/" + "x" * 1000)
    await until(lambda: len(quick.pieces) > 2)
    assert len(slow.pieces) == 2 and stream.dropped > 100 and stream._size <= admin_records.MAX_BYTES
    slow.has_room = True
    stream.unhold()
    await until(lambda: len(slow.pieces) > 2)
    got = lines(slow)
    assert got[-1]["event"] == "records_dropped"
    assert len(got) - 3 + int(str(got[-1]["count"])) == 400 and stream.dropped == 0
    stream.close()
    other.close()


async def test_a_stream_ends_with_the_process_and_clients_are_bounded(case: Case) -> None:
    streams = [case.subscribed() for _ in range(MAX_OF_OWNER)]
    with pytest.raises(TooManyStreams):
        case.feed.open(RecordingResponder(), "GET", "")
    head = RecordingResponder()
    assert case.feed.open(head, "HEAD", "") is not None and head.ended
    case.account()
    case.ending = True
    await until(lambda: all(responder.ended for responder, _ in streams))
    assert all(len(lines(responder)) == 2 for responder, _ in streams), "what was there is written before the end"
    for _, stream in streams:
        stream.close()
