"""The renderer: every stream obeys the grammar, and the plain answer is equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from tests.aids.memories import Kept
from tests.aids.responses_grammar import frames, read_events, read_stream
from tests.unit.protocols.openai_responses.harness import HELLO, make_context, over_websocket, plain, read, streamed

CUSTOM = {"type": "custom", "name": "apply_patch", "description": "edit"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
SPACE = {"type": "namespace", "name": "mcp", "tools": [{"type": "function", "name": "look", "parameters": {}}]}


def without_ids_and_times(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response without its random ids and its times."""
    response = {key: value for key, value in response.items() if key not in ("id", "created_at", "completed_at")}
    response["output"] = [{key: value for key, value in item.items() if key != "id"} for item in response["output"]]
    return response


def calls(response: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (item["type"], item.get("namespace"), item["name"], item.get("arguments", item.get("input")))
        for item in response["output"]
        if item["type"].endswith("_call")
    ]


def test_a_text_becomes_one_message_with_usage() -> None:
    response = streamed(HELLO)
    [item] = response["output"]
    assert item["content"][0]["text"] == "Hello"
    assert response["usage"] == {
        "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 5,
    }  # fmt: skip


def test_the_model_is_the_one_that_the_client_asked_for() -> None:
    context = make_context()
    request = read(context, model="alias", stream=True)
    renderer = ResponsesRenderer(request, context)
    assert b'"model":"alias"' in renderer.render([Begin("chatcmpl-1", "the-real-one")])


def test_a_delta_is_sent_immediately() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True), context)
    renderer.render([Begin()])
    assert b'"delta":"a"' in renderer.render([TextDelta("a")])
    assert b'"delta":"b"' in renderer.render([TextDelta("b")])


def test_a_second_begin_is_ignored() -> None:
    assert streamed([Begin(), *HELLO])["status"] == "completed"


def test_an_empty_answer_is_one_empty_message() -> None:
    response = streamed([Begin(), TextDelta(""), Finish("stop"), End()])
    assert [item["content"][0]["text"] for item in response["output"]] == [""]
    assert response["usage"] is None


def test_a_tool_only_answer_has_no_message() -> None:
    events: list[Event] = [Begin(), ToolStart(0, "call_1", "weather"), ToolDelta(0, '{"a"'), ToolDelta(0, ":1}"), Finish("tool_calls"), End()]
    response = streamed(events, tools=[WEATHER])
    assert calls(response) == [("function_call", None, "weather", '{"a":1}')]
    assert response["output"][0]["call_id"] == "call_1"


def test_interleaved_fragments_of_parallel_calls_are_put_in_order() -> None:
    events: list[Event] = [
        Begin(), ToolStart(0, "a", "weather"), ToolDelta(0, '{"x":'), ToolStart(1, "b", "weather"), ToolDelta(1, '{"y"'),
        ToolDelta(0, "1}"), ToolDelta(1, ":2}"), Finish("tool_calls"), End(),
    ]  # fmt: skip
    response = streamed(events, tools=[WEATHER])
    assert [(item["call_id"], item["arguments"]) for item in response["output"]] == [("a", '{"x":1}'), ("b", '{"y":2}')]


def test_the_second_call_streams_as_soon_as_the_first_is_whole() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True, tools=[WEATHER]), context)
    renderer.render([Begin(), ToolStart(0, "a", "weather"), ToolDelta(0, '{"x":"}\\""}')])
    assert b"output_item.done" in renderer.render([ToolStart(1, "b", "weather")])
    assert b'"delta":"{"' in renderer.render([ToolDelta(1, "{")])


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    events: list[Event] = [Begin(), ToolStart(0, "a", "weather"), ToolStart(1, "b", "weather"), ToolDelta(1, "{}"), End()]
    assert [call[3] for call in calls(streamed(events, tools=[WEATHER]))] == ["{}", "{}"]


