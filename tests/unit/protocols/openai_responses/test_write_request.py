"""Requests for Responses endpoints, written from the canonical form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.canon import (
    Audio,
    File,
    Format,
    Image,
    Message,
    Reasoning,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from relayd.protocols.dialect import Options, Refused
from relayd.protocols.openai_responses.reasoning_items import pack_native_signature
from relayd.protocols.openai_responses.write_request import write_request
from tests.aids.memories import Kept
from tests.unit.protocols.openai_responses.harness import read

USER = Message("user", (Text("hi"),))


def written(*messages: Message, options: Options | None = None, **members: Any) -> dict[str, Any]:
    sending = write_request(Request("m", messages or (USER,), **members), options or Options(), Kept())
    assert sending.path == "/responses"
    return dict(json.loads(sending.body))


def test_absent_settings_are_not_sent() -> None:
    assert written() == {
        "model": "m", "store": False,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
    }  # fmt: skip


def test_every_setting_is_written() -> None:
    body = written(
        stream=True, max_tokens=5, temperature=0, top_p=1, user="u", service_tier="flex", prompt_cache_key="p",
        safety_identifier="s", metadata={"a": "b"}, logprobs=True, top_logprobs=2, verbosity="low",
        format=Format("json_schema", "n", {"type": "object"}), thinking=Thinking("high", visible=True),
        options=Options(metadata=True, verbosity=True),
    )  # fmt: skip
    assert body["stream"] is True and (body["max_output_tokens"], body["temperature"], body["top_p"]) == (5, 0, 1)
    assert (body["user"], body["service_tier"], body["metadata"]) == ("u", "flex", {"a": "b"})
    assert body["include"] == ["message.output_text.logprobs", "reasoning.encrypted_content"] and body["top_logprobs"] == 2
    assert body["text"] == {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": False},
                            "verbosity": "low"}  # fmt: skip
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}


@pytest.mark.parametrize(
    ("thinking", "reasoning"),
    [(Thinking(budget=20000), {"effort": "high"}), (Thinking(budget=5000, enabled=True), {"effort": "medium", "summary": "auto"}),
     (Thinking(enabled=False), {"effort": "none"})],
)  # fmt: skip
def test_thinking_in_tokens_becomes_an_effort(thinking: Thinking, reasoning: dict[str, Any]) -> None:
    assert written(thinking=thinking)["reasoning"] == reasoning


def test_tools_are_flat_and_always_state_strict() -> None:
    tools = (Tool("f", "d", {"type": "object"}), Tool("g", strict=True), Tool("p", kind="custom", grammar={"type": "text"}))
    body = written(tools=tools, tool_choice=ToolChoice("named", "p"), parallel_tool_calls=False)
    assert body["tools"] == [
        {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False},
        {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": True},
        {"type": "custom", "name": "p", "format": {"type": "text"}},
    ]
    assert body["tool_choice"] == {"type": "custom", "name": "p"} and body["parallel_tool_calls"] is False
    assert "tool_choice" not in written(tool_choice=ToolChoice("auto"))


def test_a_conversation_is_items() -> None:
    proof = pack_native_signature("rs_1", "gAAA")
    body = written(
        Message("system", (Text("rules"),)),
        Message("user", (Text("a"), Image("data:x", "low"), File("f.pdf", "data:y"))),
        Message("assistant", (Reasoning("hm", proof), Reasoning("foreign", "sig"), Text("b"), Refusal("no"), ToolCall("c1", "f", ""),
                              ToolCall("c2", "p", "raw", "custom"))),
        Message("tool", (ToolResult("c1", (Text("x"), Text("y"))), ToolResult("c2", (Image("data:z"),)))),
    )  # fmt: skip
    assert body["input"] == [
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "rules"}]},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:x", "detail": "low"},
            {"type": "input_file", "filename": "f.pdf", "file_data": "data:y"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "gAAA"},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "b", "annotations": []}, {"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "p", "input": "raw"},
        {"type": "function_call_output", "call_id": "c1", "output": "x\ny"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [
            {"type": "input_image", "image_url": "data:z", "detail": "auto"}]},
    ]  # fmt: skip


def test_arguments_that_are_no_object_end_no_conversation() -> None:
    for arguments, sent in (("null", "{}"), ('{"a":', '{"unparsed_arguments":"{\\"a\\":"}'), ('{ "a": 1 }', '{ "a": 1 }')):
        body = written(
            Message("user", (Text("a"),)), Message("assistant", (ToolCall("c1", "f", arguments),)),
            Message("tool", (ToolResult("c1", (Text("x"),)),)),
        )  # fmt: skip
        assert body["input"][1]["arguments"] == sent


def test_written_conversations_can_be_read_back() -> None:
    messages = (USER, Message("assistant", (Text("b"), ToolCall("c1", "f", "{}"))), Message("tool", (ToolResult("c1", (Text("x"),)),)))
    assert read(input=written(*messages)["input"]).messages == messages


def test_an_unanswered_call_is_filled_or_refused() -> None:
    messages = (USER, Message("assistant", (ToolCall("c1", "f", "{}"),)), USER)
    kinds = [item["type"] for item in written(*messages)["input"]]
    assert kinds == ["message", "function_call", "function_call_output", "message"]
    assert [item["type"] for item in written(*messages[:2])["input"]] == kinds[:3]
    with pytest.raises(Refused):
        written(*messages, options=Options(unanswered_calls="refuse"))


@pytest.mark.parametrize(
    ("messages", "members"),
    [
        ((USER,), {"n": 2}),
        ((USER,), {"stop": ("x",) * 65}),
        ((Message("user", (Audio("AA", "wav"),)),), {}),
        ((USER, Message("tool", (ToolResult("none", ()),))), {}),
    ],
)
def test_unsupported_requests_are_refused(messages: tuple[Message, ...], members: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        written(*messages, **members)
