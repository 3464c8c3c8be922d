"""One attempt's answer between two dialects: content, failure, and what is held back."""

from __future__ import annotations

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
from relayd.proxy.translation import Translation


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
