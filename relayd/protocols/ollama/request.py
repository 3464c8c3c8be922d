"""The canonical form to Ollama's native /api/chat.

What has no place there is dropped as the manual says (`DIALECT.drops`); what would change the
answer's shape is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._data_url import is_data_url, take_apart
from relayd.protocols._tools import with_tools, write_tools
from relayd.protocols.canon import (
    Image,
    Message,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from relayd.protocols.dialect import Memory, Options, Refused, Sending
from relayd.wire.body import MAX_DEPTH

_OPTIONS = (
    ("max_tokens", "num_predict"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("seed", "seed"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
)
_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def write_request(request: Request, options: Options, memory: Memory) -> Sending:
    """The request for an Ollama endpoint. Raises Refused."""
    if request.n is not None and request.n > 1:
        raise Refused("Ollama gives one answer at a time.", "n", "unsupported_value")
    body: dict[str, Any] = {"model": request.model, "messages": _messages(request.messages, options)}
    body["stream"] = request.stream
    offered = _offered(request)
    tools = write_tools(offered, "ollama", _tool) if offered else None
    if request.format is not None and request.format.kind != "text":
        schema = request.format.schema if request.format.kind == "json_schema" else None
        body["format"] = "json" if schema is None else schema
    if request.thinking is not None and (think := _think(request.thinking, request.model)) is not None:
        body["think"] = think
    if request.logprobs:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    settings = {theirs: value for ours, theirs in _OPTIONS if (value := getattr(request, ours)) is not None}
    if request.stop:
        settings["stop"] = list(request.stop)
    if settings:
        body["options"] = settings
    return Sending("/api/chat", with_tools(body, tools))


def _offered(request: Request) -> tuple[Tool, ...]:
    """There is no tool_choice: `none` offers nothing, a named one offers itself alone."""
    choice = request.tool_choice
    if choice is None or choice.mode in ("auto", "required"):
        return request.tools
    if choice.mode == "none":
        return ()
    named = tuple(tool for tool in request.tools if tool.name == choice.name)
    if request.tools and not named:
        raise Refused("tool_choice names a function that tools does not have.", "tool_choice", "invalid_value")
    return named


def _tool(tool: Tool) -> dict[str, Any]:
    parameters: Mapping[str, Any] | None = tool.parameters
    description = tool.description or ""
    if tool.kind == "custom":
        parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
        if tool.grammar is not None:
            description += f"\n\nThe input obeys this grammar: {_json.write_text(tool.grammar)}"
    function: dict[str, Any] = {"name": tool.name, "description": description.strip()}
    function["parameters"] = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _think(thinking: Thinking, model: str) -> bool | str | None:
    """gpt-oss takes levels and cannot be switched off; the others are switched on and off."""
    effort = "none" if thinking.enabled is False else thinking.effort
    if effort == "none":
        return "low" if "gpt-oss" in model else False
    if effort is not None and effort not in _LEVELS:
        known = ", ".join(("none", *_LEVELS))
        raise Refused(f"Unknown reasoning effort {effort[:40]!r}; known: {known}.", "reasoning_effort", "invalid_value")
    if effort is not None and "gpt-oss" in model:
        return _LEVELS[effort]
    return True if effort is not None or thinking.enabled or thinking.budget is not None else None


def _messages(messages: tuple[Message, ...], options: Options) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if message.role == "tool":
            for part in message.parts:
                if isinstance(part, ToolResult):
                    written.append(_answer(part, names, at))
            continue
        role = "system" if message.role == "developer" else message.role
        one: dict[str, Any] = {"role": role, "content": _text(message.parts, "" if role == "assistant" else "\n")}
        images = [_image(part, at) for part in message.parts if isinstance(part, Image)]
        if images:
            one["images"] = images
        thoughts = "".join(part.text for part in message.parts if isinstance(part, Reasoning))
        if thoughts and options.reasoning_history == "reasoning_content":
            one["thinking"] = thoughts
        calls = [part for part in message.parts if isinstance(part, ToolCall)]
        if calls:
            names |= {call.id: call.name for call in calls}
            one["tool_calls"] = [_call(call, at) for call in calls]
        for part in message.parts:
            if not isinstance(part, Text | Image | Refusal | Reasoning | ToolCall):
                what = type(part).__name__.lower()
                raise Refused(f"Ollama takes text and images, no {what}.", f"{at}.content", "invalid_value")
        written.append(one)
    return written


def _text(parts: tuple[Part, ...], gap: str) -> str:
    return gap.join(part.text for part in parts if isinstance(part, Text | Refusal))


def _answer(answer: ToolResult, names: Mapping[str, str], at: str) -> dict[str, Any]:
    one: dict[str, Any] = {"role": "tool", "content": _text(answer.parts, "\n")}
    if answer.call_id in names:
        one["tool_name"] = names[answer.call_id]
    one["tool_call_id"] = answer.call_id
    images = [_image(part, at) for part in answer.parts if isinstance(part, Image)]
    if images:
        one["images"] = images
    if any(not isinstance(part, Text | Image) for part in answer.parts):
        raise Refused("Ollama takes text and images, no file.", f"{at}.content", "invalid_value")
    return one


def _image(image: Image, at: str) -> str:
    apart = take_apart(image.url) if is_data_url(image.url) else None
    if apart is None:
        what = "Ollama takes images as data URLs only."
        if is_data_url(image.url):
            what = "The data URL is not well-formed base64."
        raise Refused(what, f"{at}.content", "invalid_value")
    return apart[1]


def _call(call: ToolCall, at: str) -> dict[str, Any]:
    try:
        arguments = _json.parse(call.arguments) if call.arguments.strip() else {}
    except ValueError:
        arguments = None
    if call.kind == "custom":
        arguments = {"input": call.arguments}
    if not isinstance(arguments, dict) or _json.is_deeper(arguments, MAX_DEPTH):
        raise Refused(
            f"The arguments of the call {call.id[:80]!r} are no JSON object.", f"{at}.tool_calls", "invalid_value"
        )
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments}}
