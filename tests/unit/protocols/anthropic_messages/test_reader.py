"""The reader: streams as the API sends them, cut anywhere, and everything that can go wrong with one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import _response_reader
from relayd.protocols._response_reader import ResponseReader
from relayd.protocols.anthropic_messages import thinking_memory
from relayd.protocols.anthropic_messages.reader import FRAMING, MessagesDecoder
from relayd.protocols.anthropic_messages.renderer import renderer
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Reasoning,
    ReasoningDelta,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from tests.aids.memories import Kept
from tests.unit.protocols.anthropic_messages.grammar import check, context, request

START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_01", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100,
                  "output_tokens": 1, "service_tier": "standard"},
    },
}  # fmt: skip
STOP: dict[str, Any] = {"type": "message_stop"}


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **members: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind} | members}


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None, output: int = 7, **usage: int) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": output} | usage,
    }


def stream(*values: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (str(v["type"]).encode(), json.dumps(v).encode()) for v in values)


AGENT = stream(
    START, {"type": "ping"},
    opened(0, type="thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="I must "),
    delta(0, "thinking_delta", thinking="look: ä€😀"), delta(0, "signature_delta", signature="EqQB"), closed(0),
    opened(1, type="redacted_thinking", data="opaque"), closed(1),
    opened(2, type="text", text=""), delta(2, "text_delta", text="Looking."), closed(2),
    opened(3, type="server_tool_use", id="srv", name="web_search", input={}),
    delta(3, "input_json_delta", partial_json='{"q'), closed(3),
    opened(4, type="web_search_tool_result", tool_use_id="srv", content=[]), closed(4),
    opened(5, type="tool_use", id="toolu_1", name="read", input={}), delta(5, "input_json_delta", partial_json=""),
    delta(5, "input_json_delta", partial_json='{"path": "a'), delta(5, "input_json_delta", partial_json='"}'), closed(5),
    opened(6, type="tool_use", id="toolu_2", name="now", input={}), closed(6),
    ended("tool_use", 42, output_tokens_details={"thinking_tokens": 9}), STOP,  # type: ignore[arg-type]
)  # fmt: skip
AGENT_EVENTS: list[Event] = [
    Begin("msg_01", "claude-x"),
    Usage(115, 1, cached_read=100, cache_creation=5),
    ReasoningDelta("I must "),
    ReasoningDelta("look: ä€😀"),
    ReasoningDelta(signature="EqQB"),
    ReasoningDelta(redacted="opaque"),
    TextDelta("Looking."),
    ToolStart(0, "toolu_1", "read"),
    ToolDelta(0, '{"path": "a'),
    ToolDelta(0, '"}'),
    ToolStart(1, "toolu_2", "now"),
    ToolDelta(1, "{}"),
    Usage(115, 42, cached_read=100, cache_creation=5, reasoning=9),
    Finish("tool_calls"),
    End(),
]


def read(*pieces: bytes, memory: Kept | None = None) -> list[Event]:
    one = ResponseReader(MessagesDecoder(memory or Kept()), stream=True, framing=FRAMING)
    events = [event for piece in pieces for event in one.decode(piece)]
    return events + one.finish()


def failure(*pieces: bytes) -> Failure:
    last = read(*pieces)[-1]
    assert isinstance(last, Failure)
    return last


def test_an_agents_turn_becomes_its_events() -> None:
    assert read(AGENT) == AGENT_EVENTS


def test_an_event_is_out_with_its_blank_line() -> None:
    one = ResponseReader(MessagesDecoder(Kept()), stream=True, framing=FRAMING)
    assert one.decode(stream(START)) == AGENT_EVENTS[:2]
    one.decode(stream(opened(0, type="text", text="")))
    assert one.decode(stream(delta(0, "text_delta", text="a"))) == [TextDelta("a")]


def test_every_cut_gives_the_same_events() -> None:
    for position in range(len(AGENT)):
        assert read(AGENT[:position], AGENT[position:]) == AGENT_EVENTS
    assert read(*(bytes([byte]) for byte in AGENT)) == AGENT_EVENTS


def test_a_stream_that_ends_early_fails_at_every_position() -> None:
    for position in range(len(AGENT) - 3):  # without its last line ends the last event is still whole
        events = read(AGENT[:position])
        assert isinstance(events[-1], Failure) and events[-1].status == 502, position
        assert not any(isinstance(event, End | Finish) for event in events)
        assert events[:-1] == AGENT_EVENTS[: len(events) - 1]


def test_a_last_frame_without_its_blank_line_counts() -> None:
    assert read(AGENT[:-1]) == AGENT_EVENTS
    assert read(AGENT[:-2]) == AGENT_EVENTS


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_other_line_ends_make_no_difference(line_end: bytes) -> None:
    assert read(AGENT.replace(b"\n", line_end)) == AGENT_EVENTS


def test_comments_done_marks_unknown_events_and_missing_event_lines_make_no_difference() -> None:
    noisy = AGENT.replace(b"event: ping\n", b": hello\n").replace(b"event: content_block_delta\n", b"")
    noisy = stream({"type": "vendor_news", "x": 1}) + b"data: [DONE]\n\n" + noisy
    assert read(b": first\n\n", noisy) == AGENT_EVENTS


def test_a_plain_message_gives_the_run_of_its_stream() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "So.", "citations": None},
        {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"q": 1}},
        {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "ä"}},
    ]
    message = START["message"] | {"content": content, "stop_reason": "tool_use"}
    body = json.dumps(message).encode()
    expected = [
        *AGENT_EVENTS[:2],
        ReasoningDelta("Hm"),
        ReasoningDelta(signature="s"),
        ReasoningDelta(redacted="x"),
        TextDelta("So."),
        ToolStart(0, "toolu_1", "read"),
        ToolDelta(0, '{"path":"ä"}'),
        Finish("tool_calls"),
        End(),
    ]
    assert read(b"\r\n" + body) == expected
    assert read(*(bytes([byte]) for byte in body)) == expected


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("refusal", "content_filter"), ("tool_use", "stop"),
        ("MAX_TOKENS", "length"), ("length", "length"), (None, "stop"),
    ],
)  # fmt: skip
def test_reasons_to_stop_are_translated(reason: str | None, finish: str) -> None:
    assert read(stream(START, ended(reason), STOP))[-2:] == [Finish(finish), End()]


@pytest.mark.parametrize("reason", ["something_new", "error", 5, {"type": "end_turn"}])
def test_no_other_reason_to_stop_is_a_clean_end(reason: Any) -> None:
    events = read(stream(START, ended(reason), STOP))
    shown = reason if isinstance(reason, str) else f"of type {type(reason).__name__}"
    assert isinstance(events[-1], Failure) and shown in events[-1].message
    assert not any(isinstance(event, Finish) for event in events)


def test_calls_are_trusted_over_the_reason() -> None:
    call = stream(opened(0, type="tool_use", id="a", name="f", input={"x": 1}), closed(0))
    events = read(stream(START) + call + stream(ended("end_turn"), STOP))
    assert ToolDelta(0, '{"x":1}') in events and events[-2] == Finish("tool_calls")


def test_the_stop_string_is_named() -> None:
    last = {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"}, "usage": {}}
    assert read(stream(START, last, STOP))[-2] == Finish("stop", stop="END")


def test_usage_is_cumulative_and_may_be_missing() -> None:
    usages = [e for e in read(stream(START, ended("end_turn", 9, input_tokens=20), STOP)) if isinstance(e, Usage)]
    assert usages[-1] == Usage(125, 9, cached_read=100, cache_creation=5)
    bare = {"type": "message_start", "message": {"id": "msg_1"}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert not [e for e in read(stream(bare, last, STOP)) if isinstance(e, Usage)]


def test_an_error_event_keeps_its_message() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events = read(stream(START, error, STOP))
    assert events[-1] == Failure(529, "Overloaded", type="overloaded_error", retry_after_s=5.0)


def test_an_error_that_is_null_is_none() -> None:
    message = START["message"] | {"content": [], "error": None}
    assert read(json.dumps(message).encode())[-1] == End()
    assert read(stream(START, {"type": "news", "error": None}, ended("end_turn"), STOP))[-1] == End()


def test_an_error_as_a_plain_body_under_200_fails() -> None:
    assert failure(b'{"type":"error","error":{"type":"api_error","message":"no"}}').message == "no"


@pytest.mark.parametrize(
    "body",
    [b"", b"  \n", b"<html>", b"{", b"[]", b'{"id":"x"}', b'{"content":{}}', b"data: {\n\n", b"data: 1\n\n", b"hello",
     b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"],
)  # fmt: skip
def test_what_is_no_answer_is_a_bad_gateway(body: bytes) -> None:
    assert failure(body).status == 502


def test_a_call_without_a_name_or_an_id_fails() -> None:
    assert failure(stream(START, opened(0, type="tool_use", id="", name="f", input={}))).status == 502


def arguments_of(*pieces: str, **initial: Any) -> str:
    deltas = [delta(0, "input_json_delta", partial_json=piece) for piece in pieces]
    events = read(stream(START, opened(0, type="tool_use", id="a", name="f", input=initial), *deltas, closed(0), ended("tool_use"), STOP))
    assert events[-1] == End()
    return "".join(event.arguments for event in events if isinstance(event, ToolDelta))


@pytest.mark.parametrize(("pieces", "whole"), [
    (["null"], "{}"), (["nu", "ll"], "{}"), (["{}", '{"a":1}'], '{"a":1}'), (['{"a":1}', '{"a":1}'], '{"a":1}'), (['{"a"', '{"a":1', '{"a":1}'], '{"a":1}'),
    (['{"a":"x', "y"], '{"a":"xy'), (['{"a":1}', "\n"], '{"a":1}'),
])  # fmt: skip
def test_arguments_are_one_object_however_they_are_sent(pieces: list[str], whole: str) -> None:
    assert arguments_of(*pieces) == whole


def test_arguments_of_the_start_stand_if_no_piece_follows() -> None:
    assert arguments_of(a=1) == '{"a":1}' == arguments_of("", a=1)


@pytest.mark.parametrize(("given", "whole"), [('{"a":1}', '{"a":1}'), ("null", "{}"), (None, "{}"), ("", "{}"), ([1], "[1]"), ({"a": 1}, '{"a":1}')])
def test_the_input_of_a_call_in_another_form_is_kept(given: Any, whole: str) -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": given}
    plain = json.dumps(START["message"] | {"content": [call], "stop_reason": "tool_use"}).encode()
    for data in (stream(START, {"type": "content_block_start", "index": 0, "content_block": call}, closed(0), ended("tool_use"), STOP), plain):
        assert [event for event in read(data) if isinstance(event, ToolDelta)] == [ToolDelta(0, whole)]


def test_two_different_objects_for_one_call_are_a_failure() -> None:
    pieces = [delta(0, "input_json_delta", partial_json=text) for text in ('{"a":1}', '{"a":2}')]
    for end in ([closed(0), ended("tool_use"), STOP], [opened(0, type="text", text="")], [ended("tool_use"), STOP]):
        last = failure(stream(START, opened(0, type="tool_use", id="a", name="f", input={}), *pieces, *end))
        assert last.code == "upstream_malformed" and "two different objects" in last.message


def test_a_stream_without_a_block_and_a_reason_is_no_message() -> None:
    assert failure(stream(START, STOP)).message == "The upstream's answer is not a message."
    assert read(stream(START, ended("end_turn"), STOP))[-2:] == [Finish("stop"), End()]


def test_nothing_follows_a_failure() -> None:
    one = ResponseReader(MessagesDecoder(Kept()), stream=True, framing=FRAMING)
    assert isinstance(one.decode(b"data: {\n\n")[-1], Failure)
    assert one.decode(AGENT) == [] and one.finish() == []


def test_signed_thoughts_are_remembered_with_the_next_call() -> None:
    memory = Kept()
    read(AGENT, memory=memory)
    thoughts = [Reasoning("I must look: ä€😀", signature="EqQB"), Reasoning("", redacted="opaque")]
    assert thinking_memory.recall(memory, "toolu_1") == thoughts
    assert thinking_memory.recall(memory, "toolu_2") == []


def test_thoughts_that_are_too_long_are_passed_on_but_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.protocols.anthropic_messages.reader.LARGEST_CHARS", 10)
    memory = Kept()
    assert read(AGENT, memory=memory)[2] == ReasoningDelta("I must ")
    assert memory.values == {}


def test_what_a_hostile_endpoint_sends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_response_reader, "MOST_BODY_BYTES", 100)
    monkeypatch.setattr("relayd.protocols.anthropic_messages.reader.MOST_BLOCKS", 3)
    assert failure(b"{" + b" " * 101).message == "The upstream's answer is too large."
    blocks = [opened(index, type="text", text="") for index in range(5)]
    assert failure(stream(START, *blocks)).message == "The upstream's answer is too large."
    assert failure(b"data: " + b"x" * 5_000_000).message == "The upstream sent a frame that is too large."


def test_what_is_read_renders_to_what_was_sent() -> None:
    one = renderer(request(), context())
    message = check(one.render(read(AGENT)))
    assert [block["type"] for block in message["content"]] == [
        "thinking", "redacted_thinking", "text", "tool_use", "tool_use"]  # fmt: skip
    assert message["content"][0]["signature"] == "EqQB"
    assert message["usage"] == {
        "input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 42,
        "output_tokens_details": {"thinking_tokens": 9},
    }  # fmt: skip


_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
_kinds = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "ping"]
_inner = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "thinking", "tool_use", "redacted_thinking", "text_delta", "thinking_delta",
                                 "signature_delta", "input_json_delta"]) | _junk,
        "id": st.just("a") | _junk, "name": st.just("f") | _junk, "input": _junk, "text": _junk, "thinking": _junk,
        "signature": _junk, "partial_json": _junk, "data": _junk, "stop_reason": _junk, "usage": _junk,
    },
)  # fmt: skip
_frames = st.fixed_dictionaries(
    {"type": st.sampled_from(_kinds)},
    optional={"index": st.integers(0, 2) | _junk, "content_block": _inner | _junk, "delta": _inner | _junk,
              "message": _inner | _junk, "usage": _junk},
)  # fmt: skip


@given(st.lists(_frames, max_size=12), st.integers(0, 2000))
def test_whatever_an_endpoint_sends_becomes_a_run_that_ends_once(values: list[dict[str, Any]], position: int) -> None:
    sent = stream(*values, STOP)
    events = read(sent)
    assert events == read(sent[:position], sent[position:])
    assert isinstance(events[-1], End | Failure)
    assert sum(isinstance(event, End | Failure) for event in events) == 1
    calls = -1
    for event in events:
        if isinstance(event, ToolStart):
            assert event.index == calls + 1 and event.id and event.name
            calls = event.index
        if isinstance(event, ToolDelta):
            assert event.index <= calls
    if isinstance(events[-1], End):
        assert isinstance(events[0], Begin)
        check(renderer(request(), context()).render(events))


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_never_raise(data: bytes) -> None:
    assert isinstance(read(data)[-1], Failure)


def unplaced(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "index"}


def test_deltas_without_a_block_start_or_an_index_are_text() -> None:
    text, thought = delta(0, "text_delta", text="Hi"), delta(0, "thinking_delta", thinking="hm")
    for events in ([text], [unplaced(text)], [thought, delta(1, "text_delta", text="Hi")], [unplaced(opened(0, type="text", text="")), unplaced(text)],
                   [opened(0, type="text", text=""), unplaced(text), unplaced(closed(0))], [opened(0, type="thinking", thinking=""), text]):  # fmt: skip
        for before in ([START], []):
            found = read(stream(*before, *events, ended("end_turn"), STOP))
            assert TextDelta("Hi") in found and found[-2:] == [Finish("stop"), End()]
    call = [unplaced(opened(0, type="tool_use", id="a", name="f", input={})), unplaced(delta(0, "input_json_delta", partial_json="{}"))]
    assert ToolDelta(0, "{}") in read(stream(START, *call, ended("tool_use"), STOP))


@pytest.mark.parametrize("before", [[], [opened(0, type="text", text="")]])
def test_arguments_without_a_call_are_a_failure(before: list[dict[str, Any]]) -> None:
    for piece in (delta(0, "input_json_delta", partial_json="{}"), unplaced(delta(0, "input_json_delta", partial_json="{}"))):
        last = read(stream(START, *before, piece, ended("tool_use"), STOP))[-1]
        assert isinstance(last, Failure) and "had not begun" in last.message


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"message": "ThrottlingException: Too many tokens"}, "ThrottlingException: Too many tokens"),
        ({"internalServerException": {"message": "bad"}}, "bad"),
        ({"detail": "Internal Server Error"}, "Internal Server Error"),
    ],
)
def test_an_error_that_does_not_call_itself_one_is_no_clean_end(told: dict[str, Any], message: str) -> None:
    broken = b"data: %s\n\n" % json.dumps(told).encode()
    events = read(stream(START), broken, stream(STOP))
    assert [event.message for event in events if isinstance(event, Failure)] == [message]
    assert not any(isinstance(event, End | Finish) for event in events)
