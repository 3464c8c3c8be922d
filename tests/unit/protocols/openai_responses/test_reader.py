"""A Responses endpoint's answer to events: there and back again, odd endpoints, cuts and failures."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols._answer_reader import AnswerReader
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    TextDelta,
    ThoughtDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.openai_responses.reader import ResponsesAnswer
from relayd.protocols.openai_responses.reasoning_items import unpack_native
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from tests.aids.responses_grammar import read_stream
from tests.unit.protocols.openai_responses.talk import HELLO, an_ask, read
from tests.unit.protocols.openai_responses.test_renderer import CUSTOM, WEATHER, runs, without_chance

MEMBERS: dict[str, Any] = {"tools": [WEATHER, CUSTOM], "include": ["reasoning.encrypted_content"]}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def events_of(data: bytes, cuts: tuple[int, ...] = ()) -> list[Event]:
    reader = AnswerReader(ResponsesAnswer(), stream=True)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    events = [event for a, b in itertools.pairwise(places) for event in reader.feed(data[a:b])] + reader.end()
    assert reader.feed(b"data: {}\n\n") == reader.end() == []
    return events


def rendered(events: list[Event], stream: bool) -> bytes:
    ask = an_ask()
    renderer = ResponsesRenderer(read(ask, stream=stream, **MEMBERS), ask)
    data = renderer.feed(events)
    return data if stream else renderer.whole().body


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    kept = without_chance(response)
    kept["output"] = [{k: v for k, v in item.items() if k != "encrypted_content"} for item in kept["output"]]
    return kept


@settings(deadline=None)
@given(runs(), st.lists(st.integers(0, 4000), max_size=6))
def test_what_is_rendered_is_read_again_with_the_same_meaning(events: list[Event], cuts: list[int]) -> None:
    data = rendered(events, stream=True)
    response = read_stream(data)
    again = read_stream(rendered(events_of(data, tuple(cuts)), stream=True))
    told, meant = comparable(again), comparable(response)
    if response["status"] == "failed":  # the canonical form has no word for the end of an item: the last may be open again
        told_items, meant_items = told.pop("output"), meant.pop("output")
        assert told_items == meant_items[: len(told_items)] and len(meant_items) - len(told_items) <= 1
        assert told == meant
    else:
        assert told == meant
        whole = read_stream(rendered(events_of(rendered(events, stream=False)), stream=True))
        assert comparable(whole) == comparable(response)


def test_a_text_and_its_usage() -> None:
    events = events_of(rendered(HELLO, stream=True))
    assert [type(event) for event in events] == [Begin, TextDelta, TextDelta, Usage, Finish, End]
    assert events[3] == Usage(3, 2, 1, 0, 1)


def test_a_delta_is_out_as_soon_as_its_frame_is() -> None:
    reader = AnswerReader(ResponsesAnswer(), stream=True)
    assert reader.feed(sse({"type": "response.output_text.delta", "output_index": 0, "delta": "a"})) == [TextDelta("a")]


def test_what_the_closing_events_say_beyond_the_deltas_is_said() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "abc"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'}
    final = {"type": "response.completed", "response": {"status": "completed", "output": [message, call]}}
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "a"}
    told = [event for event in events_of(sse(delta, final)) if not isinstance(event, Begin)]
    assert told == [TextDelta("a"), TextDelta("bc"), ToolStart(0, "c", "f"), ToolDelta(0, '{"a":1}'), Finish("tool_calls"), End()]


def test_thoughts_of_two_channels_are_told_once_and_their_parts_are_apart() -> None:
    where = {"output_index": 0}
    raw = {"type": "response.reasoning_text.delta", "delta": "raw", **where}
    short = {"type": "response.reasoning_summary_text.delta", "delta": "short", **where}
    final = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    assert ThoughtDelta("short") not in events_of(sse(raw, short, final))
    parts = [event for event in events_of(sse(short, {**short, "summary_index": 1}, final)) if isinstance(event, ThoughtDelta)]
    assert "".join(part.text for part in parts) == "short\n\nshort"


def test_a_proof_says_whose_it_is() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    body = json.dumps({"status": "completed", "output": [item]}).encode()
    [proof] = [event for event in events_of(body) if isinstance(event, ThoughtDelta)]
    assert unpack_native(proof.signature) == ("rs_1", "gAAA")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"), (b"  \n", "empty"), (b"<html>", "not JSON"), (b'{"id": "x"}', "no response"), (b"{", "not JSON"),
        (b"data: {\n\n", "not JSON"), (sse({"type": "response.created", "response": {}}), "before its answer"),
        (b"data: [DONE]\n\n", "before its answer"),
        (sse({"type": "error", "message": "too bad", "code": "x"}), "too bad"),
        (sse({"type": "error", "error": {"message": "too bad"}}), "too bad"),
        (sse({"error": {"message": "too bad"}}), "too bad"),
        (sse({"type": "response.failed", "response": {"status": "failed", "error": {"message": "too bad"}}}), "too bad"),
        (sse({"type": "response.failed", "response": {"status": "failed"}}), "without saying"),
        (json.dumps({"status": "failed", "error": {"message": "too bad"}, "output": []}).encode(), "too bad"),
    ],
)  # fmt: skip
def test_what_is_no_whole_answer_is_a_failure(data: bytes, words: str) -> None:
    last = events_of(data)[-1]
    assert isinstance(last, Failure) and words in last.message


def test_a_rate_limit_in_the_stream_keeps_its_code_and_status() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Please try again in 3s."}
    [failure] = [e for e in events_of(sse({"type": "response.failed", "response": {"status": "failed", "error": error}}))
                 if isinstance(e, Failure)]  # fmt: skip
    assert (failure.status, failure.code) == (429, "rate_limit_exceeded")


@given(st.lists(st.sampled_from([b"data: ", b"{", b"}", b'"type":', b'"response.output_item.done"', b"\n\n", b"null", b"[]",
                                 b',"item":', b'"output_index":', b"-1", b'"error"', b"\xff"]), max_size=20).map(b"".join))  # fmt: skip
def test_whatever_comes_ends_in_end_or_failure(data: bytes) -> None:
    events = events_of(data)
    assert isinstance(events[-1], End | Failure)
    assert not any(isinstance(event, End | Failure) for event in events[:-1])


ODD = st.recursive(st.none() | st.integers(-3, 3) | st.text(max_size=2) | st.sampled_from(["message", "function_call", "reasoning"]),
                   lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(
                       ["type", "content", "name", "call_id", "text", "summary", "arguments", "message"]), inner), max_leaves=6)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["output", "error", "usage", "status", "incomplete_details", "id"]), ODD))
def test_a_body_of_any_shape_ends_in_end_or_failure(body: dict[str, Any]) -> None:
    assert isinstance(events_of(json.dumps(body).encode())[-1], End | Failure)
