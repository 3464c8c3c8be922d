"""The canonical form to a strict Chat endpoint: everything that is carried, nothing that it would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.canon import (
    Format,
    Message,
    Request,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)
from relayd.protocols.dialect import Options
from relayd.protocols.openai_chat.write_request import write_request
from tests.aids.memories import Kept
from tests.unit.protocols.openai_chat.asked import context
from tests.unit.protocols.openai_chat.strict import offences

USER = (Message("user", (Text("hi"),)),)
F = Tool("f", "d", {"type": "object"}, True)


def sent(options: Options | None = None, **members: Any) -> dict[str, Any]:
    sending = write_request(Request("m", USER, **members), options or Options(), Kept())
    assert sending.path == "/chat/completions" and offences(sending.body) == []
    body: dict[str, Any] = json.loads(sending.body)
    assert body.pop("model") == "m" and body.pop("messages") == [{"role": "user", "content": "hi"}]
    return body


@pytest.mark.parametrize(
    ("members", "body"),
    [
        ({}, {}),
        ({"temperature": 0, "top_p": 0.0, "n": 2, "seed": 7, "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 3,
          "presence_penalty": 0, "frequency_penalty": 1, "user": "u", "service_tier": "flex", "prompt_cache_key": "k",
          "safety_identifier": "s"},
         {"temperature": 0, "top_p": 0.0, "n": 2, "seed": 7, "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 3,
          "presence_penalty": 0, "frequency_penalty": 1, "user": "u", "service_tier": "flex", "prompt_cache_key": "k",
          "safety_identifier": "s"}),
        ({"top_logprobs": 3}, {"top_logprobs": 3, "logprobs": True}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        ({"stop": ()}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"tool_choice": ToolChoice("auto"), "parallel_tool_calls": False}, {}),
        ({"format": Format("text")}, {}),
        ({"format": Format("json_object")}, {"response_format": {"type": "json_object"}}),
        ({"format": Format("json_schema", None, {"a": 1}, False, "d")},
         {"response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": {"a": 1}, "strict": False, "description": "d"}}}),
        ({"format": Format("json_schema", "n")}, {"response_format": {"type": "json_object"}}),
        ({"thinking": Thinking("none", enabled=False)}, {"reasoning_effort": "none"}),
        ({"thinking": Thinking(budget=1024)}, {"reasoning_effort": "low"}),
        ({"thinking": Thinking(budget=8000, enabled=True)}, {"reasoning_effort": "medium"}),
        ({"thinking": Thinking(budget=32000)}, {"reasoning_effort": "high"}),
        ({"thinking": Thinking(enabled=True)}, {}),
        ({"thinking": Thinking(budget=0, enabled=False)}, {}),
        ({"verbosity": "low", "metadata": {"a": "b"}, "top_k": 5, "extra": {"store": True, "include": []}}, {}),
    ],
)  # fmt: skip
def test_a_member_is_written(members: dict[str, Any], body: dict[str, Any]) -> None:
    assert sent(**members) == body


def test_tools_are_nested_and_their_choice_is_theirs() -> None:
    body = sent(tools=(F, Tool("g")), tool_choice=ToolChoice("named", "g"), parallel_tool_calls=False)
    assert body == {
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}},
            {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "g"}},
        "parallel_tool_calls": False,
    }
    for mode in ("auto", "required", "none"):
        assert sent(tools=(F,), tool_choice=ToolChoice(mode))["tool_choice"] == mode


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "grammar", "syntax": "lark", "definition": "start: x"},
        {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: x"}},
    ],
)
def test_a_custom_tool_is_a_function_of_one_text(grammar: dict[str, Any]) -> None:
    [tool] = sent(tools=(Tool("c", "d", kind="custom", grammar=grammar),))["tools"]
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert tool["function"]["description"].startswith("d\n\n") and "lark" in tool["function"]["description"]
    assert "start: x" in tool["function"]["description"]
    assert sent(tools=(Tool("c", kind="custom"),))["tools"][0]["function"]["description"] == ""


def test_the_options_say_what_the_endpoint_takes() -> None:
    options = Options(max_tokens_field="max_completion_tokens", metadata=True, verbosity=True)
    assert sent(options, max_tokens=5, metadata={}, verbosity="low") == {
        "max_completion_tokens": 5, "metadata": {}, "verbosity": "low",
    }  # fmt: skip


def test_numbers_and_text_arrive_as_they_were() -> None:
    parameters = {"type": "object", "properties": {"é☃": {"maximum": 9007199254740993, "minimum": -0.0, "const": "\ud83d"}}}
    request = context(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    body = json.loads(write_request(request, Options(), Kept()).body)
    assert body["tools"][0]["function"]["parameters"] == parameters
