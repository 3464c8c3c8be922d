"""Answers of Responses endpoints as events: round trips, unusual endpoints, cut streams and failures."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols._response_reader import ResponseReader
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.openai_responses.reader import ResponsesDecoder
from relayd.protocols.openai_responses.reasoning_items import unpack_native_signature
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from tests.aids.responses_grammar import read_stream
from tests.unit.protocols.openai_responses.harness import HELLO, make_context, read
from tests.unit.protocols.openai_responses.test_renderer import CUSTOM, WEATHER, runs, without_ids_and_times

MEMBERS: dict[str, Any] = {"tools": [WEATHER, CUSTOM], "include": ["reasoning.encrypted_content"]}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def events_of(data: bytes, cuts: tuple[int, ...] = ()) -> list[Event]:
    reader = ResponseReader(ResponsesDecoder(), stream=True)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    events = [event for a, b in itertools.pairwise(bounds) for event in reader.decode(data[a:b])] + reader.finish()
    assert reader.decode(b"data: {}\n\n") == reader.finish() == []
    return events


def rendered(events: list[Event], stream: bool) -> bytes:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=stream, **MEMBERS), context)
    data = renderer.render(events)
    return data if stream else renderer.response().body


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    comparable_response = without_ids_and_times(response)
    comparable_response["output"] = [{k: v for k, v in item.items() if k != "encrypted_content"} for item in comparable_response["output"]]
    return comparable_response


@settings(deadline=None)
@given(runs(), st.lists(st.integers(0, 4000), max_size=6))
def test_rendered_events_are_read_back_with_the_same_meaning(events: list[Event], cuts: list[int]) -> None:
    data = rendered(events, stream=True)
    response = read_stream(data)
    again = read_stream(rendered(events_of(data, tuple(cuts)), stream=True))
    read_back, expected = comparable(again), comparable(response)
    if response["status"] == "failed":  # the canonical form has no end of an item, so that the last one may be open in the copy
        read_items, expected_items = read_back.pop("output"), expected.pop("output")
        assert read_items == expected_items[: len(read_items)] and len(expected_items) - len(read_items) <= 1
        assert read_back == expected
    else:
        assert read_back == expected
        whole = read_stream(rendered(events_of(rendered(events, stream=False)), stream=True))
        assert comparable(whole) == comparable(response)


def test_a_text_and_its_usage() -> None:
    events = events_of(rendered(HELLO, stream=True))
    assert [type(event) for event in events] == [Begin, TextDelta, TextDelta, Usage, Finish, End]
    assert events[3] == Usage(3, 2, 1, 0, 1)


def test_a_delta_is_returned_as_soon_as_its_frame_is_complete() -> None:
    reader = ResponseReader(ResponsesDecoder(), stream=True)
    assert reader.decode(sse({"type": "response.output_text.delta", "output_index": 0, "delta": "a"})) == [TextDelta("a")]


def test_text_that_only_closing_events_contain_is_emitted() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "abc"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'}
    final = {"type": "response.completed", "response": {"status": "completed", "output": [message, call]}}
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "a"}
    read_back = [event for event in events_of(sse(delta, final)) if not isinstance(event, Begin)]
    assert read_back == [TextDelta("a"), TextDelta("bc"), ToolStart(0, "c", "f"), ToolDelta(0, '{"a":1}'), Finish("tool_calls"), End()]


ADDED: dict[str, Any] = {"type": "response.output_item.added", "item": {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": ""}}
ARGUMENTS = {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": '{"a":1}'}
BARE: dict[str, Any] = {"type": "response.output_item.done", "item": {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f"}}
COMPLETED = {"type": "response.completed", "response": {"status": "completed", "output": []}}


def events_without_begin(*events: dict[str, Any]) -> list[Event]:
    found = events_of(sse(*events))
    return [event for event in found if not isinstance(event, Begin)]


@pytest.mark.parametrize("index", [{"output_index": 0}, {}])
def test_arguments_that_only_closing_events_contain_are_emitted_once(index: dict[str, int]) -> None:
    added, arguments, bare = ({**event, **index} for event in (ADDED, ARGUMENTS, BARE))
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": '{"a"', **index}
    full = {**bare, "item": {**BARE["item"], "arguments": '{"a":1}'}}
    rest = [Finish("tool_calls"), End()]
    whole = [ToolStart(0, "c", "f"), ToolDelta(0, '{"a":1}'), *rest]
    assert events_without_begin(added, arguments, COMPLETED) == whole
    assert events_without_begin(added, arguments, bare, COMPLETED) == whole
    assert events_without_begin(added, arguments, arguments, full, COMPLETED) == whole
    assert events_without_begin(arguments, bare, COMPLETED) == whole  # the call begins after its arguments
    assert events_without_begin(added, delta, arguments, full, COMPLETED) == [whole[0], ToolDelta(0, '{"a"'), ToolDelta(0, ":1}"), *rest]
    assert events_without_begin(added, {**arguments, "arguments": {"a": 1}}, COMPLETED) == whole


def test_arguments_with_which_a_call_begins_count_if_no_others_follow() -> None:
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": '{"b":2}'}
    rest = [Finish("tool_calls"), End()]
    for early, text in (('{"a":1}', '{"a":1}'), ({"a": 1}, '{"a":1}'), ("null", "{}")):
        added = {**ADDED, "item": {**ADDED["item"], "arguments": early}}
        for stream in ((added,), (added, BARE)):
            assert events_without_begin(*stream, COMPLETED) == [ToolStart(0, "c", "f"), ToolDelta(0, text), *rest]
        assert events_without_begin(added, delta, BARE, COMPLETED) == [ToolStart(0, "c", "f"), ToolDelta(0, '{"b":2}'), *rest]
        assert events_without_begin(added, delta, COMPLETED) == [ToolStart(0, "c", "f"), ToolDelta(0, '{"b":2}'), *rest]


@pytest.mark.parametrize("status", ["queued", "in_progress", "something new", 5])
def test_a_response_that_is_not_complete_is_no_clean_end(status: Any) -> None:
    response = {"id": "r", "object": "response", "status": status, "output": []}
    for body in (sse({"type": "response.completed", "response": response}), json.dumps(response).encode()):
        failure = events_of(body)[-1]
        assert isinstance(failure, Failure) and failure.status == 502 and "not complete" in failure.message


@pytest.mark.parametrize("output", [[], ["f", "g"]])
@pytest.mark.parametrize("ends", [True, False])
def test_another_item_under_an_index_in_use_is_another_item(output: list[str], ends: bool) -> None:
    items = {name: {"type": "function_call", "id": f"fc_{name}", "call_id": f"c_{name}", "name": name, "arguments": '{"a":1}'} for name in ("f", "g")}
    events: list[dict[str, Any]] = []
    for name, item in items.items():
        events.append({"type": "response.output_item.added", "output_index": 0, "item": item | {"arguments": ""}})
        events.append({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'} | ({"item_id": f"fc_{name}"} if ends else {}))
        events.append({"type": "response.function_call_arguments.done", "output_index": 0, "item_id": f"fc_{name}", "arguments": '{"a":1}'})
        events += [{"type": "response.output_item.done", "output_index": 0, "item": item}] if ends else []
    final = {"type": "response.completed", "response": {"status": "completed", "output": [items[name] for name in output]}}
    found = events_without_begin(*events, final)
    assert [event.name for event in found if isinstance(event, ToolStart)] == ["f", "g"]
    for index in (0, 1):
        assert "".join(event.arguments for event in found if isinstance(event, ToolDelta) and event.index == index) == '{"a":1}'


def test_a_part_that_only_its_end_contains_is_emitted_once() -> None:
    added = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m", "content": []}}
    for part, event in (({"type": "output_text", "text": "ab"}, TextDelta("ab")), ({"type": "refusal", "refusal": "no"}, RefusalDelta("no"))):
        done = {"type": "response.content_part.done", "output_index": 0, "content_index": 0, "item_id": "m", "part": part}
        ended = {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "id": "m", "content": [part]}}
        for events in ((added, done), (added, done, ended), (added, done, done)):
            assert events_without_begin(*events, COMPLETED) == [event, Finish("stop"), End()]


def test_null_arguments_become_an_empty_object() -> None:
    arguments = {**ARGUMENTS, "arguments": "null"}
    full = {**BARE, "item": {**BARE["item"], "arguments": "null"}}
    for stream in ((ADDED, arguments), (ADDED, full), (ADDED, arguments, full), (full,)):
        assert events_without_begin(*stream, COMPLETED) == [ToolStart(0, "c", "f"), ToolDelta(0, "{}"), Finish("tool_calls"), End()]


def test_custom_tool_input_that_only_closing_events_contain_is_emitted_once() -> None:
    added = {**ADDED, "output_index": 0, "item": {"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "f"}}
    done = {"type": "response.custom_tool_call_input.done", "output_index": 0, "input": 'a"b'}
    bare = {**BARE, "output_index": 0, "item": added["item"]}
    for stream in ((added, done, bare), (added, done)):
        text = "".join(event.arguments for event in events_without_begin(*stream, COMPLETED) if isinstance(event, ToolDelta))
        assert json.loads(text) == {"input": 'a"b'}


def test_an_item_with_a_type_that_is_not_a_string_raises_nothing() -> None:
    kinds: tuple[Any, ...] = ([], {}, 7)
    for kind in kinds:
        odd = {"type": "response.output_item.added", "item": {"type": kind, "name": "f"}}
        assert events_without_begin(odd, {**odd, "type": "response.output_item.done"}, COMPLETED)[-1] == End()


def test_two_calls_with_ids_and_without_output_indexes_are_distinguished() -> None:
    second = json.loads(json.dumps([ADDED, ARGUMENTS]).replace("fc_1", "fc_2").replace('"c"', '"d"').replace(":1", ":2"))
    assert events_without_begin(ADDED, second[0], second[1], ARGUMENTS, COMPLETED) == [
        ToolStart(0, "c", "f"), ToolStart(1, "d", "f"), ToolDelta(1, '{"a":2}'), ToolDelta(0, '{"a":1}'), Finish("tool_calls"), End(),
    ]  # fmt: skip


def test_text_refusals_and_reasoning_that_only_closing_events_contain_are_emitted_once() -> None:
    where = {"output_index": 0, "content_index": 0}
    text = {"type": "response.output_text.done", "text": "abc", **where}
    delta = {"type": "response.output_text.delta", "delta": "a", **where}
    item = {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "content": [{"type": "output_text", "text": "abc"}]}}
    assert events_without_begin(text, item, COMPLETED)[0] == TextDelta("abc") and events_without_begin(delta, text, item, COMPLETED)[:2] == [TextDelta("a"), TextDelta("bc")]
    assert len(events_without_begin(delta, text, item, COMPLETED)) == 4
    refusal = {"type": "response.refusal.done", "refusal": "no", **where}
    assert events_without_begin(refusal, COMPLETED)[0] == RefusalDelta("no")
    thought = {"type": "response.reasoning_summary_text.done", "output_index": 0, "summary_index": 0, "text": "hm"}
    again = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "hm"}
    second = {**thought, "summary_index": 1}
    for stream in ((thought, second), (again, thought, second)):
        assert "".join(event.text for event in events_without_begin(*stream, COMPLETED) if isinstance(event, ReasoningDelta)) == "hm\n\nhm"


def test_reasoning_of_two_channels_is_emitted_once_and_its_parts_are_separated() -> None:
    where = {"output_index": 0}
    raw = {"type": "response.reasoning_text.delta", "delta": "raw", **where}
    short = {"type": "response.reasoning_summary_text.delta", "delta": "short", **where}
    final = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    assert ReasoningDelta("short") not in events_of(sse(raw, short, final))
    parts = [event for event in events_of(sse(short, {**short, "summary_index": 1}, final)) if isinstance(event, ReasoningDelta)]
    assert "".join(part.text for part in parts) == "short\n\nshort"


def test_a_signature_names_its_reasoning_item() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    body = json.dumps({"status": "completed", "output": [item]}).encode()
    [proof] = [event for event in events_of(body) if isinstance(event, ReasoningDelta)]
    assert unpack_native_signature(proof.signature) == ("rs_1", "gAAA")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"), (b"  \n", "empty"), (b"<html>", "not JSON"), (b'{"id": "x"}', "not a response"), (b"{", "not JSON"),
        (b"data: {\n\n", "not JSON"), (sse({"type": "response.created", "response": {}}), "before its answer"),
        (b"data: [DONE]\n\n", "before its answer"),
        (sse({"type": "error", "message": "too bad", "code": "x"}), "too bad"),
        (sse({"type": "error", "error": {"message": "too bad"}}), "too bad"),
        (sse({"error": {"message": "too bad"}}), "too bad"),
        (sse({"type": "response.failed", "response": {"status": "failed", "error": {"message": "too bad"}}}), "too bad"),
        (sse({"type": "response.failed", "response": {"status": "failed"}}), "without a reason"),
        (json.dumps({"status": "failed", "error": {"message": "too bad"}, "output": []}).encode(), "too bad"),
    ],
)  # fmt: skip
def test_an_incomplete_or_invalid_answer_is_a_failure(data: bytes, message: str) -> None:
    last = events_of(data)[-1]
    assert isinstance(last, Failure) and message in last.message


def test_a_rate_limit_in_the_stream_keeps_its_code_and_status() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Please try again in 3s."}
    [failure] = [e for e in events_of(sse({"type": "response.failed", "response": {"status": "failed", "error": error}}))
                 if isinstance(e, Failure)]  # fmt: skip
    assert (failure.status, failure.code) == (429, "rate_limit_exceeded")


@given(st.lists(st.sampled_from([b"data: ", b"{", b"}", b'"type":', b'"response.output_item.done"', b"\n\n", b"null", b"[]",
                                 b',"item":', b'"output_index":', b"-1", b'"error"', b"\xff"]), max_size=20).map(b"".join))  # fmt: skip
def test_arbitrary_streams_end_in_end_or_failure(data: bytes) -> None:
    events = events_of(data)
    assert isinstance(events[-1], End | Failure)
    assert not any(isinstance(event, End | Failure) for event in events[:-1])


ODD = st.recursive(st.none() | st.integers(-3, 3) | st.text(max_size=2) | st.sampled_from(["message", "function_call", "reasoning"]),
                   lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(
                       ["type", "content", "name", "call_id", "text", "summary", "arguments", "message"]), inner), max_leaves=6)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["output", "error", "usage", "status", "incomplete_details", "id"]), ODD))
def test_a_body_of_any_shape_ends_in_end_or_failure(body: dict[str, Any]) -> None:
    assert isinstance(events_of(json.dumps(body).encode())[-1], End | Failure)
