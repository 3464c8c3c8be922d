"""Ollama's answers, whole and cut at every place, to events."""

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
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
AT = "2026-11-20T10:00:00.123456789Z"


def line(content: str = "", done: bool = False, **members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    for key in ("thinking", "tool_calls"):
        if key in members:
            message[key] = members.pop(key)
    return {"model": "mistral", "created_at": AT, "message": message, "done": done, **members}


LAST = line(done=True, done_reason="stop", prompt_eval_count=9, eval_count=3, total_duration=5)


def ndjson(*lines: Any) -> bytes:
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in lines)


CALL = {"function": {"name": "look", "arguments": {"city": "Köln"}}}
STREAM = ndjson(line(thinking="hm "), line("Grüße "), line("🌍"), line(tool_calls=[CALL, {"id": "call_12345678", **CALL}]), LAST)


def without_ids(events: list[Any]) -> list[Any]:
    return [(e.index, e.name) if isinstance(e, ToolStart) else e for e in events]


def test_a_stream_passes_as_it_arrives(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    events = read(context(stream=True), STREAM)
    assert events[0] == Begin("", "mistral", 1795168800)
    assert without_ids(events[1:]) == [
        ReasoningDelta("hm "), TextDelta("Grüße "), TextDelta("🌍"),
        (0, "look"), ToolDelta(0, '{"city":"Köln"}'), (1, "look"), ToolDelta(1, '{"city":"Köln"}'),
        Usage(9, 3), Finish("tool_calls"), End(),
    ]  # fmt: skip
    starts = [event for event in events if isinstance(event, ToolStart)]
    assert starts[1].id == "call_12345678" and starts[0].id and starts[0].id != starts[1].id


def test_every_cut_of_a_stream_gives_the_same_events(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    expected = without_ids(read(context(stream=True), STREAM))
    for size in (1, 2, 3, 7, 100):
        assert without_ids(read(context(stream=True), STREAM, size)) == expected
    assert without_ids(read(context(stream=True), STREAM.replace(b"\n", b"\r\n"), 1)) == expected
    assert without_ids(read(context(stream=True), STREAM[:-1])) == expected


def test_a_stream_that_ends_anywhere_else_was_cut(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    for position in range(len(STREAM) - 1):
        last = read(context(stream=True), STREAM[:position])[-1]
        assert isinstance(last, Failure) and last.status == 502 and last.code == "upstream_cut", position


def test_a_plain_answer_gives_the_events_of_the_stream(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    answer = line("Hi", True, thinking="hm", done_reason="length", prompt_eval_count=9, eval_count=3)
    events = read(context(), json.dumps(answer, indent=1).encode(), 9)
    assert events == read(context(stream=True), ndjson(answer))
    assert events[1:] == [ReasoningDelta("hm"), TextDelta("Hi"), Usage(9, 3), Finish("length"), End()]


def test_a_plain_answer_may_leave_done_out(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    assert read(context(), b'{"message":{"content":"a"}}')[-2:] == [Finish("stop"), End()]
    assert read(context(), b'{"message":{"content":"a"},"done":false}')[-1].code == "upstream_cut"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("model 'x' not found, try pulling it first", 502, "model_not_found"),
        ("an error was encountered while running the model", 502, ""),
        ("the input length exceeds the context length", 502, "context_length_exceeded"),
    ],
)
def test_an_error_line_fails_with_ollamas_message(context: Callable[..., Request], read: Callable[..., list[Any]], text: str, status: int, code: str) -> None:
    expected = Failure(status, text, code)
    assert read(context(stream=True), ndjson(line("a"), {"error": text}, LAST))[-1] == expected
    assert read(context(), json.dumps({"error": text}).encode())[-1] == expected


@pytest.mark.parametrize("body", [b"", b"  ", b"<html>", b"{", b"null", b"[]", b"7"])
def test_an_answer_that_is_none_is_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], body: bytes) -> None:
    last = read(context(), body)[-1]
    assert isinstance(last, Failure) and last.status == 502
    assert isinstance(read(context(stream=True), body + b"\n")[-1], Failure)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_without_a_message_is_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], stream: bool) -> None:
    for members in ({"message": None}, {"response": "a"}, {}):
        last = read(context(stream=stream), ndjson({"model": "m", "done": True, "done_reason": "stop", **members}))[-1]
        assert isinstance(last, Failure) and last.message == "The upstream's answer has no message."
    assert read(context(stream=True), ndjson(line("a"), {"done": True}))[-1] == End()


@pytest.mark.parametrize("stream", [True, False])
def test_calls_in_an_object_instead_of_a_list_are_one_call(context: Callable[..., Request], read: Callable[..., list[Any]], stream: bool) -> None:
    events = read(context(stream=stream), ndjson(line(tool_calls=CALL, done=True)))
    assert without_ids(events)[1:] == [(0, "look"), ToolDelta(0, '{"city":"Köln"}'), Finish("tool_calls"), End()]


