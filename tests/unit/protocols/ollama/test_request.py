"""What becomes of a request for Ollama."""

from __future__ import annotations

from collections.abc import Callable
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
from relayd.protocols.dialect import Refused

PNG = "data:image/png;base64,QUJD"
LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"x": {"type": "integer"}}})


def test_settings_stand_in_options_and_zero_is_a_value(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    assert write(context(
        max_tokens=7, temperature=0, top_p=0.5, top_k=0, stop=("a", "b"), seed=3, presence_penalty=0.0,
        frequency_penalty=1, stream=True,
    )) == {
        "model": "mistral", "messages": [{"role": "user", "content": "Hello"}], "stream": True,
        "options": {"num_predict": 7, "temperature": 0, "top_p": 0.5, "top_k": 0, "seed": 3, "presence_penalty": 0.0,
                    "frequency_penalty": 1, "stop": ["a", "b"]},
    }  # fmt: skip


def test_a_plain_request_has_stream_false(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    assert write(context()) == {"model": "mistral", "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def test_a_tool_loop_has_objects_and_names(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(
        Message("developer", (Text("Be"), Text(" kind"))),
        Message("user", (Text("see"), Image(PNG))),
        Message("assistant", (Text("Well"), ToolCall("c1", "look", '{"x":1}'), ToolCall("c2", "patch", "raw", "custom"))),
        Message("tool", (ToolResult("c1", (Text("a"), Image(PNG))),)),
        Message("tool", (ToolResult("c2", ()), ToolResult("c9", (Text("?"),)))),
        tools=(LOOK, Tool("bare"), Tool("patch", kind="custom", grammar={"syntax": "lark"})),
    ))  # fmt: skip
    assert body["messages"] == [
        {"role": "system", "content": "Be\n kind"},
        {"role": "user", "content": "see", "images": ["QUJD"]},
        {"role": "assistant", "content": "Well", "tool_calls": [
            {"id": "c1", "function": {"name": "look", "arguments": {"x": 1}}},
            {"id": "c2", "function": {"name": "patch", "arguments": {"input": "raw"}}},
        ]},
        {"role": "tool", "content": "a", "tool_name": "look", "tool_call_id": "c1", "images": ["QUJD"]},
        {"role": "tool", "content": "", "tool_name": "patch", "tool_call_id": "c2"},
        {"role": "tool", "content": "?", "tool_call_id": "c9"},
    ]  # fmt: skip
    first, second, third = (tool["function"] for tool in body["tools"])
    assert first == {"name": "look", "description": "Looks.", "parameters": LOOK.parameters}
    assert second["parameters"] == {"type": "object", "properties": {}}
    assert third["parameters"]["required"] == ["input"] and "lark" in third["description"]


def test_the_choice_of_tools_is_made_by_what_is_offered(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    def names(choice: ToolChoice | None) -> list[str]:
        body = write(context(tools=(LOOK, Tool("find")), tool_choice=choice))
        return [tool["function"]["name"] for tool in body.get("tools", ())]

    assert names(None) == names(ToolChoice("auto")) == names(ToolChoice("required")) == ["look", "find"]
    assert names(ToolChoice("none")) == []
    assert names(ToolChoice("named", "find")) == ["find"]
    with pytest.raises(Refused):
        names(ToolChoice("named", "other"))


def test_the_form_of_the_answer_is_json_or_a_schema(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    assert write(context(format=Format("json_object")))["format"] == "json"
    assert write(context(format=Format("json_schema", "x", {"type": "object"})))["format"] == {"type": "object"}
    assert "format" not in write(context(format=Format("text")))


@pytest.mark.parametrize(
    ("model", "thinking", "think"),
    [
        ("qwen3", Thinking("high"), True),
        ("qwen3", Thinking("none"), False),
        ("qwen3", Thinking(enabled=False), False),
        ("qwen3", Thinking(budget=100), True),
        ("qwen3", Thinking(visible=True), None),
        ("gpt-oss:20b", Thinking("minimal"), "low"),
        ("gpt-oss:20b", Thinking("xhigh"), "high"),
        ("gpt-oss:20b", Thinking("none"), "low"),
        ("gpt-oss:20b", Thinking(enabled=True), True),
    ],
)
def test_thinking_is_switched_or_graded_as_the_model_takes_it(context: Callable[..., Request], write: Callable[..., dict[str, Any]], model: str, thinking: Any, think: Any) -> None:
    assert write(context(model=model, thinking=thinking)).get("think") == think


def test_thoughts_of_the_history_go_where_the_options_say(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    message = Message("assistant", (Reasoning("hm"), Refusal("No.")))
    assert write(context(message))["messages"] == [{"role": "assistant", "content": "No."}]
    assert write(context(message), reasoning_history="reasoning_content")["messages"][0]["thinking"] == "hm"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"thinking": Thinking("enormous")}, "reasoning_effort"),
    ],
)
def test_what_would_change_the_answer_is_refused(context: Callable[..., Request], write: Callable[..., dict[str, Any]], members: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        write(context(**members))
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (Image("https://example.org/a.png"), "messages[1].content"),
        (Image("data:image/png;base64,%%"), "messages[1].content"),
        (File("a.pdf", "data:application/pdf;base64,QQ=="), "messages[1].content"),
        (Audio("QQ==", "wav"), "messages[1].content"),
        (ToolResult("1", (File("a.pdf", "data:,x"),)), "messages[1].content"),
    ],
)
def test_unsupported_parts_are_refused_with_their_path(context: Callable[..., Request], write: Callable[..., dict[str, Any]], part: Any, param: str) -> None:
    role = {ToolCall: "assistant", ToolResult: "tool"}.get(type(part), "user")
    with pytest.raises(Refused) as refused:
        write(context(Message("user", (Text("a"),)), Message(role, (part,))))
    assert refused.value.param == param


def test_logprobs_are_asked_for_by_their_names(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(logprobs=True, top_logprobs=2))
    assert body["logprobs"] is True and body["top_logprobs"] == 2
    assert "logprobs" not in write(context(logprobs=False))


def test_an_unanswered_call_is_filled_or_refused(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    user = Message("user", (Text("x"),))
    calls = Message("assistant", (ToolCall("1", "a", "{}"), ToolCall("2", "b", "{}")))
    for messages in ((calls, Message("tool", (ToolResult("1", (Text("y"),)),)), user), (user, calls)):
        body = write(context(*messages))
        received = [one for one in body["messages"] if one["role"] == "tool"]
        assert [one["tool_name"] for one in received] == ["a", "b"] and all(one["content"] for one in received)

        with pytest.raises(Refused):
            write(context(*messages), unanswered_calls="refuse")
    assert write(context(calls, Message("tool", (ToolResult("1", ()), ToolResult("2", ())))), unanswered_calls="refuse")
