"""The renderer: every run of events becomes a stream that obeys the grammar, and the same plain message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.anthropic_messages import block_assembler
from relayd.protocols.anthropic_messages import renderer as module
from relayd.protocols.anthropic_messages.renderer import renderer
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Message,
    ReasoningDelta,
    RefusalDelta,
    Request,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Usage,
)
from tests.unit.protocols.anthropic_messages.grammar import check, check_failed, check_message, context, frames, request


def stream(*events: Event, asked: Request | None = None) -> bytes:
    one = renderer(asked or request(), context())
    return b"".join(one.render([event]) for event in events)


def plain(*events: Event) -> dict[str, Any]:
    one = renderer(request(stream=False), context())
    assert one.render(list(events)) == b""
    answer = one.response()
    assert answer.status == 200
    message: dict[str, Any] = json.loads(answer.body)
    check_message(message)
    return message


def both(*events: Event) -> dict[str, Any]:
    """The message of a whole run, the same from the stream as plain."""
    run = (Begin("msg_1", "m"), *events, End())
    streamed, whole = check(stream(*run)), plain(*run)
    assert streamed == whole
    return whole


def content(*events: Event) -> list[Any]:
    found: list[Any] = both(*events)["content"]
    return found


def test_text_is_one_block_and_ends_the_turn() -> None:
    message = both(TextDelta("Hel"), TextDelta("lo"), Finish("stop"))
    assert message["content"] == [{"type": "text", "text": "Hello"}]
    assert message["stop_reason"] == "end_turn"
    assert message["model"] == "claude-test"


def test_the_order_of_the_frames_is_the_grammars() -> None:
    kinds = [one["type"] for one in frames(stream(Begin(), TextDelta("a"), Finish("stop"), End()))]
    assert kinds == ["message_start", "ping", "content_block_start", "content_block_delta", "content_block_stop",
                     "message_delta", "message_stop"]  # fmt: skip


def test_a_delta_leaves_with_the_call_that_brought_it() -> None:
    one = renderer(request(), context())
    one.render([Begin()])
    assert b'"text":"now"' in one.render([TextDelta("now")])


def test_a_thought_gets_its_signature_before_its_block_closes() -> None:
    found = content(ReasoningDelta("Hm"), ReasoningDelta(signature="sig"), TextDelta("So"), Finish("stop"))
    assert found == [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "text", "text": "So"},
    ]


def test_an_unsigned_thought_gets_an_empty_signature() -> None:
    assert content(ReasoningDelta("Hm"), TextDelta("So"))[0] == {"type": "thinking", "thinking": "Hm", "signature": ""}


def test_a_second_thought_is_a_block_of_its_own() -> None:
    found = content(ReasoningDelta("a"), ReasoningDelta(signature="1"), ReasoningDelta("b"), ReasoningDelta(signature="2"),
                    ReasoningDelta(redacted="xx"))  # fmt: skip
    assert [block.get("signature", block.get("data")) for block in found] == ["1", "2", "xx"]


def test_thinking_after_text_is_a_new_block() -> None:
    found = content(ReasoningDelta("a"), TextDelta("b"), ReasoningDelta("c"), TextDelta("d"))
    assert [block["type"] for block in found] == ["thinking", "text", "thinking", "text"]


def test_a_tool_call_closes_the_text_and_stops_for_tool_use_regardless_of_the_reason() -> None:
    for reason in ("stop", "tool_calls", "length", "content_filter"):
        message = both(TextDelta("Let me see."), ToolStart(0, "call_1", "read"), ToolDelta(0, '{"path":'),
                       ToolDelta(0, '"a"}'), Finish(reason))  # fmt: skip
        assert message["stop_reason"] == "tool_use"
        assert message["content"][1] == {"type": "tool_use", "id": "call_1", "name": "read", "input": {"path": "a"}}


def test_a_call_that_the_limit_cut_off_is_no_tool_use() -> None:
    message = both(ToolStart(0, "call_1", "write"), ToolDelta(0, '{"text": "half a'), Finish("length"))
    assert message["stop_reason"] == "max_tokens"
    assert message["content"][0]["input"] == {"unparsed_arguments": '{"text": "half a'}


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert b'"partial_json":"{}"' in stream(Begin(), ToolStart(0, "a", "now"), Finish("tool_calls"), End())
    assert content(ToolStart(0, "a", "now"), ToolStart(1, "b", "now"))[1]["input"] == {}


def test_arguments_stream_live() -> None:
    one = renderer(request(), context())
    one.render([Begin(), ToolStart(0, "a", "f")])
    assert b'"partial_json":"{\\"x"' in one.render([ToolDelta(0, '{"x')])


def test_a_call_that_follows_a_complete_one_streams_live_too() -> None:
    one = renderer(request(), context())
    one.render([Begin(), ToolStart(0, "a", "f"), ToolDelta(0, '{"x": "}"}')])
    assert b'"name":"g"' in one.render([ToolStart(1, "b", "g")])
    assert b'"index":1' in one.render([ToolDelta(1, '{"y')])


def test_a_call_that_waits_opens_when_the_one_before_it_is_complete() -> None:
    one = renderer(request(), context())
    one.render([Begin(), ToolStart(0, "a", "f"), ToolDelta(0, '{"x":'), ToolStart(1, "b", "g"), ToolDelta(1, '{"y":')])
    sent = one.render([ToolDelta(0, "1}")])
    assert b'"name":"g"' in sent and b'"partial_json":"{\\"y\\":"' in sent


def test_fragments_of_two_calls_that_come_in_turns_are_put_in_order() -> None:
    found = content(
        ToolStart(0, "a", "f"), ToolStart(1, "b", "g"), ToolDelta(0, '{"x":'), ToolDelta(1, '{"y":'),
        ToolDelta(0, '"}"'), ToolDelta(1, "2"), ToolDelta(0, "}"), ToolDelta(1, "}"), Finish("tool_calls"),
    )  # fmt: skip
    assert [block["input"] for block in found] == [{"x": "}"}, {"y": 2}]


def test_text_between_fragments_of_a_call_comes_behind_it() -> None:
    found = content(ToolStart(0, "a", "f"), ToolDelta(0, '{"x"'), TextDelta("aside"), ToolDelta(0, ":1}"))
    assert found == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "text", "text": "aside"},
    ]


def test_arguments_that_are_no_object_are_shown_not_lost() -> None:
    assert content(ToolStart(0, "a", "f"), ToolDelta(0, "[1]"))[0]["input"] == {"unparsed_arguments": "[1]"}


def test_a_refusal_is_text_and_stops_for_refusal() -> None:
    message = both(RefusalDelta("I can"), RefusalDelta("not."), Finish("stop"))
    assert message["content"] == [{"type": "text", "text": "I cannot."}]
    assert message["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("reason", "name"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "end_turn")],
)
def test_reasons_to_stop_are_translated(reason: str, name: str) -> None:
    assert both(TextDelta("a"), Finish(reason))["stop_reason"] == name


def test_a_stop_string_is_named() -> None:
    message = both(TextDelta("a"), Finish("stop", stop="END"))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_an_end_without_a_reason_is_an_end_of_turn() -> None:
    assert both(TextDelta("a"))["stop_reason"] == "end_turn"


def test_an_answer_without_anything_has_one_empty_text() -> None:
    assert content(Finish("stop")) == [{"type": "text", "text": ""}]


def test_cached_tokens_are_not_counted_as_input() -> None:
    usage = both(TextDelta("a"), Usage(5, 1), Usage(100, 7, cached_read=60, cache_creation=30, reasoning=3))["usage"]
    assert usage == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 60,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }


def test_a_call_id_that_the_conversation_has_already_is_replaced() -> None:
    history = (Message("user", (Text("x"),)), Message("assistant", (ToolCall("call_0", "f", "{}"),)))
    run = (Begin(), ToolStart(0, "call_0", "f"), ToolStart(1, "", "f"), ToolStart(2, "own", "f"), End())
    ids = [block["id"] for block in check(stream(*run, asked=request(messages=history)))["content"]]
    assert ids[0].startswith("toolu_") and ids[1].startswith("toolu_") and ids[2] == "own"


def test_the_id_of_the_message_is_the_dialects() -> None:
    assert frames(stream(Begin("chatcmpl-1")))[0]["message"]["id"].startswith("msg_")
    assert frames(stream(Begin("msg_abc")))[0]["message"]["id"] == "msg_abc"


def test_a_failure_in_the_middle_is_an_error_and_no_end() -> None:
    sent = stream(Begin(), TextDelta("a"), Failure(429, "slow down"), TextDelta("b"), End())
    assert check_failed(sent) == {"type": "rate_limit_error", "message": "slow down"}
    assert b"content_block_stop" not in sent


def test_a_failure_before_anything_is_only_the_error() -> None:
    assert [one["type"] for one in frames(stream(Failure(500, "x")))] == ["error"]
    one = renderer(request(), context())
    one.render([Failure(429, "x")])
    assert one.response().status == 429


def test_a_plain_failure_has_its_status() -> None:
    one = renderer(request(stream=False), context())
    one.render([Begin(), TextDelta("a"), Failure(529, "busy", retry_after_s=3)])
    answer = one.response()
    assert answer.status == 529 and ("Retry-After", "3") in answer.headers
    assert json.loads(answer.body)["error"] == {"type": "overloaded_error", "message": "busy"}


def test_a_plain_answer_without_its_end_is_an_error() -> None:
    one = renderer(request(stream=False), context())
    one.render([Begin(), TextDelta("half")])
    assert one.response().status == 502


def test_the_keep_alive_is_a_comment_until_the_message_has_begun() -> None:
    one = renderer(request(), context())
    assert one.keepalive() == b": keep-alive\n\n"
    one.render([Begin()])
    assert one.keepalive() == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert renderer(request(stream=False), context()).keepalive() == b""


def test_nothing_follows_the_end() -> None:
    one = renderer(request(), context())
    one.render([Begin(), End()])
    assert one.render([TextDelta("late"), Failure(500, "late")]) == b""


def test_only_the_first_choice_is_shown() -> None:
    assert content(TextDelta("a"), TextDelta("b", choice=1), Finish("length", choice=1))[0]["text"] == "a"


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_assembler, "MOST_BUFFERED_BYTES", 100)
    sent = stream(Begin(), ToolStart(0, "a", "f"), ToolStart(1, "b", "g"), ToolDelta(1, "x" * 101))
    assert check_failed(sent)["type"] == "api_error"


def test_the_number_of_calls_and_the_size_of_a_plain_answer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_assembler, "MOST_CALLS", 2)
    assert check_failed(stream(Begin(), *(ToolStart(index, f"{index}", "f") for index in range(3))))
    monkeypatch.setattr(module, "MOST_BUFFERED_BYTES", 100)
    one = renderer(request(stream=False), context())
    one.render([Begin(), TextDelta("x" * 101), End()])
    assert one.response().status == 502


def test_half_a_surrogate_pair_does_not_break_the_stream() -> None:
    run = (Begin(), TextDelta("\ud83d"), TextDelta("\ude00"), End())
    assert check(stream(*run))["content"][0]["text"] == "\ud83d\ude00"
    assert plain(*run)["content"][0]["text"] == "\U0001f600"


_texts = st.text(max_size=5)
_pieces = st.sampled_from(['{"a":', '{"', "}", "1}", '"\\"}', "{}", '{"x":"}"}', "", " ", "[", "\\"])
_events = st.one_of(
    st.builds(TextDelta, _texts, st.sampled_from([0, 0, 1])),
    st.builds(RefusalDelta, _texts),
    st.builds(ReasoningDelta, _texts, signature=st.none() | _texts),
    st.builds(ReasoningDelta, redacted=_texts),
    st.builds(ToolDelta, st.integers(0, 4), _pieces),
    st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.builds(Finish, st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), stop=st.none() | st.just("S")),
    st.sampled_from(["start"]),
)


@given(st.lists(_events, max_size=25), st.data())
def test_every_event_sequence_obeys_the_grammar_and_streams_its_plain_content(
    drawn: list[Any], data: st.DataObject
) -> None:
    run: list[Event] = []
    calls = 0
    for one in drawn:
        if one == "start":
            one = ToolStart(calls, f"call_{calls}", "f")
            calls += 1
        if not isinstance(one, ToolDelta) or one.index < calls:
            run.append(one)
    message = both(*run)
    texts = [one.text for one in run if isinstance(one, TextDelta | RefusalDelta) and one.choice == 0]
    assert "".join(block["text"] for block in message["content"] if block["type"] == "text") == "".join(texts)
    thoughts = [one.text for one in run if isinstance(one, ReasoningDelta) and one.redacted is None]
    assert "".join(b["thinking"] for b in message["content"] if b["type"] == "thinking") == "".join(thoughts)
    for index, block in enumerate(block for block in message["content"] if block["type"] == "tool_use"):
        arguments = "".join(one.arguments for one in run if isinstance(one, ToolDelta) and one.index == index)
        try:
            expected = json.loads(arguments or "{}")
        except ValueError:
            continue
        if isinstance(expected, dict):
            assert block["input"] == expected