def test_what_stands_behind_the_last_line_is_ignored(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    assert read(context(stream=True), ndjson(line("a"), LAST, line("b"), {"error": "x"}))[-1] == End()


def test_small_ids_that_servers_count_anew_are_replaced(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    data = ndjson(line(tool_calls=[{"id": "0", **CALL}, {"id": "call_same9", **CALL}, {"id": "call_same9", **CALL}]), LAST)
    ids = [event.id for event in read(context(stream=True), data) if isinstance(event, ToolStart)]
    assert len(set(ids)) == 3 and "0" not in ids and ids[1] == "call_same9"


def test_arguments_that_are_text_stay_text(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    data = ndjson(line(tool_calls=[{"function": {"name": "a", "arguments": '{"x": 1}'}}, {"function": {"name": "b"}}]), LAST)
    assert [e.arguments for e in read(context(stream=True), data) if isinstance(e, ToolDelta)] == ['{"x": 1}', "{}"]


def test_logprobs_are_chats_own_unless_they_are_nested_without_end(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    tokens = [{"token": "a", "logprob": -0.5, "top_logprobs": []}]
    assert read(context(stream=True), ndjson(line("a", logprobs=tokens), LAST))[1] == TextDelta("a", 0, tuple(tokens))
    deep = b'{"message":{"content":"a"},"logprobs":' + b"[" * 300 + b"]" * 300 + b"}\n"
    assert read(context(stream=True), deep + ndjson(LAST))[1] == TextDelta("a", 0, (None,))


def test_hostile_sizes_are_failures(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    assert isinstance(read(context(stream=True), b'{"a":"' + b"x" * (5 << 20))[-1], Failure)
    assert isinstance(read(context(stream=True), ndjson(line(tool_calls=[CALL] * 2000), LAST))[-1], Failure)
    deep = b'{"message":{"tool_calls":[{"function":{"name":"a","arguments":' + b'{"a":' * 200 + b"1" + b"}" * 200
    assert isinstance(read(context(stream=True), deep + b"}}]}}\n")[-1], Failure)
    assert isinstance(read(context(stream=True), ndjson(line(tool_calls=[{"function": {}}]), LAST))[-1], Failure)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
@pytest.mark.parametrize("stream", [True, False])
def test_reasons_in_capitals_are_known_and_unknown_ones_are_no_clean_end(context: Callable[..., Request], read: Callable[..., list[Any]], stream: bool) -> None:
    assert Finish("length") in read(context(stream=stream), ndjson(line("Hi", True, done_reason="LENGTH")))
    for reason in ("something new", 5, {"reason": "stop"}):
        events = read(context(stream=stream), ndjson(line("Hi", True, done_reason=reason)))
        assert isinstance(events[-1], Failure) and not any(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize(("arguments", "text"), [(None, "{}"), ("null", "{}"), ("", "{}"), ({}, "{}"), ('{"a":1}', '{"a":1}'), ('{"a', '{"unparsed_arguments":"{\\"a"}')])
def test_arguments_are_always_an_object(context: Callable[..., Request], read: Callable[..., list[Any]], arguments: Any, text: str) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    assert ToolDelta(0, text) in read(context(stream=True), ndjson(line(tool_calls=[call]), LAST))


KEYS = st.sampled_from(["model", "created_at", "message", "done", "done_reason", "eval_count", "logprobs", "error", "content", "thinking",
                        "tool_calls", "function", "name", "arguments", "id"])  # fmt: skip
NEAR = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


@FIXTURES
@given(st.lists(NEAR, max_size=3), st.booleans(), st.integers(1, 30))
def test_any_values_are_events_or_a_failure_however_they_are_cut(context: Callable[..., Request], read: Callable[..., list[Any]], values: Any, stream: bool, size: int) -> None:
    data = ndjson(*values) if stream else json.dumps(values[0] if values else None).encode()
    events = read(context(stream=stream), data, size)
    assert isinstance(events[-1], End | Failure)
    assert not any(isinstance(event, End | Failure) for event in events[:-1])
    assert without_ids(events) == without_ids(read(context(stream=stream), data))


@FIXTURES
@given(st.fixed_dictionaries({}, optional={"message": NEAR, "done": st.booleans() | VALUES, "created_at": VALUES, "logprobs": VALUES,
    "eval_count": VALUES, "prompt_eval_count": VALUES, "done_reason": VALUES}))  # fmt: skip
def test_any_value_of_a_member_is_events_or_a_failure(context: Callable[..., Request], read: Callable[..., list[Any]], value: Any) -> None:
    assert isinstance(read(context(stream=True), ndjson(value))[-1], End | Failure)
