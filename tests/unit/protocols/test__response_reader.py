"""What reading an answer has in common for all dialects, on golden transcripts of each."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from relayd.protocols import registry
from relayd.protocols._response_reader import (
    CUT,
    CUT_FRAME,
    EMPTY,
    EMPTY_STREAM,
    EVENTS,
    MOST_BODY_BYTES,
    Framing,
    ResponseReader,
)
from relayd.protocols.canon import Begin, End, Event, Failure, Finish, Message, Request, Text, TextDelta, ToolStart
from relayd.protocols.dialect import Options
from tests.aids.memories import Forgetful
from tests.docs.pairs import NEWEST
from tests.unit.protocols.transcripts import ANSWERS, Transcript, joined

BOM = b"\xef\xbb\xbf"
any_answer = pytest.mark.parametrize("answer", ANSWERS, ids=lambda one: f"{one.dialect}-{one.name}")
any_back = pytest.mark.parametrize("back", [one.name for one in registry.dialects() if one.has_endpoints])
PLAIN: dict[str, Any] = {
    "openai_chat": {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]},
    "openai_responses": {"status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": "Yes."}]}]},
    "anthropic_messages": {"content": [{"type": "text", "text": "Yes."}], "stop_reason": "end_turn"},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]},
    "ollama": {"message": {"content": "Yes."}, "done": True},
}


def read(dialect: str, *pieces: bytes, stream: bool, coding: str = "") -> list[Event]:
    made = registry.load(dialect).reader
    assert made is not None
    request = Request(NEWEST.get(dialect, "m"), (Message("user", (Text("hi"),)),), stream=stream)
    reader = made(request, Options(), Forgetful(), coding)
    return [event for piece in pieces for event in reader.decode(piece)] + reader.finish()


def of(answer: Transcript, *pieces: bytes, coding: str = "") -> list[Event]:
    events = joined(read(answer.dialect, *pieces, stream=answer.kind != "json", coding=coding))
    return [replace(event, id="minted") if isinstance(event, ToolStart) else event for event in events]


@any_answer
def test_a_byte_order_mark_is_ignored_wherever_it_is_cut(answer: Transcript) -> None:
    """RFC 8259 8.1: a parser may ignore it; the one of an event stream belongs to its format."""
    marked = BOM + answer.data
    for cut in range(6):
        assert of(answer, marked[:cut], marked[cut:]) == of(answer, answer.data)


@any_answer
def test_a_coded_answer_is_read(answer: Transcript) -> None:
    assert of(answer, gzip.compress(answer.data), coding="gzip") == of(answer, answer.data)
    coded = gzip.compress(answer.data)
    assert of(answer, *(coded[position : position + 1] for position in range(len(coded))), coding="gzip") == of(answer, answer.data)
    (failure,) = of(answer, answer.data, coding="br")
    assert isinstance(failure, Failure) and failure.code == "upstream_malformed" and "br" in failure.message


@any_back
@pytest.mark.parametrize("stream", [False, True])
def test_a_plain_answer_is_read_also_where_a_stream_was_asked_for(back: str, stream: bool) -> None:
    events = read(back, json.dumps(PLAIN[back]).encode(), stream=stream)
    assert any(isinstance(event, TextDelta) and event.text == "Yes." for event in events)
    assert events[-1] == End() and Finish("stop") in events


@any_back
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [b"", b" \n", BOM, BOM[:2]])
def test_an_answer_of_nothing_is_a_stream_that_was_cut_or_an_empty_body(back: str, stream: bool, body: bytes) -> None:
    assert read(back, body, stream=stream) == [EMPTY_STREAM if stream else EMPTY]


@any_back
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [b"Internal Server Error", b"<html>Bad Gateway</html>", b'{"half', b"\xff\xfe"])
def test_what_is_no_answer_is_one_failure(back: str, stream: bool, body: bytes) -> None:
    (failure,) = read(back, body, stream=stream)
    assert isinstance(failure, Failure) and failure.status == 502 and failure.code in ("upstream_malformed", "upstream_cut")


@any_answer
def test_half_a_frame_at_the_end_was_cut(answer: Transcript) -> None:
    if answer.kind == "json" or any(isinstance(event, Failure) for event in of(answer, answer.data)):
        return
    data = answer.data[: answer.data.index(b"{") + 9]
    assert of(answer, data)[-1] in (CUT_FRAME, CUT)


@any_back
def test_an_error_between_the_frames_of_a_stream_is_a_failure(back: str) -> None:
    stray = b'{"error": {"message": "no room", "type": "overloaded_error", "code": 503}}'
    if back == "ollama":
        stray += b"\n"
    events = read(back, b": hello\n\n" if back != "ollama" else b"", stray + b"\n\n", stream=True)
    assert isinstance(events[-1], Failure) and events[-1].message == "no room" and events[-1].status in (503, 529)


@any_back
def test_the_error_field_of_a_stream_is_told(back: str) -> None:
    if back != "ollama":  # whose streams are lines
        field = b'error: {"message": "no room", "type": "overloaded_error", "code": 503}\n\n'
        events = read(back, b": hello\n\n", field, stream=True)
        assert isinstance(events[-1], Failure) and events[-1].message == "no room" and events[-1].status in (503, 529)


class Words:
    """The smallest dialect: every value is a word."""

    def __init__(self) -> None:
        self.begun = self.over = False

    def value(self, value: Any, events: list[Event], is_error: bool) -> None:
        events.append(TextDelta(str(value)))

    def body(self, value: Any, events: list[Event]) -> None:
        events += (Begin(), TextDelta(str(value)), End())
        self.over = True

    def done_marker(self, events: list[Event]) -> None:
        self.over = True
        events.append(End())

    def end_of_stream(self, events: list[Event]) -> None:
        self.fail(CUT, events)

    def fail(self, failure: Failure, events: list[Event]) -> None:
        self.over = True
        events.append(failure)


def fed(*pieces: bytes, framing: Framing = EVENTS) -> list[Event]:
    reader = ResponseReader(Words(), stream=True, framing=framing)
    events = [event for piece in pieces for event in reader.decode(piece)]
    assert reader.decode(b"data: 7\n\n") == [] if events and isinstance(events[-1], End | Failure) else True
    return events + reader.finish()


def test_nothing_is_read_behind_the_end() -> None:
    assert fed(b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n") == [TextDelta("1"), End()]


def test_frames_lines_and_bodies_are_bounded() -> None:
    small = Framing(line_bytes=64, frame_bytes=128)
    (failure,) = fed(b"data: " + b"1" * 100, framing=small)
    assert isinstance(failure, Failure) and "too large" in failure.message
    (failure,) = fed(b"data: 1\n" * 50, framing=small)
    assert isinstance(failure, Failure) and "too large" in failure.message
    (failure,) = fed(b"1" * 100, framing=Framing(line_bytes=64, is_lines=True))
    assert isinstance(failure, Failure) and "too large" in failure.message
    piece = b" " * (1 << 20)
    (failure,) = fed(b"{", *[piece] * (MOST_BODY_BYTES // len(piece)))
    assert isinstance(failure, Failure) and "too large" in failure.message
    (failure,) = read("openai_chat", gzip.compress(b"{" + piece * 70), stream=True, coding="gzip")
    assert isinstance(failure, Failure)
