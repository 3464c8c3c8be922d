"""Requests of Messages clients: every row of the table, and every refusal with its field."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.anthropic_messages.read_request import read_request
from relayd.protocols.canon import (
    File,
    Format,
    Image,
    Message,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from relayd.protocols.dialect import Refused
from tests.unit.protocols.anthropic_messages.grammar import context

READ: dict[str, Any] = {"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}


def read(messages: Any = ({"role": "user", "content": "Hi"},), **members: Any) -> Request:
    whole = {"model": "m", "max_tokens": 10, "messages": messages} | members
    return read_request(json.dumps(whole).encode(), context())


def messages(*turns: tuple[str, Any]) -> tuple[Message, ...]:
    return read([{"role": role, "content": content} for role, content in turns]).messages


def test_the_least_request() -> None:
    assert read() == Request("m", (Message("user", (Text("Hi"),)),), max_tokens=10)


def test_sampling_keeps_its_values() -> None:
    asked = read(stream=True, temperature=0, top_p=0.95, top_k=0, stop_sequences=["a", "b"])
    assert (asked.stream, asked.temperature, asked.top_p, asked.top_k, asked.stop) == (True, 0, 0.95, 0, ("a", "b"))


def test_system_text_and_blocks_come_first_without_cache_marks_and_billing() -> None:
    assert read(system="Be.").messages[0] == Message("system", (Text("Be."),))
    blocks = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197; cch=12345;"},
        {"type": "text", "text": "One", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two"},
    ]
    assert read(system=blocks).messages[0] == Message("system", (Text("One"), Text("Two")))
    assert read(system=[]).messages[0].role == "user"


def test_a_system_message_in_the_middle_stays_there() -> None:
    found = messages(("user", "a"), ("system", [{"type": "text", "text": "Now be brief."}]), ("user", "b"))
    assert [message.role for message in found] == ["user", "system", "user"]


def test_text_and_calls_of_the_assistant_are_one_message() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "xx"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "ä", "big": 12345678901234567890}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]
    (message,) = messages(("assistant", content))
    assert message.parts == (
        Reasoning("Hm", signature="s"),
        Reasoning("", redacted="xx"),
        Text("I look."),
        ToolCall("toolu_1", "read", '{"path":"ä","big":12345678901234567890}'),
        ToolCall("toolu_2", "now", "{}"),
    )


def test_results_come_before_the_rest_of_their_turn() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    found = messages(
        ("user", [
            {"type": "text", "text": "and then"},
            {"type": "tool_result", "tool_use_id": "1", "content": "ok"},
            {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "x"}, image],
             "is_error": True},
            {"type": "tool_result", "tool_use_id": "3"},
        ]),
    )  # fmt: skip
    assert found == (
        Message("tool", (
            ToolResult("1", (Text("ok"),)),
            ToolResult("2", (Text("x"), Image("data:image/png;base64,AAAA")), True),
            ToolResult("3", ()),
        )),
        Message("user", (Text("and then"),)),
    )  # fmt: skip


def test_images_and_documents_are_carried() -> None:
    (message,) = messages(("user", [
        {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
        {"type": "document", "title": "T", "source": {"type": "base64", "media_type": "application/pdf", "data": "JV"}},
        {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}},
        {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        {"type": "search_result", "title": "T", "source": "https://a", "content": [{"type": "text", "text": "found"}]},
    ]))  # fmt: skip
    assert message.parts == (
        Image("https://a/b.png"),
        File("T", data="data:application/pdf;base64,JV"),
        File(url="https://a/b.pdf"),
        Text("T\n\nwords"),
        Text("T (https://a)\n\nfound"),
    )


def test_blocks_of_server_tools_are_dropped_and_results_of_client_searches_stay() -> None:
    found = messages(
        ("assistant", [
            {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "1", "content": []},
            {"type": "text", "text": "Found."},
        ]),
        ("user", [{"type": "tool_result", "tool_use_id": "2",
                   "content": [{"type": "tool_reference", "tool_name": "grep"}]}]),
    )  # fmt: skip
    assert found[0].parts == (Text("Found."),)
    assert found[1].parts == (ToolResult("2", (Text("The tool grep is available."),)),)


def test_tools_are_read_and_server_tools_left_out() -> None:
    asked = read(tools=[READ, {"type": "web_search_20250305", "name": "web_search"}, READ | {"type": "custom"}])
    assert asked.tools == (Tool("read", "Reads.", READ["input_schema"]),) * 2


@pytest.mark.parametrize(
    ("choice", "read_as"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "read"}, ToolChoice("named", "read")),
        ({"type": "none"}, ToolChoice("none")),
    ],
)
def test_tool_choices_are_translated(choice: dict[str, Any], read_as: ToolChoice) -> None:
    assert read(tools=[READ], tool_choice=choice).tool_choice == read_as


def test_parallel_calls_can_be_forbidden() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert read(tools=[READ], tool_choice=choice).parallel_tool_calls is False
    assert read(tools=[READ], tool_choice={"type": "auto"}).parallel_tool_calls is None


@pytest.mark.parametrize(
    ("members", "thinking"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(budget=2048, enabled=True, visible=True)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
         Thinking(effort="high", enabled=True, visible=True)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Thinking(enabled=True, visible=False)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"output_config": {"effort": "low"}}, Thinking(effort="low")),
        ({}, None),
    ],
)  # fmt: skip
def test_thinking_is_read(members: dict[str, Any], thinking: Thinking | None) -> None:
    assert read(**members).thinking == thinking


def test_a_schema_for_the_answer_is_read_in_both_places() -> None:
    schema = {"type": "object", "additionalProperties": False}
    written = {"type": "json_schema", "schema": schema}
    assert read(output_config={"format": written}).format == Format("json_schema", None, schema, True)
    assert read(output_format=written).format == Format("json_schema", None, schema, True)
    assert read(output_config={"format": None}).format is None
    for lenient in ({"type": "object"}, {"properties": {"a": {}}, "additionalProperties": False}):  # OpenAI refuses them
        assert read(output_format={**written, "schema": lenient}).format == Format("json_schema", None, lenient, False)


def test_a_long_user_id_is_hashed() -> None:
    assert read(metadata={"user_id": "me"}).user == "me"
    long = json.dumps({"device_id": "d" * 64})
    assert read(metadata={"user_id": long}).user == hashlib.sha256(long.encode()).hexdigest()


def test_what_steers_only_anthropics_service_is_read_past() -> None:
    asked = read(context_management={"edits": []}, container="c", service_tier="auto", betas=["x"], mcp_servers=[])
    assert asked == read()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]},
         "messages.0.content.0.type"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "1"}]}]},
         "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
         "messages.0.content.0.source.type"),
        ({"system": 7}, "system"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [1]}, "stop_sequences.0"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "gone"}}, "tool_choice.name"),
        ({"tools": [{"type": "web_search_1", "name": "web"}], "tool_choice": {"type": "tool", "name": "web"}},
         "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**members)
    assert refused.value.param == param and refused.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read_request(body, context())


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "text", "role", "content", "source", "data", "id", "name", "input", "media_type",
                         "tool_use_id", "thinking", "schema", "input_schema"]),
        inner | st.sampled_from(["text", "user", "assistant", "tool_use", "tool_result", "image", "base64", "document"]),
        max_size=4,
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "system", "tools", "tool_choice", "thinking", "output_config", "metadata"]), _values
    )
)
def test_any_value_anywhere_is_read_or_refused(members: dict[str, Any]) -> None:
    try:
        asked = read(**members)
    except Refused as refused:
        assert refused.message and refused.status == 400
    else:
        assert isinstance(asked, Request)
