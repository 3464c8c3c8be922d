"""Assistant messages that belong together become one turn, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols import registry
from relayd.protocols._turns import merge_turns
from relayd.protocols.canon import Message, Request, Text, ToolCall, ToolResult, ToolStart
from relayd.protocols.dialect import Options, run_steps
from relayd.protocols.gemini.signatures import store
from tests.aids.growth import linear
from tests.aids.memories import Kept

GO = Message("user", (Text("go"),))
ONE, TWO = (Message("assistant", (ToolCall(f"c{n}", "f", "{}"),)) for n in (1, 2))
SAID = Message("assistant", (Text("Well."),))
FIRST, SECOND = (Message("tool", (ToolResult(f"c{n}", (Text(f"r{n}"),)),)) for n in (1, 2))


def roles(*messages: Message, batch: bool = False) -> list[tuple[str, int]]:
    return [(turn.role, len(turn.parts)) for turn in run_steps(merge_turns(messages, lambda call: batch))]


def test_messages_that_follow_each_other_are_one_turn() -> None:
    assert roles(GO, SAID, ONE, TWO, FIRST, SECOND, GO) == [
        ("user", 1), ("assistant", 3), ("tool", 1), ("tool", 1), ("user", 1),
    ]  # fmt: skip
    assert roles(ONE, FIRST, TWO, SECOND) == [("assistant", 1), ("tool", 1), ("assistant", 1), ("tool", 1)]


def test_a_batch_is_one_turn_although_answers_stand_between_its_calls() -> None:
    assert roles(ONE, FIRST, TWO, SECOND, batch=True) == [("assistant", 2), ("tool", 1), ("tool", 1)]
    for between in (GO, SAID):  # a word of the user, or of the assistant, ends it
        assert len(roles(ONE, FIRST, between, TWO, SECOND, batch=True)) >= 4


@pytest.mark.parametrize("name", [one.name for one in registry.dialects() if one.has_endpoints])
def test_every_endpoint_gets_a_batch_of_single_messages_with_all_its_answers(name: str) -> None:
    written = body_of(name, GO, ONE, TWO, FIRST, SECOND, GO)
    text = json.dumps(written)
    assert text.index("r1") < text.index("r2") and "not answered" not in text and "not carried out" not in text


def body_of(name: str, *messages: Message, memory: Any = None) -> dict[str, Any]:
    write = registry.load(name).write_request
    assert write is not None
    model = "gemini-3-flash" if name == "gemini" else "m"
    body: dict[str, Any] = json.loads(write(Request(model, messages), Options(), memory or Kept()).body)
    return body


def gemini(memory: Any, *messages: Message) -> list[list[str]]:
    """Of each content, the kinds of its parts, with the signature of calls."""
    return [
        [f"call {part.get('thoughtSignature', '-')}" if "functionCall" in part else next(iter(part)) for part in one["parts"]]
        for one in body_of("gemini", *messages, memory=memory)["contents"]
    ]


@pytest.mark.parametrize("history", [(ONE, TWO, FIRST, SECOND), (ONE, FIRST, TWO, SECOND)])
def test_gemini_gets_a_parallel_batch_as_one_content_with_the_signature_of_its_first_call(history: Any) -> None:
    memory = Kept()
    store(memory, "c1", "proof")
    store(memory, "c2", None)
    assert gemini(memory, GO, *history) == [["text"], ["call proof", "call -"], ["functionResponse", "functionResponse"]]


def test_gemini_gets_calls_one_after_the_other_in_contents_of_their_own() -> None:
    memory = Kept()
    store(memory, "c1", "proof")
    store(memory, "c2", "another")
    answered = ["functionResponse"]
    assert gemini(memory, GO, ONE, FIRST, TWO, SECOND) == [["text"], ["call proof"], answered, ["call another"], answered]


@pytest.mark.parametrize("name", [one.name for one in registry.dialects() if one.has_endpoints])
def test_many_small_messages_of_an_assistant_cost_linear_time(name: str) -> None:
    write = registry.load(name).write_request
    assert write is not None

    def written(count: int) -> None:
        write(Request("gemini-3-flash", (GO, *(SAID for _ in range(count)), GO)), Options(), Kept())

    assert linear(written, 1000)


CALLS = {
    "openai_chat": {"choices": [{"finish_reason": "tool_calls", "message": {"tool_calls": [
        {"id": "call_0000", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}}]},
    "openai_responses": {"status": "completed", "output": [
        {"type": "function_call", "id": "fc_1", "call_id": "call_0000", "name": "look", "arguments": "{}"}]},
    "anthropic_messages": {"type": "message", "stop_reason": "tool_use", "content": [
        {"type": "tool_use", "id": "call_0000", "name": "look", "input": {}}]},
    "gemini": {"candidates": [{"finishReason": "STOP", "content": {"parts": [
        {"functionCall": {"id": "call_0000", "name": "look", "args": {}}}]}}]},
    "ollama": {"done": True, "message": {"tool_calls": [
        {"id": "call_0000", "function": {"name": "look", "arguments": {}}}]}},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_an_id_of_an_earlier_call_is_not_that_of_a_new_one(name: str) -> None:
    make = registry.load(name).reader
    assert make is not None
    for earlier, stays in (("call_0000", False), ("call_1111", True)):
        history = (Message("user", (Text("x"),)), Message("assistant", (ToolCall(earlier, "look", "{}"),)))
        reader = make(Request("m", history), Options(), Kept())
        events = reader.decode(json.dumps(CALLS[name]).encode()) + reader.finish()
        (start,) = [one for one in events if isinstance(one, ToolStart)]
        assert (start.id == "call_0000") == stays and start.id
