"""The details that OpenRouter wants back: joined from their pieces, kept with the calls, sent with the next turn."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from relayd.protocols.canon import Message, ReasoningDelta, Text, ToolCall, ToolResult, ToolStart
from relayd.protocols.dialect import Options
from relayd.protocols.openai_chat.reader import reader as make_reader
from relayd.protocols.openai_chat.reasoning_details import LARGEST_CHARS, MOST_ENTRIES
from relayd.protocols.openai_chat.write_request import write_request
from tests.aids.memories import Kept
from tests.unit.protocols.openai_chat.asked import chunk, context, frames, run

TEXT = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
SEALED = {"type": "reasoning.encrypted", "data": "c2ln", "id": "c1", "format": "google-gemini-v1", "index": 1}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SECOND = {**CALL, "index": 1, "id": "c2"}
WHOLE = [{**TEXT, "text": "Think twice.", "signature": "s"}, SEALED]


def next_turn(memory: Kept) -> dict[str, Any]:
    """The assistant's message that the endpoint gets with the results."""
    calls = (ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}"))
    results = tuple(ToolResult(call.id, (Text("r"),)) for call in calls)
    history = (Message("user", (Text("x"),)), Message("assistant", calls), Message("tool", results))
    sent = json.loads(write_request(replace(context(), messages=history), Options(), memory).body)
    message: dict[str, Any] = sent["messages"][1]
    return message


def test_long_reasoning_in_many_pieces_is_stored() -> None:
    memory = Kept()
    pieces = [chunk({"reasoning_details": [{**TEXT, "text": "word "}]}) for _ in range(5000)]
    run(frames(*pieces, chunk({"tool_calls": [CALL]}, "tool_calls")), memory=memory)
    assert next_turn(memory)["reasoning_details"] == [{**TEXT, "text": "word " * 5000}]


def streamed() -> bytes:
    return frames(
        chunk({"reasoning": "Think ", "reasoning_details": [{**TEXT, "text": "Think "}]}),
        chunk({"reasoning": "twice.", "reasoning_details": [{**TEXT, "text": "twice.", "signature": None}]}),
        chunk({"reasoning_details": [{**TEXT, "text": "", "signature": "s"}]}),
        chunk({"tool_calls": [CALL, SECOND], "reasoning_details": [SEALED]}), chunk({}, "tool_calls"),
    )  # fmt: skip


def plain() -> bytes:
    message = {"content": None, "reasoning": "Think twice.", "reasoning_details": WHOLE, "tool_calls": [CALL, SECOND]}
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}).encode()


@pytest.mark.parametrize("answer", [streamed(), plain()])
def test_the_details_of_a_turn_go_back_once_with_its_calls(answer: bytes) -> None:
    memory = Kept()
    events = run(answer, memory=memory)
    assert [event.id for event in events if isinstance(event, ToolStart)] == ["c1", "c2"]
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Think twice."
    assert next_turn(memory)["reasoning_details"] == WHOLE


def test_reasoning_in_the_details_only_is_passed_on() -> None:
    stream = frames(chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]}), chunk({"content": "x"}, "stop"))
    memory = Kept()
    assert ReasoningDelta("hm") in run(stream, memory=memory)
    assert not memory.values


@pytest.mark.parametrize(
    "details", [[{**SEALED, "data": "x" * LARGEST_CHARS}], [SEALED] * (MOST_ENTRIES + 1), [None, 7, "x", []], [{"a" * LARGEST_CHARS: 1}, TEXT] * 200,
                [{**TEXT, f"k{number}": "v" * 1000} for number in range(300)]]
)  # fmt: skip
def test_what_is_too_much_or_of_no_shape_is_forgotten(details: list[Any]) -> None:
    memory = Kept()
    run(frames(chunk({"tool_calls": [CALL], "reasoning_details": details}, "tool_calls")), memory=memory)
    assert not memory.values and "reasoning_details" not in next_turn(memory)


def test_each_turn_keeps_its_own_details_where_an_endpoint_numbers_its_calls_anew() -> None:
    memory = Kept()
    history = [Message("user", (Text("x"),))]
    for turn in range(3):
        sealed = {**SEALED, "data": f"proof {turn}"}
        answer = frames(chunk({"tool_calls": [CALL], "reasoning_details": [sealed]}, "tool_calls"))
        request = replace(context(stream=True), messages=tuple(history))
        one = make_reader(request, Options(), memory)
        [start] = [event for event in one.decode(answer) + one.finish() if isinstance(event, ToolStart)]
        history += [Message("assistant", (ToolCall(start.id, "f", "{}"),)), Message("tool", (ToolResult(start.id, (Text("r"),)),))]
    sent = json.loads(write_request(replace(context(), messages=tuple(history)), Options(), memory).body)["messages"]
    turns = [message for message in sent if message["role"] == "assistant"]
    assert [message["reasoning_details"][0]["data"] for message in turns] == ["proof 0", "proof 1", "proof 2"]
    ids = [message["tool_calls"][0]["id"] for message in turns]
    assert [message["reasoning_details"][0]["id"] for message in turns] == ids and len(set(ids)) == 3 and ids[0] == "c1"
