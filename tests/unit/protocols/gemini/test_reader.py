"""Gemini's answers, whole and cut at every place, to events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd.protocols.canon import (
    Begin,
    End,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    Tool,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Options
from relayd.protocols.gemini import DIALECT

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


def chunk(*parts: Any, reason: str | None = None, **members: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", "responseId": "r1", **members}


COUNTS = {
    "promptTokenCount": 10,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 3,
    "totalTokenCount": 17,
    "cachedContentTokenCount": 2,
}
USED = Usage(input=10, output=7, cached_read=2, reasoning=3)


def test_a_streamed_text_passes_as_it_arrives_and_finishes_at_its_end(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(chunk({"text": "Hel"}), chunk({"text": "lo"}), chunk({"text": ""}, reason="STOP", usageMetadata=COUNTS))
    assert read(context(stream=True), data) == [
        Begin("r1", "gemini-3-flash"),
        TextDelta("Hel"),
        TextDelta("lo"),
        USED,
        Finish("stop"),
        End(),
    ]


def test_text_leaves_in_the_turn_in_which_its_frame_is_complete(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    assert read(context(stream=True), sse(chunk({"text": "now"})), end=False)[-1] == TextDelta("now")


def test_a_plain_answer_gives_the_events_of_the_stream(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    answer = chunk({"text": "Hmm", "thought": True}, {"text": "Hi"}, reason="STOP", usageMetadata=COUNTS)
    events = read(context(), json.dumps(answer, indent=2).encode())
    assert events == read(context(stream=True), sse(answer))
    assert events[1:3] == [ReasoningDelta("Hmm"), TextDelta("Hi")]


def test_every_cut_of_a_stream_gives_the_same_events(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], memory: Any) -> None:
    data = sse(
        chunk({"text": "Grüße 🌍 ", "thought": True}),
        chunk({"functionCall": {"name": "look", "args": {"city": "Köln"}, "id": "c1"}, "thoughtSignature": "S1"}),
        chunk({"functionCall": {"name": "look", "args": {}, "id": "c2"}}, reason="STOP", usageMetadata=COUNTS),
    )
    expected = read(context(stream=True), data)
    assert [type(event) for event in expected[1:6]] == [ReasoningDelta, ToolStart, ToolDelta, ToolStart, ToolDelta]
    for size in (1, 2, 3, 7, 50):
        assert read(context(stream=True), data, size) == expected
    for position in range(len(data)):
        assert in_two(context, memory, data[:position], data[position:]) == expected


def in_two(context: Callable[..., Request], memory: Any, first: bytes, second: bytes) -> list[Any]:
    assert DIALECT.reader is not None
    reader = DIALECT.reader(context(stream=True), Options(), memory)
    return reader.decode(first) + reader.decode(second) + reader.finish()


def test_calls_are_numbered_over_frames_and_have_ids_that_are_never_the_same(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(
        chunk({"functionCall": {"name": "a", "args": {"x": 1}}}, {"functionCall": {"name": "a", "args": {"x": 2}}}),
        chunk({"functionCall": {"name": "b", "id": "same"}}, {"functionCall": {"name": "b", "id": "same"}}, reason="STOP"),
    )
    events = read(context(stream=True), data)
    starts = [event for event in events if isinstance(event, ToolStart)]
    assert [(one.index, one.name) for one in starts] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    assert len({one.id for one in starts}) == 4 and all(one.id for one in starts) and starts[2].id == "same"
    assert [e.arguments for e in events if isinstance(e, ToolDelta)] == ['{"x":1}', '{"x":2}', "{}", "{}"]
    assert events[-2:] == [Finish("tool_calls"), End()]


def test_a_signature_goes_to_the_event_and_to_the_memory(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], memory: Any) -> None:
    part = {"functionCall": {"name": "a", "args": {}}, "thoughtSignature": "c2ln"}
    other = {"functionCall": {"name": "b", "args": {}}}
    starts = [e for e in read(context(stream=True), sse(chunk(part, other, reason="STOP"))) if isinstance(e, ToolStart)]
    assert [one.signature for one in starts] == ["c2ln", None]
    assert memory.get(f"thought_signature:{starts[0].id}") == "c2ln"
    assert memory.get(f"thought_signature:{starts[1].id}") == ""


def test_a_name_that_was_written_another_way_comes_back_as_the_client_knows_it(context: Callable[..., Request], read: Callable[..., list[Any]], write: Callable[..., dict[str, Any]], sse: Callable[..., bytes]) -> None:
    request = context(stream=True, tools=(Tool("7zip"),))
    received = write(request)["tools"][0]["functionDeclarations"][0]["name"]
    assert received != "7zip"
    events = read(request, sse(chunk({"functionCall": {"name": received, "args": {}}}, reason="STOP")))
    assert events[1].name == "7zip"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("Max_Tokens", "length"),
        ("stop", "stop"),
    ],
)
def test_each_finish_reason_is_mapped(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], reason: str, expected: str) -> None:
    assert read(context(stream=True), sse(chunk({"text": "x"}, reason=reason)))[-2:] == [Finish(expected), End()]


@pytest.mark.parametrize("reason", ["OTHER", "A_NEW_ONE", "malformed_function_call"])
def test_no_other_finish_reason_is_a_clean_end(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], reason: str) -> None:
    events = read(context(stream=True), sse(chunk({"text": "x"}, reason=reason)))
    assert isinstance(events[-1], Failure) and not any(isinstance(event, Finish) for event in events)


def test_calls_that_were_cut_by_the_limit_stay_cut(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(chunk({"functionCall": {"name": "a", "args": {}}}, reason="MAX_TOKENS"))
    assert read(context(stream=True), data)[-2] == Finish("length")


def test_parts_after_a_finish_reason_are_read_and_the_last_reason_applies(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(chunk({"text": "a"}, reason="STOP"), chunk({"text": "b"}, reason="MAX_TOKENS"))
    assert read(context(stream=True), data)[1:] == [TextDelta("a"), TextDelta("b"), Finish("length"), End()]


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"])
def test_a_call_that_gemini_could_not_make_is_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], reason: str) -> None:
    last = read(context(stream=True), sse(chunk(reason=reason)))[-1]
    assert isinstance(last, Failure) and last.status == 502 and last.code == reason.lower() and last.message


def test_the_message_of_a_failed_finish_is_preserved(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    frame = chunk(reason="MALFORMED_FUNCTION_CALL")
    frame["candidates"][0]["finishMessage"] = "Malformed function call: print(x)"
    assert read(context(stream=True), sse(frame))[-1].message == "Malformed function call: print(x)"


@pytest.mark.parametrize("stream", [True, False])
def test_a_blocked_prompt_is_filtered_and_its_tokens_are_counted(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], stream: bool) -> None:
    answer = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
    data = sse(answer) if stream else json.dumps(answer).encode()
    assert read(context(stream=stream), data) == [
        Begin(), Usage(input=9), RefusalDelta("The upstream blocked the prompt: SAFETY."), Finish("content_filter"), End(),
    ]  # fmt: skip


@pytest.mark.parametrize("reason", ["STOP", None])
def test_a_block_reason_after_candidates_is_a_filter_too(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], reason: str | None) -> None:
    feedback = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "Try another prompt."}}
    data = sse(chunk({"text": "Hel"}, reason=reason), feedback)
    assert read(context(stream=True), data)[-3:] == [
        RefusalDelta("The upstream blocked the prompt: PROHIBITED_CONTENT. Try another prompt."), Finish("content_filter"), End(),
    ]  # fmt: skip


def test_a_stream_without_a_finish_reason_was_cut(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(chunk({"text": "Hel"}, usageMetadata=COUNTS))
    last = read(context(stream=True), data)[-1]
    assert isinstance(last, Failure) and last.code == "upstream_cut"
    for position in range(len(data)):
        last = read(context(stream=True), data[:position])[-1]
        assert isinstance(last, Failure) and last.code == "upstream_cut", position


def test_a_stream_in_which_one_of_two_candidates_is_open_was_cut(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    frame = chunk({"text": "a"}, reason="STOP")
    frame["candidates"].append({"index": 1, "content": {"parts": [{"text": "b"}]}})
    assert isinstance(read(context(stream=True, n=2), sse(frame))[-1], Failure)
    frame["candidates"][1]["finishReason"] = "STOP"
    assert read(context(stream=True, n=2), sse(frame))[1:] == [
        TextDelta("a", 0), TextDelta("b", 1), Finish("stop", 0), Finish("stop", 1), End(),
    ]  # fmt: skip


def test_the_last_blank_line_may_be_missing(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(chunk({"text": "a"}), chunk({"text": "b"}, reason="STOP"))
    assert read(context(stream=True), data[:-4]) == read(context(stream=True), data)
    assert read(context(stream=True), data[:-2], 1)[-1] == End()


def test_an_error_frame_fails_with_googles_message(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    expected = Failure(503, "The model is overloaded.", code="UNAVAILABLE", type="UNAVAILABLE")
    assert read(context(stream=True), sse(chunk({"text": "a"}), error, chunk({"text": "b"}, reason="STOP")))[-1] == expected
    assert read(context(stream=True), sse([error]))[-1] == expected
    # Without `data:`, behind the stream or alone.
    bare = json.dumps(error, indent=1).encode()
    assert read(context(stream=True), sse(chunk({"text": "a"})) + bare + b"\n")[-1] == expected
    assert read(context(stream=True), bare) == [expected]
    assert read(context(stream=True), b"[" + bare + b"]", 1) == [expected]


def test_a_stream_that_came_as_a_json_array_is_read_too(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    frames = [chunk({"text": "a"}), chunk({"text": "b"}, reason="STOP")]
    assert read(context(stream=True), json.dumps(frames).encode(), 5) == read(context(stream=True), sse(*frames))


@pytest.mark.parametrize("body", [b"", b"   ", b"<html>busy</html>", b"{", b"null", b'"text"', b"[1]", b"{}"])
def test_a_plain_answer_that_is_none_is_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], body: bytes) -> None:
    last = read(context(), body)[-1]
    assert isinstance(last, Failure) and last.status == 502 and last.code == "upstream_malformed"


def test_a_frame_that_is_no_json_fails_at_once_and_the_rest_is_ignored(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    events = read(context(stream=True), sse(chunk({"text": "a"})) + b"data: {oops\r\n\r\n" + sse(chunk(reason="STOP")))
    assert isinstance(events[-1], Failure) and events[-1].code == "upstream_malformed" and len(events) == 3


def test_hostile_sizes_are_failures_and_not_memory(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    endless = b"data: " + b"x" * (17 * 1024 * 1024)
    assert isinstance(read(context(stream=True), endless, 1 << 20)[-1], Failure)
    many = sse(*[chunk(*[{"functionCall": {"name": "a", "args": {}}}] * 100) for _ in range(20)])
    assert isinstance(read(context(stream=True), many)[-1], Failure)
    deep = b'data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"a","args":' + b'{"a":' * 300 + b"1"
    deep += b"}" * 300 + b"}}]}}]}\r\n\r\n"
    assert isinstance(read(context(stream=True), deep)[-1], Failure)


def test_an_image_that_the_model_drew_is_a_markdown_image(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes]) -> None:
    data = sse(chunk({"inlineData": {"mimeType": "image/png", "data": "QUJD"}}, reason="STOP"))
    assert read(context(stream=True), data)[1] == TextDelta("![image](data:image/png;base64,QUJD)")


def test_logprobs_have_the_form_of_chat(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    answer = chunk({"text": "Hi"}, reason="STOP")
    answer["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [{"token": "Hi", "logProbability": -0.5}],
        "topCandidates": [{"candidates": [{"token": "Hi", "logProbability": -0.5}, {"token": "Ho"}]}],
    }
    (token,) = read(context(logprobs=True), json.dumps(answer).encode())[1].logprobs
    assert token["token"] == "Hi" and token["logprob"] == -0.5 and token["bytes"] == [72, 105]
    assert [one["token"] for one in token["top_logprobs"]] == ["Hi", "Ho"]


# ---- any value in any place

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
WHOLE = chunk(
    {"text": "a", "thought": True},
    {"functionCall": {"name": "a", "args": {"b": [1]}, "id": "x"}, "thoughtSignature": "S"},
    {"inlineData": {"mimeType": "image/png", "data": "QQ=="}},
    reason="STOP",
    usageMetadata=COUNTS,
    promptFeedback={"blockReason": "SAFETY"},
    error={"code": 400, "message": "no", "status": "X", "details": [{"@type": "RetryInfo", "retryDelay": "1s"}]},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += places(inner, (*path, number))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@FIXTURES
@given(st.sampled_from(places(WHOLE)), VALUES, st.booleans(), st.integers(1, 40))
def test_any_value_of_any_member_is_events_or_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], position: Any, value: Any, stream: bool, size: int) -> None:
    strange = replaced(WHOLE, position, value)
    if isinstance(strange, dict) and len(position) < 2 and position != ("error",):
        strange = {key: inner for key, inner in strange.items() if key != "error"}
    data = sse(strange) if stream else json.dumps(strange).encode()
    events = read(context(stream=stream), data, size)
    assert isinstance(events[-1], End | Failure)
    assert not any(isinstance(event, End | Failure) for event in events[:-1])
    starts = [event for event in events if isinstance(event, ToolStart)]
    assert all(one.id and one.name for one in starts)


@FIXTURES
@given(st.binary(max_size=200), st.integers(1, 20), st.booleans())
def test_any_bytes_are_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], data: bytes, size: int, stream: bool) -> None:
    events = read(context(stream=stream), data, size)
    assert isinstance(events[-1], Failure) or json.loads(data)


@FIXTURES
@given(st.lists(st.sampled_from([
    chunk({"text": "a"}), chunk({"text": "b", "thought": True}), chunk({"functionCall": {"name": "f", "id": "1"}}),
    chunk(reason="STOP"), chunk(reason="SAFETY"), {"usageMetadata": {"promptTokenCount": 1}}, {}, {"candidates": []},
]), max_size=8), st.integers(1, 60))  # fmt: skip
def test_frames_in_any_order_and_any_cut_are_the_same_run(context: Callable[..., Request], read: Callable[..., list[Any]], sse: Callable[..., bytes], frames: Any, size: int) -> None:
    whole = read(context(stream=True), sse(*frames))
    pieces = read(context(stream=True), sse(*frames), size)
    without_ids = [[e if not isinstance(e, ToolStart) else (e.index, e.name) for e in run] for run in (whole, pieces)]
    assert without_ids[0] == without_ids[1]
    finished = any(frame.get("candidates") and frame["candidates"][0].get("finishReason") for frame in frames)
    assert isinstance(whole[-1], End) == finished
