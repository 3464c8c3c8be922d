"""Thought signatures over the turns of a tool loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.protocols.canon import Message, Request, Text, Tool, ToolCall, ToolResult, ToolStart
from relayd.protocols.gemini.signatures import PLACEHOLDER, signatures_of, store


def loop(*calls: ToolCall) -> tuple[Message, ...]:
    answers = tuple(Message("tool", (ToolResult(call.id, (Text("x"),)),)) for call in calls)
    return Message("user", (Text("go"),)), Message("assistant", calls), *answers


def proofs(body: Any) -> list[str | None]:
    return [
        part.get("thoughtSignature") for turn in body["contents"] for part in turn["parts"] if "functionCall" in part
    ]


def test_a_signature_that_the_client_lost_comes_back_from_the_memory(context: Callable[..., Request], read: Callable[..., list[Any]], write: Callable[..., dict[str, Any]], sse: Callable[..., bytes]) -> None:
    first = {"functionCall": {"name": "look", "args": {}}, "thoughtSignature": "S1"}
    second = {"functionCall": {"name": "find", "args": {}}}
    frame = {"candidates": [{"content": {"parts": [first, second]}, "finishReason": "STOP"}]}
    request = context(stream=True, tools=(Tool("look"), Tool("find")))
    starts = [event for event in read(request, sse(frame)) if isinstance(event, ToolStart)]
    body = write(context(*loop(*[ToolCall(one.id, one.name, "{}") for one in starts])))
    assert proofs(body) == ["S1", None]


def test_an_id_that_comes_again_in_a_later_turn_keeps_the_signature_of_each_call(context: Callable[..., Request], read: Callable[..., list[Any]], write: Callable[..., dict[str, Any]], sse: Callable[..., bytes]) -> None:
    history: tuple[Message, ...] = (Message("user", (Text("go"),)),)
    for proof in ("S1", "S2"):
        part = {"functionCall": {"id": "call_0", "name": "look", "args": {}}, "thoughtSignature": proof}
        frame = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}
        events = read(context(*history, stream=True, tools=(Tool("look"),)), sse(frame))
        (start,) = [event for event in events if isinstance(event, ToolStart)]
        history += loop(ToolCall(start.id, "look", "{}"))[1:]
    assert proofs(write(context(*history))) == ["S1", "S2"]


def test_the_signature_that_the_client_brings_counts(context: Callable[..., Request], write: Callable[..., dict[str, Any]], memory: Any) -> None:
    store(memory, "1", "kept")
    assert proofs(write(context(*loop(ToolCall("1", "a", "{}", signature="brought"))))) == ["brought"]


def test_history_of_another_model_gets_the_placeholder_on_the_first_call_only(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    history = loop(ToolCall("1", "a", "{}"), ToolCall("2", "b", "{}"))
    body = write(context(*history, Message("assistant", (ToolCall("3", "c", "{}"),)), Message("tool", (ToolResult("3", ()),))))
    assert proofs(body) == [PLACEHOLDER, None, PLACEHOLDER]


def test_nothing_is_invented_for_a_call_of_geminis_own_without_a_signature(context: Callable[..., Request], write: Callable[..., dict[str, Any]], memory: Any) -> None:
    store(memory, "1", None)
    assert proofs(write(context(*loop(ToolCall("1", "a", "{}"), ToolCall("2", "b", "{}"))))) == [None, None]


def test_nothing_is_invented_beside_a_real_signature(context: Callable[..., Request], write: Callable[..., dict[str, Any]], memory: Any) -> None:
    store(memory, "2", "S2")
    assert proofs(write(context(*loop(ToolCall("1", "a", "{}"), ToolCall("2", "b", "{}"))))) == [None, "S2"]


def test_models_that_do_not_demand_signatures_get_no_placeholder(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    for model in ("gemini-2.5-flash", "gemini-1.5-pro", "models/gemini-2.0-flash"):
        assert proofs(write(context(*loop(ToolCall("1", "a", "{}")), model=model))) == [None]
    assert proofs(write(context(*loop(ToolCall("1", "a", "{}")), model="gemini-flash-latest"))) == [PLACEHOLDER]


def test_a_memory_that_holds_something_strange_is_a_memory_that_holds_nothing(memory: Any) -> None:
    calls = [ToolCall("1", "a", "{}")]
    strange: list[object] = [None, 7, [], {"signature": "S"}]
    for value in strange:
        memory.put("thought_signature:1", value)
        assert signatures_of(calls, memory, True, {"1": calls[0]}) == [PLACEHOLDER]
    assert signatures_of([], memory, True, {}) == []


def test_a_signature_that_the_chat_dialect_stored_is_found(memory: Any) -> None:
    memory.put("thought_signature:1", "S")
    call = ToolCall("1", "a", "{}")
    assert signatures_of([call], memory, True, {"1": call}) == ["S"]
