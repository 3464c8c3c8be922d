"""The two meetings that this dialect is for: Claude Code before a Chat endpoint, a Chat client before a Messages endpoint."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from relayd.protocols.anthropic_messages import DIALECT as MESSAGES
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Options
from relayd.protocols.openai_chat import DIALECT as CHAT
from tests.aids.memories import Kept
from tests.unit.protocols.anthropic_messages.grammar import check, check_failed, context
from tests.unit.protocols.anthropic_messages.test_reader import AGENT
from tests.unit.protocols.openai_chat.strict import offences

# The shape of what Claude Code 2.1.197 sends in the second turn of a tool loop, shortened.
CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-sonnet",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>..."}, {"type": "text", "text": "go"}]},
        {"role": "system", "content": "Available agent types: ..."},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "call_1", "name": "Bash", "input": {"command": "ls"}},
            {"type": "tool_use", "id": "call_2", "name": "Read", "input": {"file_path": "a.png"}},
        ]},
        {"role": "user", "content": [
            {"tool_use_id": "call_1", "type": "tool_result", "content": "", "is_error": False},
            {"tool_use_id": "call_2", "type": "tool_result", "cache_control": {"type": "ephemeral"}, "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            {"type": "text", "text": "<system-reminder>..."},
        ]},
    ],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.0df; cc_entrypoint=sdk-cli;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ],
    "tools": [
        {"name": "Bash", "description": "Runs.", "input_schema": {"type": "object", "properties": {}}},
        {"name": "Read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "metadata": {"user_id": '{"device_id":"9bb15e28c93c3616ac06e82d45cf4c55c082190c736028a9bbafcd2c22519e26"}'},
    "max_tokens": 32000,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}  # fmt: skip


def from_messages(body: dict[str, Any], options: Options | None = None) -> tuple[Request, dict[str, Any]]:
    assert MESSAGES.read_request and CHAT.write_request
    asked = MESSAGES.read_request(json.dumps(body).encode(), context())
    sending = CHAT.write_request(dataclasses.replace(asked, model="local"), options or Options(), Kept())
    assert offences(sending.body) == []
    value: dict[str, Any] = json.loads(sending.body)
    return asked, value


def from_chat(body: dict[str, Any], memory: Kept, options: Options | None = None) -> tuple[Request, Any]:
    assert CHAT.read_request and MESSAGES.write_request
    asked = CHAT.read_request(json.dumps(body).encode(), context(path="/v1/chat/completions"))
    sending = MESSAGES.write_request(asked, options or Options(), memory)
    return asked, json.loads(sending.body)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": "m", "choices": choices} | more).encode() + b"\n\n"


def call(index: int, **members: Any) -> dict[str, Any]:
    identity = {"id": members.pop("id")} if "id" in members else {}
    return {"tool_calls": [{"index": index, "type": "function", "function": members} | identity]}


def through_chat(request: Request, *pieces: bytes) -> bytes:
    assert CHAT.reader and MESSAGES.renderer
    reader, renderer = CHAT.reader(request, Options(), Kept()), MESSAGES.renderer(request, context())
    return b"".join(renderer.render(reader.decode(piece)) for piece in pieces) + renderer.render(reader.finish())


def test_claude_code_is_carried_to_a_strict_chat_endpoint() -> None:
    _, sent = from_messages(CLAUDE_CODE)
    roles = [message["role"] for message in sent["messages"]]
    assert roles[0] == "system" and "billing" not in json.dumps(sent["messages"])
    assert sent["messages"][0]["content"].startswith("You are an agent.")
    assistant = next(message for message in sent["messages"] if message["role"] == "assistant")
    assert assistant["content"] == "I look."
    assert [one["function"]["arguments"] for one in assistant["tool_calls"]] == ['{"command":"ls"}', '{"file_path":"a.png"}']
    results = [message for message in sent["messages"] if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in results] == ["call_1", "call_2"]
    behind = sent["messages"][roles.index("tool") + 2 :]
    assert {message["role"] for message in behind} == {"user"} and "data:image/png;base64,AAAA" in json.dumps(behind)
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["Bash", "Read"]
    assert (sent["max_tokens"], sent["reasoning_effort"], len(sent["user"])) == (32000, "high", 64)
    assert sent["stream_options"] == {"include_usage": True}


def test_a_system_message_between_calls_and_results_does_not_part_them() -> None:
    turns = CLAUDE_CODE["messages"]
    moved = [turns[0], turns[2], turns[1], turns[3]]
    from_messages(CLAUDE_CODE | {"messages": moved})


@pytest.mark.parametrize(
    "more",
    [{"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}, {"tool_choice": {"type": "tool", "name": "Bash"}},
     {"tools": [], "tool_choice": {"type": "none"}}, {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
     {"thinking": {"type": "enabled", "budget_tokens": 5000}, "stream": False}],
)  # fmt: skip
def test_other_requests_are_carried_too(more: dict[str, Any]) -> None:
    from_messages(CLAUDE_CODE | more)


def test_a_chat_endpoints_agent_turn_reaches_claude_code_in_the_grammar() -> None:
    asked, _ = from_messages(CLAUDE_CODE)
    sent = through_chat(
        asked,
        chunk({"role": "assistant", "content": None, "reasoning_content": "I must "}), chunk({"reasoning_content": "look."}),
        chunk({"content": "Looking."}), chunk(call(0, id="call_9", name="Bash", arguments="")),
        chunk(call(0, arguments='{"command"')), chunk(call(0, id="call_8", name="Read", arguments='{"file_path": "b"}')),
        chunk({}, "stop"),
        b'data: {"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":40}}}\n\n',
        b"data: [DONE]\n\n",
    )  # fmt: skip
    message = check(sent)
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert message["content"][2]["input"] == {"unparsed_arguments": '{"command"'}
    assert message["content"][3] == {"type": "tool_use", "id": "call_8", "name": "Read", "input": {"file_path": "b"}}
    assert message["stop_reason"] == "tool_use"
    assert (message["usage"]["input_tokens"], message["usage"]["cache_read_input_tokens"]) == (10, 40)


def test_a_chat_stream_that_is_cut_is_an_error_for_claude_code() -> None:
    asked, _ = from_messages(CLAUDE_CODE)
    assert check_failed(through_chat(asked, chunk({"content": "half"})))["type"] == "api_error"
    error = b'data: {"error":{"message":"GPU fell off","type":"server_error"}}\n\n'
    assert check_failed(through_chat(asked, chunk({"content": "half"}), error))["message"] == "GPU fell off"


TOOLS = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object", "properties": {}}}}]
CHAT_ASK = {"model": "c", "messages": [{"role": "user", "content": "go"}], "tools": TOOLS, "reasoning_effort": "high"}


def test_a_messages_endpoints_agent_turn_reaches_a_chat_client() -> None:
    memory = Kept()
    asked, sent = from_chat(CHAT_ASK | {"stream": True, "stream_options": {"include_usage": True}}, memory)
    assert sent["thinking"] == {"type": "adaptive"} and sent["output_config"] == {"effort": "high"}
    assert MESSAGES.reader and CHAT.renderer
    reader, renderer = MESSAGES.reader(asked, Options(), memory), CHAT.renderer(asked, context())
    stream = renderer.render(reader.decode(AGENT)) + renderer.render(reader.finish())
    lines = [line[6:] for line in stream.decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [one["choices"][0]["delta"] for one in chunks if one["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "I must look: ä€😀"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Looking."
    pieces: dict[int, str] = {0: "", 1: ""}
    for delta in deltas:
        for one in delta.get("tool_calls", ()):
            pieces[one["index"]] += one["function"].get("arguments", "")
    assert pieces == {0: '{"path": "a"}', 1: "{}"}
    reasons = [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]]
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    assert chunks[-1]["usage"]["prompt_tokens"] == 115
    assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 100


def test_the_chat_clients_next_turn_brings_the_signed_thoughts_back() -> None:
    memory = Kept()
    asked, _ = from_chat(CHAT_ASK, memory)
    assert MESSAGES.reader and CHAT.renderer
    reader, renderer = MESSAGES.reader(asked, Options(), memory), CHAT.renderer(asked, context())
    renderer.render(reader.decode(AGENT))
    renderer.render(reader.finish())
    text_message = json.loads(renderer.response().body)["choices"][0]["message"]
    text_message = {key: value for key, value in text_message.items() if key in ("role", "content", "tool_calls")}  # what clients keep
    answers = [{"role": "tool", "tool_call_id": one["id"], "content": "b"} for one in text_message["tool_calls"]]
    for options in (Options(), Options(thinking="budget")):
        _, sent = from_chat(CHAT_ASK | {"messages": [*CHAT_ASK["messages"], text_message, *answers]}, memory, options)
        assert [block["type"] for block in sent["messages"][1]["content"]] == [
            "thinking", "redacted_thinking", "text", "tool_use", "tool_use"]  # fmt: skip
        assert sent["messages"][1]["content"][0] == {
            "type": "thinking", "thinking": "I must look: ä€😀", "signature": "EqQB"}  # fmt: skip
        assert [block["tool_use_id"] for block in sent["messages"][2]["content"]] == ["toolu_1", "toolu_2"]
        assert sent["thinking"]["type"] == ("adaptive" if options.thinking == "adaptive" else "enabled")


def test_an_overloaded_messages_endpoint_is_a_503_for_a_chat_client() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    answer = CHAT.render_error(MESSAGES.read_error(529, {}, body), "req_1")
    assert answer.status == 503 and any(name == "Retry-After" for name, _ in answer.headers)