def test_text_in_the_middle_of_a_call_breaks_neither() -> None:
    events: list[Event] = [Begin(), ToolStart(0, "a", "weather"), ToolDelta(0, "{"), TextDelta("hm"), ToolDelta(0, "}"), End()]
    response = streamed(events, tools=[WEATHER])
    assert [item["type"] for item in response["output"]] == ["function_call", "message"]
    assert calls(response)[0][3] == "{}"


def test_a_namespace_tool_returns_under_its_namespace_and_name() -> None:
    events: list[Event] = [Begin(), ToolStart(0, "a", "mcp__look"), ToolDelta(0, "{}"), Finish("tool_calls"), End()]
    assert calls(streamed(events, tools=[SPACE])) == [("function_call", "mcp", "look", "{}")]


def test_a_custom_tool_returns_its_raw_input_while_it_arrives() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True, tools=[CUSTOM]), context)
    stream = renderer.render([Begin(), ToolStart(0, "a", "apply_patch"), ToolDelta(0, '{"input": "*** Be')])
    assert b'"delta":"*** Be"' in stream
    stream += renderer.render([ToolDelta(0, 'gin\\n\\u00e9"}'), Finish("tool_calls"), End()])
    assert calls(read_stream(stream)) == [("custom_tool_call", None, "apply_patch", "*** Begin\né")]


@pytest.mark.parametrize("raw", ["*** Begin Patch", '{"other": 1}', '{"input": 7}', '{"inp', "[1]"])
def test_a_custom_tools_arguments_that_are_no_input_are_the_input(raw: str) -> None:
    events: list[Event] = [Begin(), ToolStart(0, "a", "apply_patch"), *(ToolDelta(0, one) for one in raw), End()]
    assert calls(streamed(events, tools=[CUSTOM])) == [("custom_tool_call", None, "apply_patch", raw)]


def test_reasoning_becomes_a_summary_before_the_text() -> None:
    response = streamed([Begin(), ReasoningDelta("I th"), ReasoningDelta("ink"), TextDelta("so"), Finish("stop"), End()])
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "I think"}]


def test_a_signature_ends_its_reasoning_item_and_is_sent_on_request() -> None:
    events: list[Event] = [Begin(), ReasoningDelta("a"), ReasoningDelta(signature="sig"), ReasoningDelta("b"), TextDelta("c"), End()]
    response = streamed(events, include=["reasoning.encrypted_content"])
    assert [item["type"] for item in response["output"]] == ["reasoning", "reasoning", "message"]
    assert all("encrypted_content" in item for item in response["output"][:2])  # some clients drop reasoning items without it
    again = read(input=[*response["output"], {"role": "user", "content": "go on"}])
    assert [getattr(part, "signature", None) for part in again.messages[0].parts] == ["sig", None, None]
    assert "encrypted_content" not in str(streamed(events)["output"])


def test_redacted_reasoning_is_sent_only_on_request() -> None:
    events: list[Event] = [Begin(), ReasoningDelta(redacted="r"), TextDelta("c"), End()]
    assert [item["type"] for item in streamed(events)["output"]] == ["message"]
    response = streamed(events, include=["reasoning.encrypted_content"])
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["summary"] == []


def test_a_refusal_is_a_part_of_its_own() -> None:
    response = streamed([Begin(), TextDelta("Well."), RefusalDelta("I ca"), RefusalDelta("nnot"), Finish("stop"), End()])
    [item] = response["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]
    assert item["content"][1]["refusal"] == "I cannot"


@pytest.mark.parametrize(("reason", "expected"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_short_is_incomplete_and_so_is_its_last_item(reason: str, expected: str) -> None:
    for response in (streamed([Begin(), TextDelta("a"), Finish(reason), End()]),
                     plain([Begin(), TextDelta("a"), Finish(reason), End()])):  # fmt: skip
        assert response["status"] == "incomplete" and response["incomplete_details"] == {"reason": expected}
        assert response["output"][-1]["status"] == "incomplete"


def test_a_failure_is_response_failed_and_closes_no_call() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True, tools=[WEATHER]), context)
    stream = renderer.render([Begin(), TextDelta("so"), ToolStart(0, "a", "weather"), ToolDelta(0, "{"),
                            Failure(502, "The stream was cut.")])  # fmt: skip
    response = read_stream(stream)
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "The stream was cut."}
    assert [item["type"] for item in response["output"]] == ["message"]
    assert not isinstance(context.memory, Kept) or not context.memory.values
    assert renderer.render([TextDelta("late"), End()]) == b""


