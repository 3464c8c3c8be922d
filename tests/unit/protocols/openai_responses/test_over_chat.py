"""A Responses client with a Chat endpoint: both dialects combined as in the gateway."""

from __future__ import annotations

import json
from typing import Any

from relayd.protocols.canon import Request
from relayd.protocols.dialect import Options
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from tests.aids.memories import Kept
from tests.aids.responses_grammar import read_stream
from tests.unit.protocols.openai_responses.harness import make_context, read

SPACE = {"type": "namespace", "name": "mcp__files", "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}}]}
PATCH = {"type": "custom", "name": "apply_patch", "description": "edit", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}


def asked(**members: Any) -> tuple[Request, dict[str, Any]]:
    request = read(stream=True, **members)
    assert CHAT.write_request is not None
    return request, json.loads(CHAT.write_request(request, Options(), Kept()).body)


def answered(request: Request, *deltas: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """Translate a stream of Chat chunks; returns the final response."""
    assert CHAT.reader is not None
    reader = CHAT.reader(request, Options(), Kept())
    renderer = ResponsesRenderer(request, make_context())
    chunks: list[dict[str, Any]] = [{"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    stream = b"".join(renderer.render(reader.decode(data[start : start + 7])) for start in range(0, len(data), 7))
    return read_stream(stream + renderer.render(reader.finish()))


def tool(index: int, name: str | None = None, arguments: str = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def test_namespace_and_custom_tools_round_trip() -> None:
    request, body = asked(tools=[SPACE, PATCH])
    assert [(one["type"], one["function"]["name"]) for one in body["tools"]] == [
        ("function", "mcp__files__read"), ("function", "apply_patch")]  # fmt: skip
    response = answered(
        request, tool(0, "mcp__files__read", '{"path":', id="a"), tool(0, None, '"x"}'),
        tool(1, "apply_patch", '{"inp', id="b"), tool(1, None, 'ut":"*** Begin\\n"}'), finish="tool_calls",
    )  # fmt: skip
    read_call, patch = response["output"]
    assert (read_call["namespace"], read_call["name"], read_call["arguments"]) == ("mcp__files", "read", '{"path":"x"}')
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")
    outputs = [{"type": "function_call_output", "call_id": "a", "output": "1"},
               {"type": "custom_tool_call_output", "call_id": "b", "output": "2"}]  # fmt: skip
    _, body = asked(input=[{"role": "user", "content": "x"}, *response["output"], *outputs], tools=[SPACE, PATCH])
    calls = body["messages"][1]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["mcp__files__read", "apply_patch"]
    assert json.loads(calls[1]["function"]["arguments"]) == {"input": "*** Begin\n"}
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool"]


def test_parallel_calls_under_one_index_stay_two_calls() -> None:
    request, _ = asked(tools=[SPACE])
    response = answered(request, tool(0, "mcp__files__read", "{}", id="a"), tool(0, "mcp__files__read", '{"n":1}', id="b"))
    assert [item["arguments"] for item in response["output"]] == ["{}", '{"n":1}']


def test_reasoning_then_text() -> None:
    request, _ = asked()
    response = answered(request, {"role": "assistant", "reasoning_content": "hm"}, {"content": "yes"})
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["usage"]["total_tokens"] == 5


def test_a_stream_that_is_cut_fails() -> None:
    request, _ = asked()
    assert CHAT.reader is not None
    reader = CHAT.reader(request, Options(), Kept())
    renderer = ResponsesRenderer(request, make_context())
    stream = renderer.render(reader.decode(b'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n'))
    assert read_stream(stream + renderer.render(reader.finish()))["status"] == "failed"


def test_settings_of_the_responses_api_do_not_reach_the_endpoint() -> None:
    _, body = asked(store=True, truncation="auto", include=["reasoning.encrypted_content"], client_metadata={"a": 1})
    assert set(body) == {"model", "messages", "stream", "stream_options"}
