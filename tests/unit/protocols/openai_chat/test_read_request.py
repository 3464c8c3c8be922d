"""A Chat client's request is read completely, and what is wrong with it is named by its path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Format, Request, Thinking, Tool, ToolChoice
from relayd.protocols.dialect import Refused
from relayd.protocols.openai_chat.read_request import read_request
from tests.unit.protocols.openai_chat.asked import an_ask, context

F = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}}
G = {"type": "function", "function": {"name": "g"}}


def refused(**members: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        context(**members)
    return caught.value


def test_every_sampling_field_is_read_and_zero_is_a_value() -> None:
    members = {
        "temperature": 0, "top_p": 0.0, "top_k": 0, "n": 2, "seed": 12345678901234567890, "presence_penalty": 0,
        "frequency_penalty": -0.5, "logit_bias": {"5": -100}, "logprobs": False, "top_logprobs": 0,
        "parallel_tool_calls": False, "verbosity": "low", "user": "", "metadata": {}, "service_tier": "flex",
        "prompt_cache_key": "k", "safety_identifier": "s",
    }  # fmt: skip
    request = context(**members)
    assert {name: getattr(request, name) for name in members} == members
    nothing = context(**dict.fromkeys(members))
    assert all(getattr(nothing, name) is None for name in members) and nothing.extra == {}


@pytest.mark.parametrize(
    ("members", "field", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, "max_tokens", 6),
        ({"max_completion_tokens": 0}, "max_tokens", 0),
        ({"stop": "x"}, "stop", ("x",)),
        ({"stop": ["x", "y"]}, "stop", ("x", "y")),
        ({"stream": True}, "stream", True),
        ({"stream": None}, "stream", False),
        ({"stream_options": {"include_usage": True}}, "include_usage", True),
        ({"stream_options": {"include_obfuscation": False}}, "include_usage", False),
        ({"response_format": {"type": "text"}}, "format", Format("text")),
        ({"response_format": {"type": "json_object"}}, "format", Format("json_object")),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True,
                                                                     "description": "d"}}},
         "format", Format("json_schema", "n", {"a": 1}, True, "d")),
        ({"reasoning_effort": "high"}, "thinking", Thinking("high")),
        ({"reasoning_effort": "none"}, "thinking", Thinking("none", enabled=False)),
        ({"reasoning": {"effort": "low", "exclude": True}}, "thinking", Thinking("low", visible=False)),
        ({"reasoning": {"max_tokens": 9, "enabled": True}}, "thinking", Thinking(None, 9, True)),
        ({"thinking": {"type": "disabled"}}, "thinking", Thinking(enabled=False)),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, "thinking", Thinking(None, 7, True)),
        ({"tools": []}, "tools", ()),
        ({"tools": [F]}, "tools", (Tool("f", "d", {"type": "object"}, True),)),
        ({"tools": [{"type": "custom", "custom": {"name": "c", "description": "d"}}]}, "tools", (Tool("c", "d", kind="custom"),)),
        ({"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "grammar", "grammar":
            {"syntax": "lark", "definition": "start: x"}}}}]},
         "tools", (Tool("c", kind="custom", grammar={"type": "grammar", "syntax": "lark", "definition": "start: x"}),)),
        ({"functions": [{"name": "f", "parameters": {}}]}, "tools", (Tool("f", None, {}),)),
        ({"tools": [F], "tool_choice": "required"}, "tool_choice", ToolChoice("required")),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", ToolChoice("named", "f")),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "tool_choice", ToolChoice("named", "f")),
        ({"functions": [{"name": "f"}], "function_call": "none"}, "tool_choice", ToolChoice("none")),
    ],
)  # fmt: skip
def test_a_member_is_read(members: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(context(**members), field) == value


def test_allowed_tools_are_the_only_ones_that_are_offered() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}}
    request = context(tools=[F, G], tool_choice=allowed)
    assert [tool.name for tool in request.tools] == ["g"] and request.tool_choice == ToolChoice("required")


def test_what_the_canonical_form_does_not_know_stays_by_its_name() -> None:
    assert context(min_p=0.1, store=True, chat_template_kwargs={"a": 1}).extra == {
        "min_p": 0.1, "store": True, "chat_template_kwargs": {"a": 1},
    }  # fmt: skip
    assert context(functions=[{"name": "f"}]).extra == {"functions": [{"name": "f"}]}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"), ({"model": ""}, "model"), ({"model": 7}, "model"), ({"messages": None}, "messages"),
        ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"), ({"n": 0}, "n"), ({"n": 1.5}, "n"), ({"stream": "true"}, "stream"),
        ({"stream_options": []}, "stream_options"), ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stop": 5}, "stop"), ({"stop": ["a", 5]}, "stop[1]"), ({"tools": {}}, "tools"), ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"), ({"tools": [F, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"), ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]}, "tools[0].function.parameters"),
        ({"tools": [F, F]}, "tools[1]"), ({"tools": [F], "functions": [{"name": "f"}]}, "functions"),
        ({"tools": [F], "tool_choice": "maybe"}, "tool_choice"), ({"tools": [F], "tool_choice": 5}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [F], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [F], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}}, "tool_choice.allowed_tools.mode"),
        ({"tools": [F], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice.allowed_tools.tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"), ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name"),
        ({"modalities": ["text", "audio"]}, "modalities"), ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"max_tokens": "5"}, "max_tokens"), ({"logit_bias": []}, "logit_bias"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_path(members: dict[str, Any], param: str) -> None:
    fault = refused(**members)
    assert (fault.status, fault.param) == (400, param) and param in fault.message


def test_tools_and_stops_are_bounded() -> None:
    tools = [{"type": "function", "function": {"name": f"f{position}"}} for position in range(1025)]
    assert refused(tools=tools).param == "tools"
    assert refused(stop=["x"] * 65).param == "stop"


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["function", "user", "text", "auto"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "function", "name", "role", "content", "tools", "mode", "allowed_tools", "text"]), inner, max_size=4),
    max_leaves=10,
)
MEMBER = st.sampled_from([
    "messages", "tools", "tool_choice", "functions", "function_call", "response_format", "reasoning", "thinking", "stop",
    "stream_options", "modalities", "n", "model",
])  # fmt: skip


@given(st.dictionaries(MEMBER, VALUE, max_size=4))
def test_no_json_raises_anything_but_a_refusal(members: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **members}
    try:
        assert isinstance(read_request(json.dumps(body).encode(), an_ask()), Request)
    except Refused as fault:
        assert fault.status == 400 and fault.message and fault.param is not None