def test_a_rate_limit_says_when_to_try_again() -> None:
    failed = streamed([Failure(429, "Slow down.", "too_many", retry_after_s=2.2)])
    assert failed["error"] == {"code": "rate_limit_exceeded", "message": "Slow down. Please try again in 3s."}
    context = make_context()
    renderer = ResponsesRenderer(read(context), context)
    renderer.render([Failure(429, "Slow down.", "too_many", retry_after_s=2.2)])
    answer = renderer.response()
    assert answer.status == 429 and ("Retry-After", "3") in answer.headers
    assert json.loads(answer.body)["error"]["code"] == "too_many"


@pytest.mark.parametrize("code", ["context_length_exceeded", "insufficient_quota", "usage_not_included"])
def test_codes_that_clients_know_are_kept(code: str) -> None:
    assert streamed([Begin(), Failure(429 if "quota" in code else 400, "No.", code)])["error"]["code"] == code


def test_an_answer_without_an_end_is_a_failure() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context), context)
    renderer.render([Begin(), TextDelta("half")])
    assert renderer.response().status == 502


def test_calls_of_tools_that_are_not_allowed_are_suppressed() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    other = {"type": "function", "name": "other"}
    events: list[Event] = [Begin(), ToolStart(0, "a", "other"), ToolDelta(0, "{}"), ToolStart(1, "b", "weather"), ToolDelta(1, "{}"), End()]
    response = streamed(events, tools=[WEATHER, other], tool_choice=choice)
    assert [call[2] for call in calls(response)] == ["weather"]
    assert [tool["name"] for tool in response["tools"]] == ["weather", "other"]


def test_a_call_of_an_undeclared_tool_is_sent_without_allowed_tools() -> None:
    events: list[Event] = [Begin(), ToolStart(0, "a", "invented"), ToolDelta(0, "{}"), End()]
    assert calls(streamed(events, tools=[WEATHER])) == [("function_call", None, "invented", "{}")]


def test_logprobs_are_sent_on_request() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -1, "bytes": [98]}]}
    events: list[Event] = [Begin(), TextDelta("a", logprobs=(token,)), Finish("stop"), End()]
    [item] = streamed(events, include=["message.output_text.logprobs"])["output"]
    assert item["content"][0]["logprobs"] == [{**token, "bytes": []}]
    assert streamed(events)["output"][0]["content"][0]["logprobs"] == []


def test_other_choices_are_ignored() -> None:
    events: list[Event] = [Begin(), TextDelta("a"), TextDelta("b", choice=1), Finish("length", choice=1), Finish("stop"), End()]
    response = streamed(events)
    assert response["status"] == "completed" and response["output"][0]["content"][0]["text"] == "a"


def test_half_a_surrogate_pair_does_not_break_the_stream() -> None:
    assert streamed([Begin(), TextDelta("a\ud83d"), TextDelta("é"), End()])["output"][0]["content"][0]["text"] == "a\ud83dé"


def test_a_comment_keeps_a_stream_alive_and_a_plain_answer_has_none() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True), context)
    stream = renderer.keepalive() + renderer.render(HELLO[:2]) + renderer.keepalive() + renderer.render(HELLO[2:])
    assert stream.count(b": keep-alive\n\n") == 2
    assert read_stream(stream)["status"] == "completed"
    assert ResponsesRenderer(read(context), context).keepalive() == b""
    assert ResponsesRenderer(read(make_context(socket=Kept())), make_context(socket=Kept())).keepalive() == b""


def test_a_socket_gets_one_event_per_frame_and_no_done() -> None:
    context = make_context(socket=Kept())
    assert over_websocket(HELLO, context)["output"][0]["content"][0]["text"] == "Hello"


