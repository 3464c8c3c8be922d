"""Requests: every setting, its echo, and the refused requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Format, Message, Text, Thinking
from relayd.protocols.dialect import Refused
from relayd.protocols.openai_responses.read_request import MAX_INSTRUCTIONS, MAX_ITEMS, read_request
from relayd.protocols.openai_responses.response_settings import settings_of
from tests.aids.memories import Kept
from tests.aids.responses_grammar import RESPONSE_MEMBERS
from tests.unit.protocols.openai_responses.harness import HELLO, make_context, over_websocket, plain, read, refusal

CODEX: dict[str, Any] = {
    "model": "gpt-5-codex", "stream": True, "store": False, "include": ["reasoning.encrypted_content"],
    "tool_choice": "auto", "parallel_tool_calls": True, "reasoning": {"summary": "auto"}, "prompt_cache_key": "t1",
    "client_metadata": {"x": "y"},
    "input": [
        {"type": "message", "id": "m1", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"type": "message", "id": "m2", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    ],
    "tools": [
        {"type": "function", "name": "shell", "strict": False, "parameters": {"type": "object", "properties": {}}},
        {"type": "namespace", "name": "mcp__files", "tools": [{"type": "function", "name": "read"}]},
        {"type": "web_search"},
    ],
}  # fmt: skip


def test_a_codex_request_is_read() -> None:
    request = read(**CODEX)
    assert [message.role for message in request.messages] == ["developer", "user"]
    assert [tool.name for tool in request.tools] == ["shell", "mcp__files__read"]
    assert request.stream and request.thinking == Thinking(visible=True)
    assert settings_of(request).encrypted_reasoning and not settings_of(request).store


def test_every_setting_reaches_the_canonical_form() -> None:
    request = read(
        instructions="be kind", max_output_tokens=5, temperature=0, top_p=0.5, presence_penalty=1, frequency_penalty=-1,
        stop="x", top_logprobs=3, user="u", metadata={"a": "b"}, service_tier="flex", prompt_cache_key="p",
        safety_identifier="s", text={"verbosity": "low"}, reasoning={"effort": "none"},
    )  # fmt: skip
    assert request.messages[0] == Message("system", (Text("be kind"),))
    assert (request.max_tokens, request.temperature, request.top_p) == (5, 0, 0.5)
    assert (request.presence_penalty, request.frequency_penalty, request.stop) == (1, -1, ("x",))
    assert (request.logprobs, request.top_logprobs) == (True, 3)
    assert (request.user, request.metadata, request.service_tier) == ("u", {"a": "b"}, "flex")
    assert (request.prompt_cache_key, request.safety_identifier, request.verbosity) == ("p", "s", "low")
    assert request.thinking == Thinking("none", enabled=False)


def test_absent_settings_are_none() -> None:
    request = read()
    assert (request.temperature, request.max_tokens, request.thinking, request.format) == (None, None, None, None)
    assert (request.logprobs, request.top_logprobs, request.parallel_tool_calls, request.metadata) == (None,) * 4


def test_a_format_is_read_and_echoed_whole() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    request = read(text={"format": schema, "verbosity": "high"})
    assert request.format == Format("json_schema", "n", {"type": "object"})
    assert settings_of(request).echo["text"] == {"format": {**schema, "description": None, "strict": False}, "verbosity": "high"}
    assert read(text={"format": {"type": "json_object"}}).format == Format("json_object")


def test_the_answer_repeats_the_requested_settings() -> None:
    asked: dict[str, Any] = {
        "instructions": "x", "max_output_tokens": 9, "temperature": 0, "top_p": 0.25, "presence_penalty": 1.5,
        "metadata": {"k": "v"}, "truncation": "auto", "store": False, "service_tier": "flex", "max_tool_calls": 4,
        "parallel_tool_calls": False, "reasoning": {"effort": "low", "summary": "auto"}, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "p", "top_logprobs": 2,
    }  # fmt: skip
    answer = plain(HELLO, **asked)
    assert {key: answer[key] for key in asked} == asked
    assert {"temperature": 1, "top_p": 1, "store": True, "truncation": "disabled"}.items() <= plain(HELLO).items()
    assert set(plain(HELLO)) == RESPONSE_MEMBERS


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ...}, "model"), ({"model": 7}, "model"), ({"model": ""}, "model"),
        ({"input": ...}, "input"), ({"input": 7}, "input"), ({"input": {}}, "input"), ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": "x"}] * (MAX_ITEMS + 1)}, "input"),
        ({"instructions": []}, "instructions"), ({"instructions": "x" * (MAX_INSTRUCTIONS + 1)}, "instructions"),
        ({"stream": "yes"}, "stream"), ({"store": 1}, "store"), ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"max_output_tokens": 0}, "max_output_tokens"), ({"max_output_tokens": True}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"), ({"temperature": "1"}, "temperature"), ({"top_p": -1}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"), ({"include": "x"}, "include"), ({"include": [1]}, "include"),
        ({"text": "x"}, "text"), ({"text": {"format": {}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"), ({"metadata": []}, "metadata"),
        ({"background": True}, "background"), ({"conversation": "c"}, "conversation"), ({"prompt": {"id": "p"}}, "prompt"),
        ({"generate": False}, "generate"), ({"truncation": "some"}, "truncation"), ({"max_tool_calls": "x"}, "max_tool_calls"),
        ({"previous_response_id": 7}, "previous_response_id"), ({"stop": 7}, "stop"), ({"user": 1}, "user"),
    ],
)  # fmt: skip
def test_invalid_fields_are_refused_with_their_name(members: dict[str, Any], param: str) -> None:
    refused = refusal(**members)
    assert (refused.status, refused.param) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": NaN}', b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read_request(body, make_context())


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.sampled_from(["function", "message", "user"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "role", "content", "name", "tools", "format", "call_id", "output", "id"]), inner),
    max_leaves=8,
)
MEMBERS = ["input", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "previous_response_id", "stop"]


@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_arbitrary_requests_are_read_or_refused(members: dict[str, Any]) -> None:
    try:
        request = read_request(json.dumps({"model": "m", "input": "x", **members}).encode(), make_context())
    except Refused as refused:
        assert refused.status == 400 and refused.message
    else:
        assert request.messages


def test_null_is_absence() -> None:
    members = dict.fromkeys(("instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "store"))
    assert plain(HELLO, **members)["store"] is True


def test_a_websocket_request_is_always_streamed() -> None:
    assert read(make_context(socket=Kept()), stream=False).stream


def test_a_websocket_accepts_only_response_create() -> None:
    assert refusal(make_context(socket=Kept()), type="response.cancel").param == "type"


def test_a_refused_continuation_evicts_the_previous_response() -> None:
    context = make_context(socket=Kept())
    first = over_websocket(HELLO, context, store=False)
    orphan = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]
    assert refusal(context, previous_response_id=first["id"], input=orphan).code == "tool_call_not_found"
    assert refusal(context, previous_response_id=first["id"]).code == "previous_response_not_found"
    assert over_websocket(HELLO, context, store=False)["status"] == "completed"
