"""Events to a Chat client: frames and a plain answer that say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd import clock
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
from relayd.protocols.openai_chat.renderer import ChatRenderer, renderer
from tests.unit.protocols.openai_chat.asked import an_ask, chunk, context, frames, joined, run

TOOLS = [
    {"type": "function", "function": {"name": "f"}},
    {"type": "custom", "custom": {"name": "patch"}},
]
CALLS: list[Event] = [ToolStart(0, "a", "f"), ToolDelta(0, '{"x"'), ToolStart(1, "b", "g"), ToolDelta(0, ":1}")]


def stream_of(events: list[Event], one_by_one: bool = True, **members: Any) -> bytes:
    one = renderer(context(stream=True, **members), an_ask())
    return b"".join(one.render([event]) for event in events) if one_by_one else one.render(events)


def chunks_of(stream: bytes) -> list[Any]:
    blocks = stream.removesuffix(b"\n\n").split(b"\n\n")
    assert all(block.startswith(b"data: ") for block in blocks)
    return [block[6:] if block == b"data: [DONE]" else json.loads(block[6:]) for block in blocks]


def deltas_of(stream: bytes, choice: int = 0) -> list[Any]:
    """The deltas of one choice, and its finish reason as the last entry."""
    found: list[Any] = []
    for one in chunks_of(stream):
        for entry in one["choices"] if isinstance(one, dict) and "choices" in one else ():
            if entry["index"] == choice:
                found.append(entry["delta"] if entry["finish_reason"] is None else entry["finish_reason"])
    return found


def whole_of(events: list[Event], **members: Any) -> Any:
    one = renderer(context(**members), an_ask())
    assert one.render(events) == b"" and one.keepalive() == b""
    answer = one.response()
    assert answer.status == 200 and answer.content_type == "application/json"
    return json.loads(answer.body)


def test_the_role_comes_first_and_the_finish_reason_last() -> None:
    stream = stream_of([Begin("chatcmpl-9", "m-9", 5), TextDelta("Hel"), TextDelta("lo"), Finish("stop"), End()])
    assert deltas_of(stream) == [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, "stop"]
    assert chunks_of(stream)[-1] == b"[DONE]"
    assert {(one["id"], one["created"], one["model"], one["object"]) for one in chunks_of(stream)[:-1]} == {
        ("chatcmpl-9", 5, "m-9", "chat.completion.chunk")
    }


def test_what_the_endpoint_did_not_say_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 1234.9)
    for begin in ([Begin()], [Begin("msg_7")], []):
        found = whole_of([*begin, TextDelta("x"), Finish("stop"), End()])
        assert found["id"].startswith("chatcmpl-") and len(found["id"]) > 12
        assert (found["created"], found["model"]) == (1234, "m")
    assert whole_of([Begin("msg_7"), End()])["id"] == "chatcmpl-msg_7"


def test_a_tool_only_answer_has_no_text() -> None:
    stream = stream_of([Begin(), *CALLS, Finish("tool_calls"), End()])
    assert deltas_of(stream) == [
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},  # a call without arguments
        "tool_calls",
    ]
    message = whole_of([Begin(), *CALLS, Finish("tool_calls"), End()])["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"x":1}', "{}"]


def test_thoughts_refusals_logprobs_and_signatures_go_out() -> None:
    token = {"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    events: list[Event] = [
        Begin(), ReasoningDelta("h"), ReasoningDelta("m"), ReasoningDelta(signature="s"), TextDelta("x", logprobs=(token,)),
        RefusalDelta("no"), ToolStart(0, "a", "f", signature="sig"), Finish("stop"), End(),
    ]  # fmt: skip
    deltas = deltas_of(stream_of(events))
    assert {"reasoning_content": "m"} in deltas and {"refusal": "no"} in deltas
    assert deltas[5]["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "sig"}}
    choice = whole_of(events)["choices"][0]
    assert choice["logprobs"] == {"content": [token], "refusal": None}
    assert choice["message"]["reasoning_content"] == "hm" and choice["message"]["refusal"] == "no"
    assert choice["message"]["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "sig"}}


def test_a_custom_tool_gets_its_raw_input_back() -> None:
    events: list[Event] = [Begin(), ToolStart(0, "a", "patch"), ToolDelta(0, '{"input": "*** B'), ToolDelta(0, 'egin\\n"}'),
                           Finish("tool_calls"), End()]  # fmt: skip
    assert deltas_of(stream_of(events, tools=TOOLS))[1:] == [
        {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "patch", "input": ""}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "*** B"}}]}, {"tool_calls": [{"index": 0, "custom": {"input": "egin\n"}}]},
        "tool_calls",
    ]
    assert whole_of(events, tools=TOOLS)["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "custom", "custom": {"name": "patch", "input": "*** Begin\n"}}
    ]


def test_a_client_of_functions_gets_a_function_call() -> None:
    functions = [{"name": "f"}]
    events: list[Event] = [Begin(), *CALLS, Finish("tool_calls"), End()]
    assert deltas_of(stream_of(events, functions=functions))[1:] == [
        {"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": '{"x"'}},
        {"function_call": {"arguments": ":1}"}}, "function_call",
    ]  # fmt: skip
    choice = whole_of(events, functions=functions)["choices"][0]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"x":1}'}
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]


def test_usage_is_sent_where_it_was_asked_for() -> None:
    events: list[Event] = [Begin(), TextDelta("x"), Finish("stop"), Usage(9, 4, 5, 0, 1), End()]
    usage = {
        "prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }  # fmt: skip
    assert b"usage" not in stream_of(events)
    chunks = chunks_of(stream_of(events, stream_options={"include_usage": True}))
    assert chunks[-2]["choices"] == [] and chunks[-2]["usage"] == usage
    assert all(one["usage"] is None for one in chunks[:-2])
    assert whole_of(events)["usage"] == usage
    assert "usage" not in whole_of([Begin(), TextDelta("x"), Finish("stop"), End()])
    written = whole_of([Begin(), Usage(9, 4, 5, 2), Finish("stop"), End()])["usage"]
    assert written["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 2}


def test_a_failure_ends_a_stream_without_done() -> None:
    failure = Failure(500, "boom", "code", "type", "param")
    stream = stream_of([Begin(), TextDelta("x"), failure, TextDelta("y"), End()])
    error = {"message": "boom", "type": "type", "param": "param", "code": "code"}
    assert chunks_of(stream)[-1] == {"error": error}
    one = renderer(context(), an_ask())
    one.render([Begin(), TextDelta("x"), failure])
    answer = one.response()
    assert answer.status == 500 and json.loads(answer.body) == {"error": error, "request_id": "r-1"}


def test_an_answer_that_nobody_ended_is_no_answer() -> None:
    one = renderer(context(), an_ask())
    one.render([Begin(), TextDelta("x")])
    assert one.response().status == 502


def test_nothing_follows_the_end() -> None:
    one = renderer(context(stream=True), an_ask())
    assert one.render([End()]).endswith(b"[DONE]\n\n")
    assert one.render([TextDelta("x"), Failure(500, "x"), End()]) == b""


def test_nothing_follows_the_finish_reason_of_a_choice() -> None:
    late: list[Event] = [Begin(), TextDelta("x"), Finish("stop"), TextDelta("y"), ToolStart(0, "a", "f"), Finish("length"), End()]
    assert deltas_of(stream_of(late)) == [{"role": "assistant", "content": ""}, {"content": "x"}, "stop"]


def test_a_keep_alive_is_a_comment() -> None:
    assert ChatRenderer(context(stream=True), an_ask()).keepalive() == b": keep-alive\n\n"


def test_an_answer_without_anything_is_one_empty_message() -> None:
    assert deltas_of(stream_of([Begin(), End()])) == [{"role": "assistant", "content": ""}, "stop"]
    assert whole_of([Begin(), End()])["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None, "finish_reason": "stop"}
    ]


# ---- streamed and plain say the same


def added_up(stream: bytes) -> dict[int, Any]:
    """What a client makes of the stream: per choice its message and its finish reason."""
    found: dict[int, Any] = {}
    for one in chunks_of(stream)[:-1]:
        for entry in one["choices"]:
            choice = found.setdefault(entry["index"], {"text": "", "calls": {}, "logprobs": []})
            delta = entry["delta"]
            for key in ("content", "refusal", "reasoning_content"):
                choice[key] = choice.get(key, "") + (delta.get(key) or "")
            choice["logprobs"] += (entry["logprobs"] or {}).get("content", [])
            for call in delta.get("tool_calls", ()):
                kind = "custom" if "custom" in call else "function"
                field = "input" if kind == "custom" else "arguments"
                known = choice["calls"].setdefault(call["index"], [kind, call.get("id"), call[kind].get("name"), ""])
                known[3] += call[kind][field]
            choice["finish"] = entry["finish_reason"]
    return found


def taken_apart(whole: Any) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for entry in whole["choices"]:
        message = entry["message"]
        calls = {}
        for position, call in enumerate(message.get("tool_calls", ())):
            kind = call["type"]
            calls[position] = [kind, call["id"], call[kind]["name"], call[kind]["input" if kind == "custom" else "arguments"]]
        found[entry["index"]] = {
            "text": "", "calls": calls, "logprobs": (entry["logprobs"] or {}).get("content", []),
            "content": message["content"] or "", "refusal": message["refusal"] or "",
            "reasoning_content": message.get("reasoning_content", ""), "finish": entry["finish_reason"],
        }  # fmt: skip
    return found


CHOICE = st.integers(0, 2)
EVENTS = st.lists(
    st.one_of(
        st.builds(TextDelta, st.text(max_size=3), CHOICE, st.none() | st.just(({"token": "x"},))),
        st.builds(RefusalDelta, st.text(max_size=3), CHOICE),
        st.builds(ReasoningDelta, st.text(max_size=3), CHOICE, st.none() | st.just("s")),
        st.tuples(CHOICE, st.sampled_from(["f", "patch"]), st.none() | st.just("sig")),
        st.tuples(CHOICE, st.integers(0, 3), st.sampled_from(["{", '"input"', ":", '"x"', "}", ""])),
        st.builds(Usage, st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=14,
)


def lawful(entries: list[Any], finish: list[str]) -> list[Event]:
    """A run of events: calls numbered as they begin, deltas only of calls that have begun."""
    begun: dict[int, int] = {}
    run: list[Event] = [Begin("chatcmpl-1", "m", 1)]
    for entry in entries:
        if not isinstance(entry, tuple):
            run.append(entry)
        elif isinstance(entry[1], str):
            number = begun.get(entry[0], 0)
            run.append(ToolStart(number, f"id{number}", entry[1], entry[0], entry[2]))
            begun[entry[0]] = number + 1
        elif entry[1] < begun.get(entry[0], 0):
            run.append(ToolDelta(entry[1], entry[2], entry[0]))
    choices = {event.choice for event in run if not isinstance(event, Begin | Usage | End | Failure)}
    return run + [Finish(reason, choice) for choice, reason in zip(sorted(choices), finish, strict=False)] + [End()]


@settings(max_examples=300)
@given(EVENTS, st.lists(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), max_size=3))
def test_streamed_and_plain_answers_agree(entries: list[Any], finish: list[str]) -> None:
    events = lawful(entries, finish)
    stream = stream_of(events, tools=TOOLS, stream_options={"include_usage": True})
    assert stream == stream_of(events, one_by_one=False, tools=TOOLS, stream_options={"include_usage": True})
    whole = whole_of(events, tools=TOOLS)
    assert added_up(stream) == taken_apart(whole)
    usages = [one["usage"] for one in chunks_of(stream)[:-1] if one["usage"]]
    assert usages == ([whole["usage"]] if "usage" in whole else [])


def without_second_brackets(events: list[Event]) -> list[Event]:
    """The events without a bracket behind the bracket that begins a call's arguments: no JSON text begins with two, so
    that the reader of a stream takes the second for the first one sent again, which one text does not show."""
    texts: dict[tuple[int, int], str] = {}
    stored = []
    for event in events:
        if isinstance(event, ToolDelta):
            call = (event.choice, event.index)
            if texts.get(call) == event.arguments == "{":
                continue
            texts[call] = texts.get(call, "") + event.arguments
        stored.append(event)
    return stored


@settings(max_examples=200)
@given(EVENTS, st.lists(st.sampled_from(["stop", "length", "content_filter"]), max_size=3))
def test_what_is_rendered_is_read_again_from_stream_and_plain_alike(entries: list[Any], finish: list[str]) -> None:
    events = without_second_brackets(lawful(entries, finish))
    members: dict[str, Any] = {"tools": TOOLS[:1], "n": 3}
    stream = stream_of(events, stream_options={"include_usage": True}, **members)
    one = renderer(context(**members), an_ask())
    one.render(events)

    def by_choice(run: list[Event]) -> list[Any]:
        found = []
        for choice in range(3):
            mine = [event for event in run if getattr(event, "choice", 9) == choice]
            texts = ["".join(e.text for e in mine if isinstance(e, kind)) for kind in (TextDelta, RefusalDelta, ReasoningDelta)]
            calls = [(e.id, e.name, e.signature) for e in mine if isinstance(e, ToolStart)]
            arguments = ["".join(e.arguments for e in mine if isinstance(e, ToolDelta) and e.index == n) for n in range(len(calls))]
            found.append((texts, calls, arguments, [e for e in mine if isinstance(e, Finish)]))
        return [*found, [event for event in run if isinstance(event, Usage | Begin)]]

    assert by_choice(run(stream)) == by_choice(run(one.response().body))


def test_a_chat_stream_goes_through_both_halves_unchanged() -> None:
    stream = frames(
        chunk({"content": "x"}), chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
    )  # fmt: skip
    events = run(stream)
    assert joined(run(stream_of(events))) == events
