"""One attempt's answer between two dialects: content, failure, and what is held back."""

from __future__ import annotations

import gzip
import zlib

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    RefusalDelta,
    TextDelta,
    ThoughtDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Rendered
from relayd.proxy.translation import STEP, Translation


class Reading:
    """Gives the events it was told, one batch per feed; remembers the bytes."""

    def __init__(self, *batches: list[Event], last: list[Event] | None = None) -> None:
        self.batches, self.last, self.bytes = list(batches), last or [], b""

    def feed(self, data: bytes) -> list[Event]:
        self.bytes += data
        return self.batches.pop(0) if self.batches else []

    def end(self) -> list[Event]:
        return self.last


class Writing:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def feed(self, events: list[Event]) -> bytes:
        self.events += events
        return b"|".join(type(event).__name__.encode() for event in events)

    def comment(self) -> bytes:
        return b""

    def whole(self) -> Rendered:
        return Rendered(200, b"whole")


@pytest.mark.parametrize(("event", "content"), [
    (Begin("i"), False), (Usage(1, 2), False), (TextDelta("a"), True), (RefusalDelta("no"), True),
    (ThoughtDelta("hm"), True), (ToolStart(0, "c", "f"), True),
])
def test_only_words_thoughts_refusals_and_calls_are_content(event: Event, content: bool) -> None:
    translation = Translation(Reading([event]), Writing())
    translation.take(b"x")
    assert translation.content is content


def test_nothing_reaches_the_renderer_before_it_is_asked_for() -> None:
    writing = Writing()
    translation = Translation(Reading([Begin()], [TextDelta("a")], last=[Finish("stop"), End()]), writing)
    translation.take(b"1")
    assert writing.events == []
    translation.take(b"2")
    assert translation.render() == b"Begin|TextDelta" and translation.render() == b""
    translation.end()
    assert translation.render() == b"Finish|End" and translation.done and translation.finish == "stop"
    assert translation.whole().body == b"whole"


def test_an_end_without_an_end_is_a_cut() -> None:
    translation = Translation(Reading([TextDelta("a")]), Writing())
    translation.take(b"1")
    translation.end()
    assert translation.failure is not None and translation.failure.code == "upstream_cut" and not translation.done


def test_what_comes_behind_a_failure_is_not_heard() -> None:
    writing = Writing()
    translation = Translation(Reading([Failure(503, "busy"), TextDelta("late")], [End()]), writing)
    translation.take(b"1")
    translation.take(b"2")
    translation.broken(Failure(502, "again"))
    translation.end()
    assert translation.render() == b"Failure" and translation.failure == Failure(503, "busy") and not translation.content


def test_a_content_coding_nobody_asked_for_is_taken_off() -> None:
    reading = Reading()
    packed = gzip.compress(b"the words")
    translation = Translation(reading, Writing(), "gzip")
    for place in range(len(packed)):
        translation.take(packed[place : place + 1])
    assert reading.bytes == b"the words"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_coding_that_cannot_be_read_is_a_failure(coding: str) -> None:
    translation = Translation(Reading(), Writing(), coding)
    translation.take(b"certainly not packed")
    assert translation.failure is not None and translation.failure.code == "upstream_malformed"


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_one_call_reads_a_bounded_number_of_decoded_bytes_and_all_are_read_in_order(encoding: str) -> None:
    class Measuring(Reading):
        most = 0

        def feed(self, data: bytes) -> list[Event]:
            self.most = max(self.most, len(data))
            return super().feed(data)

    body = b"".join(b"data: %d\n\n" % number for number in range(200_000))
    packed = {"": body, "gzip": gzip.compress(body), "deflate": zlib.compress(body)}[encoding]
    reader = Measuring(last=[End()])
    translation = Translation(reader, Writing(), encoding)
    calls = 0
    for start in range(0, len(packed), 16384):
        translation.take(packed[start : start + 16384])
        while translation.unfinished:
            translation.take(b"")
            calls += 1
    translation.end()
    assert reader.bytes == body and reader.most <= STEP and calls >= len(body) // STEP - len(packed) // 16384 - 1
    assert translation.done


def test_a_step_ends_with_a_frame_where_one_ends_within_it() -> None:
    class Cuts(Reading):
        def feed(self, data: bytes) -> list[Event]:
            assert data.endswith(b"\n\n"), data[-20:]
            return []

    translation = Translation(Cuts(), Writing())
    translation.take((b"data: " + b"x" * 100 + b"\n\n") * 500)
    while translation.unfinished:
        translation.take(b"")


def test_what_comes_behind_a_failure_or_the_end_is_no_work_left() -> None:
    for last in (Failure(502, "no"), End()):
        translation = Translation(Reading([last]), Writing())
        translation.take(b"x" * 10 * STEP)
        assert not translation.unfinished


def test_the_end_reads_what_was_left() -> None:
    reader = Reading(last=[End()])
    translation = Translation(reader, Writing())
    translation.take(b"x" * 3 * STEP)
    translation.end()
    assert len(reader.bytes) == 3 * STEP and translation.done
