"""Converts the canonical form to the request of a Responses endpoint.

Laws:
1. The gateway keeps the state: every request contains the whole conversation and `store: false`, regardless of the
   client's dialect.
2. `strict` is always sent, because its default is true in Responses and false in Chat Completions.
3. The signature of a reasoning item is sent only to the kind of endpoint that issued it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relayd.protocols._capabilities import RESPONSES, ModelFamily, effort_for_budget
from relayd.protocols._stop_strings import require_stop_limits
from relayd.protocols._thinking import requested_thinking
from relayd.protocols._tool_arguments import object_text_steps
from relayd.protocols._tools import body_steps, tool_steps
from relayd.protocols._turns import merge_turns
from relayd.protocols.canon import (
    Audio,
    File,
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
from relayd.protocols.openai_responses.reasoning_items import unpack_native_signature
from relayd.wire.json_steps import Steps

_SAME_NAME = ("temperature", "top_p", "user", "service_tier", "prompt_cache_key", "safety_identifier", "top_logprobs")
_NO_OUTPUT = "(no output)"


def write_request(request: Request, options: Options, memory: Memory) -> EncodedRequest:
    """Encode the request for the endpoint. Raises Refused if it uses an unsupported feature."""
    return run_steps(write_steps(request, options, memory))


def write_steps(request: Request, options: Options, memory: Memory) -> Steps[EncodedRequest]:
    """Encode the request in steps; see write_request."""
    if request.n is not None and request.n > 1:
        raise Refused("This upstream supports one answer only: n must be 1.", "n", "unsupported_value")
    require_stop_limits(RESPONSES.split_stops(request)[1])
    body: dict[str, Any] = {
        "model": request.model,
        "input": (yield from _ItemWriter(options).written((yield from merge_turns(request.messages)))),
        "store": False,
    }
    include = []
    if request.tools:
        if request.tool_choice is not None:
            body["tool_choice"] = _choice(request)
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.max_tokens is not None:
        body["max_output_tokens"] = request.max_tokens
    for name in _SAME_NAME:
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.logprobs or request.top_logprobs:
        include.append("message.output_text.logprobs")
    if options.metadata and request.metadata is not None:
        body["metadata"] = request.metadata
    if text := _text(request, options):
        body["text"] = text
    if reasoning := _reasoning(requested_thinking(request, options, memory), RESPONSES.of(request.model)):
        body["reasoning"] = reasoning
        if reasoning.get("effort") != "none":
            include.append("reasoning.encrypted_content")
    if include:
        body["include"] = include
    if request.stream:
        body["stream"] = True
    large = request.large
    tools = (yield from tool_steps(request.tools, "openai_responses", _tool, large)) if request.tools else None
    return EncodedRequest("/responses", (yield from body_steps(body, tools, large)))


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"type": tool.kind, "name": RESPONSES.tool_name(tool.name)}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.kind == "custom":
        if tool.grammar is not None:
            written["format"] = tool.grammar
        return written
    written["parameters"] = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
    written["strict"] = bool(tool.strict)
    return written


def _choice(request: Request) -> Any:
    choice = request.tool_choice
    assert choice is not None
    if choice.mode != "named":
        return choice.mode
    kinds = {tool.name: tool.kind for tool in request.tools}
    return {"type": kinds.get(choice.name or "", "function"), "name": RESPONSES.tool_name(choice.name or "")}


def _text(request: Request, options: Options) -> dict[str, Any]:
    text: dict[str, Any] = {}
    output_format = request.format
    if output_format is not None and output_format.kind == "json_schema":
        text["format"] = {
            "type": output_format.kind,
            "name": output_format.name,
            "schema": output_format.schema,
            "strict": bool(output_format.strict),
        }
        if output_format.description is not None:
            text["format"]["description"] = output_format.description
    elif output_format is not None and output_format.kind != "text":
        text["format"] = {"type": output_format.kind}
    if options.verbosity and request.verbosity is not None:
        text["verbosity"] = request.verbosity
    return text


def _reasoning(thinking: Thinking | None, family: ModelFamily) -> dict[str, Any]:
    if thinking is None:
        return {}
    effort = thinking.effort
    if effort is None and thinking.budget is not None:
        effort = effort_for_budget(thinking.budget)
    if thinking.enabled is False:
        effort = "none"
    reasoning: dict[str, Any] = {} if effort is None else {"effort": family.effort(effort)}
    if thinking.enabled is not False and thinking.visible is not False and (thinking.visible or thinking.enabled):
        reasoning["summary"] = "auto"
    return reasoning


class _ItemWriter:
    """Converts messages to items; owned by the writing of one request."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._items: list[dict[str, Any]] = []
        self._open_calls: dict[str, str] = {}  # calls without output so far, with their kind

    def written(self, messages: Iterable[Message]) -> Steps[list[dict[str, Any]]]:
        """Convert a whole conversation, in steps. Raises Refused."""
        for message in messages:
            yield
            if message.role == "tool":
                for part in message.parts:
                    if isinstance(part, ToolResult):
                        self._result(part)
                continue
            self._complete_open_calls()
            if message.role == "assistant":
                yield from self._assistant(message.parts)
            elif message.parts:
                content = [_input_part(part) for part in message.parts]
                self._items.append({"type": "message", "role": message.role, "content": content})
        self._complete_open_calls()
        return self._items

    def _complete_open_calls(self) -> None:
        if self._open_calls and self._options.unanswered_calls == "refuse":
            raise Refused(f"The call '{next(iter(self._open_calls))[:128]}' has no answer.", "input", "unanswered_call")
        for call_id in list(self._open_calls):
            self._result(ToolResult(call_id, (Text(_NO_OUTPUT),)))

    def _assistant(self, parts: Iterable[Part]) -> Steps[None]:
        content: list[dict[str, Any]] = []

        def flush() -> None:
            if content:
                self._items.append({"type": "message", "role": "assistant", "content": list(content)})
                content.clear()

        for part in parts:
            match part:
                case Text(text):
                    if text:
                        content.append({"type": "output_text", "text": text, "annotations": []})
                case Refusal(text):
                    content.append({"type": "refusal", "refusal": text})
                case Reasoning():
                    flush()
                    self._items += _reasoning_items(part)
                case ToolCall():
                    flush()
                    yield from self._call(part)
        flush()

    def _call(self, call: ToolCall) -> Steps[None]:
        custom = call.kind == "custom"
        self._open_calls[call.id] = call.kind
        payload = {"input": call.arguments} if custom else {"arguments": (yield from object_text_steps(call.arguments))}
        kind = "custom_tool_call" if custom else "function_call"
        self._items.append({"type": kind, "call_id": call.id, "name": RESPONSES.tool_name(call.name), **payload})

    def _result(self, result: ToolResult) -> None:
        kind = self._open_calls.pop(result.call_id, None)
        if kind is None:
            raise Refused(f"No tool call found for the output with call_id '{result.call_id[:128]}'.", "input",
                          "tool_call_not_found")  # fmt: skip
        output: Any = [_input_part(part) for part in result.parts]
        if all(isinstance(part, Text) for part in result.parts):
            output = "\n".join(part.text for part in result.parts if isinstance(part, Text))
        item = "custom_tool_call_output" if kind == "custom" else "function_call_output"
        self._items.append({"type": item, "call_id": result.call_id, "output": output})


def _reasoning_items(part: Reasoning) -> list[dict[str, Any]]:
    """Return the item of reasoning that a Responses endpoint signed; an empty list for any other reasoning."""
    native = unpack_native_signature(part.signature)
    if native is None:
        return []
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    return [{"type": "reasoning", "id": native[0], "summary": summary, "encrypted_content": native[1]}]


def _input_part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text) | Refusal(text):
            return {"type": "input_text", "text": text}
        case Image(url, detail):
            return {"type": "input_image", "image_url": url, "detail": detail or "auto"}
        case File(filename, data, url, file_id):
            members = {"filename": filename, "file_data": data, "file_url": url, "file_id": file_id}
            return {"type": "input_file", **{name: value for name, value in members.items() if value is not None}}
        case Audio():
            raise Refused("This upstream does not support audio.", "input", "unsupported_value")
    raise Refused("Only a message of the assistant can contain reasoning and tool calls.", "input", "invalid_value")