def test_a_turn_that_fails_before_its_response_began_is_an_error_frame_and_evicts_the_previous_response() -> None:
    context = make_context(socket=Kept())
    first = over_websocket(HELLO, context, store=False)
    renderer = ResponsesRenderer(read(context, previous_response_id=first["id"]), context)
    [text] = renderer.messages([Failure(500, "Broken.", "oops")])
    assert json.loads(text) == {
        "type": "error", "status": 500,
        "error": {"message": "Broken.", "type": "server_error", "param": None, "code": "oops"},
    }  # fmt: skip
    assert context.socket is not None and context.socket.get("latest_response") is None


# ---- arbitrary events

TOOLS = [WEATHER, CUSTOM, SPACE]
NAMES = ["weather", "apply_patch", "mcp__look", "invented"]


@st.composite
def runs(draw: st.DrawFn) -> list[Event]:
    """Draw a sequence of events that a Reader could return."""
    events: list[Event] = [Begin()] if draw(st.booleans()) else []
    started: list[list[str]] = []
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(["text", "thought", "refusal", "start", "piece", "piece", "usage", "other"]))
        texts = st.text(alphabet="ab{}\"\\\n é\U0001f600", max_size=5)
        if kind == "text":
            events.append(TextDelta(draw(texts)))
        elif kind == "refusal":
            events.append(RefusalDelta(draw(texts)))
        elif kind == "thought":
            events.append(ReasoningDelta(draw(texts), signature=draw(st.sampled_from([None, None, "s"])),
                                       redacted=draw(st.sampled_from([None, None, "r"]))))  # fmt: skip
        elif kind == "start":
            text = json.dumps({"input": draw(texts), "n": [draw(texts)]})
            cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            if draw(st.integers(0, 5)) == 0:
                pieces = [draw(texts)]
            events.append(ToolStart(len(started), f"call_{len(started)}", draw(st.sampled_from(NAMES))))
            started.append(pieces)
        elif kind == "piece":
            waiting = [index for index, pieces in enumerate(started) if pieces]
            if waiting:
                index = draw(st.sampled_from(waiting))
                events.append(ToolDelta(index, started[index].pop(0)))
        elif kind == "usage":
            events.append(Usage(draw(st.integers(0, 9)), 2))
        else:
            events.append(TextDelta("other", choice=1))
    for index, pieces in enumerate(started):
        events += [ToolDelta(index, piece) for piece in pieces]
    if draw(st.integers(0, 4)) == 0:
        return [*events, Failure(502, "cut")]
    return [*events, Finish(draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))), End()]


@settings(deadline=None)
@given(runs(), st.booleans(), st.booleans())
def test_every_stream_obeys_the_grammar_and_equals_the_plain_answer(
    events: list[Event], encrypted_reasoning: bool, together: bool
) -> None:
    members: dict[str, Any] = {"tools": TOOLS, "include": ["reasoning.encrypted_content"] if encrypted_reasoning else []}
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True, **members), context)
    stream = renderer.render(events) if together else b"".join(renderer.render([event]) for event in events)
    response = read_stream(stream)
    socket = over_websocket([Begin(), *events], make_context(socket=Kept()), **members)
    whole = plain(events, **members)
    assert without_ids_and_times(socket) == without_ids_and_times(response)
    if response["status"] != "failed":
        assert without_ids_and_times(whole) == without_ids_and_times(response)
        # No text and no call is lost.
        expected = "".join(event.text for event in events if isinstance(event, TextDelta) and event.choice == 0)
        rendered = [part["text"] for item in response["output"] if item["type"] == "message"
                 for part in item["content"] if part["type"] == "output_text"]  # fmt: skip
        assert "".join(rendered) == expected
        assert len(calls(response)) == sum(isinstance(event, ToolStart) for event in events)


def test_a_stream_of_nothing_but_frames_can_be_checked_twice() -> None:
    context = make_context()
    stream = ResponsesRenderer(read(context, stream=True), context).render(HELLO)
    assert read_events(frames(stream)) == read_stream(stream)
