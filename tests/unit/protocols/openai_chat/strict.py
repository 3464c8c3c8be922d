"""A strict Chat endpoint: everything that some endpoint answers with 400, as one list of offences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

KNOWN = {
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "n", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    "top_logprobs", "user", "service_tier", "prompt_cache_key", "safety_identifier", "stop", "response_format",
    "reasoning_effort", "verbosity", "metadata", "stream", "stream_options",
}  # fmt: skip


def offences(body: bytes, developer: bool = False) -> list[str]:
    """What is wrong with this request."""
    return list(_request(json.loads(body), developer))


def _request(request: dict[str, Any], developer: bool) -> Iterator[str]:
    yield from (f"unknown {name}" for name in request.keys() - KNOWN)
    if _nulls(request):
        yield "null"
    tools = request.get("tools")
    if tools == []:
        yield "empty tools"
    if not tools and ("tool_choice" in request or "parallel_tool_calls" in request):
        yield "tool_choice without tools"
    if "stream_options" in request and not request.get("stream"):
        yield "stream_options without stream"
    if request.get("stream") and request.get("stream_options") != {"include_usage": True}:
        yield "stream without usage"
    for tool in tools or ():
        if tool.keys() != {"type", "function"} or tool["type"] != "function":
            yield "tool that is no function"
        if not tool["function"].get("name") or not isinstance(tool["function"].get("parameters"), dict):
            yield "function without name or parameters"
    choice = request.get("tool_choice")
    if isinstance(choice, dict) and choice["function"]["name"] not in [tool["function"]["name"] for tool in tools or ()]:
        yield "choice of no tool"
    form = request.get("response_format", {})
    if form.get("type") == "json_schema" and not {"name", "schema"} <= form["json_schema"].keys():
        yield "json_schema without name or schema"
    yield from _messages(request["messages"], developer)


def _messages(messages: list[dict[str, Any]], developer: bool) -> Iterator[str]:
    pending: list[str] = []
    if not messages:
        yield "no messages"
    for message in messages:
        role = message["role"]
        if role not in ("system", "user", "assistant", "tool") and not (developer and role == "developer"):
            yield f"role {role}"
        if role == "tool":
            if not pending or message["tool_call_id"] != pending.pop(0):
                yield "tool message that answers no pending call"
        elif pending:
            yield "message between calls and answers"
            pending = []
        if role in ("system", "tool", "developer") and not isinstance(message.get("content"), str):
            yield f"{role} with parts"
        if role == "user" and (message.get("content") is None or message["content"] == []):
            yield "user without content"
        if role == "assistant":
            if not message.get("content") and not message.get("tool_calls") and not message.get("refusal"):
                yield "empty assistant"
            if message.get("tool_calls") == []:
                yield "empty calls"
            for call in message.get("tool_calls", ()):
                if not call.get("id") or call.get("type") != "function":
                    yield "call without id or type"
                if not isinstance(call["function"].get("arguments"), str) or not call["function"]["arguments"]:
                    yield "arguments are no string"
                pending.append(call["id"])
    if pending:
        yield "unanswered calls at the end"


def _nulls(value: Any) -> bool:
    if isinstance(value, dict):
        return any(one is None or _nulls(one) for one in value.values())
    return isinstance(value, list) and any(one is None or _nulls(one) for one in value)
