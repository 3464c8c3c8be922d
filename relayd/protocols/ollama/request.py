"""The canonical form to Ollama's native /api/chat.

Fields that the API does not have are dropped according to the manual's list (`DIALECT.drops`); the request is Refused
if that would change the form of the response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._capabilities import OLLAMA, ModelFamily
from relayd.protocols._data_url import is_data_url, parse_data_url
from relayd.protocols._thinking import requested_thinking
from relayd.protocols._tool_arguments import arguments_steps, require_few_values
from relayd.protocols._tools import body_steps, tool_steps
from relayd.protocols._turns import merge_turns
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
from relayd.protocols.dialect import EncodedRequest, Memory, Options, Refused, run_steps
from relayd.wire.json_steps import Steps

_OPTIONS = (
    ("max_tokens", "num_predict"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("seed", "seed"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
)


_UNANSWERED = "No answer: the call was not carried out."


def write_request(request: Request, options: Options, memory: Memory) -> EncodedRequest:
    """The request for an Ollama endpoint. Raises Refused."""
    return run_steps(write_steps(request, options, memory))


def write_steps(request: Request, options: Options, memory: Memory) -> Steps[EncodedRequest]:
    """The same in steps."""
    if request.n is not None and request.n > 1:
        raise Refused("Ollama returns one choice.", "n", "unsupported_value")
    yield from require_few_values(request.messages)
    messages = yield from _messages((yield from merge_turns(request.messages)), options)
    body: dict[str, Any] = {"model": request.model, "messages": messages}
    body["stream"] = request.stream
    offered = _offered(request)
    tools = (yield from tool_steps(offered, "ollama", _tool, request.large)) if offered else None
    if request.format is not None and request.format.kind != "text":
        schema = request.format.schema if request.format.kind == "json_schema" else None
        body["format"] = "json" if schema is None else schema
    thinking = requested_thinking(request, options, memory)
    if thinking is not None and (think := _think(thinking, OLLAMA.of(request.model))) is not None:
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
    return EncodedRequest("/api/chat", (yield from body_steps(body, tools, request.large)))


def _offered(request: Request) -> tuple[Tool, ...]:
    """The offered tools. Ollama has no tool_choice: `none` offers no tools, a named choice that tool alone."""
    choice = request.tool_choice
    if choice is None or choice.mode in ("auto", "required"):
        return request.tools
    if choice.mode == "none":
        return ()
    named = tuple(tool for tool in request.tools if tool.name == choice.name)
    if request.tools and not named:
        raise Refused("tool_choice names a function that is not in tools.", "tool_choice", "invalid_value")
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


def _think(thinking: Thinking, family: ModelFamily) -> bool | str | None:
    """Models with levels cannot disable thinking; for the others it is switched on or off."""
    effort = "none" if thinking.enabled is False else thinking.effort
    if effort is not None:
        effort = family.effort(effort)
        return effort if family.thinking == "effort" else effort != "none"
    return True if thinking.enabled or thinking.budget is not None else None


def _messages(messages: tuple[Message, ...], options: Options) -> Steps[list[dict[str, Any]]]:
    written: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    unanswered: dict[str, None] = {}  # calls of the last turn
    for number, message in enumerate(messages):
        yield
        at = f"messages[{number}]"
        if message.role == "tool":
            for part in message.parts:
                if isinstance(part, ToolResult):
                    written.append(_answer(part, names, at))
                    unanswered.pop(part.call_id, None)
                    yield
            continue
        written += _filled(unanswered, names, options)
        unanswered = {part.id: None for part in message.parts if isinstance(part, ToolCall)}
        role = "system" if message.role == "developer" else message.role
        one: dict[str, Any] = {"role": role, "content": _text(message.parts, "" if role == "assistant" else "\n")}
        images = []
        for part in message.parts:
            if isinstance(part, Image):
                images.append(_image(part, at))
                yield
        if images:
            one["images"] = images
        thoughts = "".join(part.text for part in message.parts if isinstance(part, Reasoning))
        if thoughts and options.reasoning_history == "reasoning_content":
            one["thinking"] = thoughts
        calls = [part for part in message.parts if isinstance(part, ToolCall)]
        if calls:
            names |= {call.id: call.name for call in calls}
            one["tool_calls"] = written_calls = []
            for call in calls:
                written_calls.append((yield from _call(call)))
                yield
        for part in message.parts:
            if not isinstance(part, Text | Image | Refusal | Reasoning | ToolCall):
                label = type(part).__name__.lower()
                raise Refused(f"Ollama accepts text and images, no {label}.", f"{at}.content", "invalid_value")
        written.append(one)
    return written + _filled(unanswered, names, options)


def _filled(unanswered: Mapping[str, None], names: Mapping[str, str], options: Options) -> list[dict[str, Any]]:
    """Results for calls without one. Raises Refused if the options say so."""
    if unanswered and options.unanswered_calls == "refuse":
        raise Refused(f"The call {next(iter(unanswered))[:80]!r} has no result.", "messages", "invalid_value")
    return [_answer(ToolResult(call_id, (Text(_UNANSWERED),)), names, "messages") for call_id in unanswered]


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
        raise Refused("Ollama accepts text and images, no file.", f"{at}.content", "invalid_value")
    return one


def _image(image: Image, at: str) -> str:
    parsed = parse_data_url(image.url) if is_data_url(image.url) else None
    if parsed is None:
        label = "Ollama accepts images as data URLs only."
        if is_data_url(image.url):
            label = "The data URL is not well-formed base64."
        raise Refused(label, f"{at}.content", "invalid_value")
    return parsed[1]


def _call(call: ToolCall) -> Steps[dict[str, Any]]:
    custom = call.kind == "custom"
    arguments = {"input": call.arguments} if custom else (yield from arguments_steps(call.arguments))
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments}}
