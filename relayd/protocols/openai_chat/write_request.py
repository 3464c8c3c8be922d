"""The canonical form to the request of a strict Chat endpoint: no null, no empty member, no unknown field.

Only the fields in this module are sent: many endpoints answer 400 to an unknown field.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json, _thinking
from relayd.protocols._capabilities import CHAT, ModelFamily, effort_for_budget
from relayd.protocols._stop_strings import require_stop_limits
from relayd.protocols._thinking import requested_thinking
from relayd.protocols._tools import body_steps, tool_steps
from relayd.protocols._turns import call_ids
from relayd.protocols.canon import Format, Request, Thinking, Tool
from relayd.protocols.dialect import EncodedRequest, Memory, Options, run_steps
from relayd.protocols.openai_chat.reasoning_details import detail_key
from relayd.protocols.openai_chat.tool_call_assembler import signature_key
from relayd.protocols.openai_chat.write_messages import message_steps
from relayd.wire.json_steps import Steps

PATH = "/chat/completions"

_SAME = (
    "temperature", "top_p", "n", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    "top_logprobs", "user", "service_tier", "prompt_cache_key", "safety_identifier",
)  # fmt: skip


def write_request(request: Request, options: Options, memory: Memory) -> EncodedRequest:
    """The request for the endpoint. Raises Refused for content that cannot be translated."""
    return run_steps(write_steps(request, options, memory))


def recalled_keys(request: Request) -> list[str]:
    """The keys of the memory that `write_request` looks at."""
    found = _thinking.recalled_keys(request)
    for call_id in call_ids(request.messages):
        found += signature_key(call_id), detail_key(call_id)
    return found


def write_steps(request: Request, options: Options, memory: Memory) -> Steps[EncodedRequest]:
    """The same in steps."""
    messages = yield from message_steps(request.messages, options, memory)
    body: dict[str, Any] = {"model": request.model, "messages": messages}
    if request.tools:
        if request.tool_choice is not None:
            choice = request.tool_choice
            named = {"type": "function", "function": {"name": CHAT.tool_name(choice.name or "")}}
            body["tool_choice"] = named if choice.mode == "named" else choice.mode
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.max_tokens is not None:
        body[options.max_tokens_field] = request.max_tokens
    for name in _SAME:
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.top_logprobs is not None and request.logprobs is None:
        body["logprobs"] = True
    sent_stops, local_stops = CHAT.split_stops(request)
    require_stop_limits(local_stops)
    if sent_stops:
        body["stop"] = sent_stops
    if form := _format(request.format):
        body["response_format"] = form
    if effort := _effort(requested_thinking(request, options, memory), CHAT.of(request.model)):
        body["reasoning_effort"] = effort
    if options.verbosity and request.verbosity is not None:
        body["verbosity"] = request.verbosity
    if options.metadata and request.metadata is not None:
        body["metadata"] = request.metadata
    if request.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    tools = (yield from tool_steps(request.tools, "openai_chat", _tool, request.large)) if request.tools else None
    return EncodedRequest(PATH, (yield from body_steps(body, tools, request.large)))


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": CHAT.tool_name(tool.name)}
    if tool.kind == "custom":
        function["description"] = _description(tool)
        function["parameters"] = {
            "type": "object",
            "properties": {"input": {"type": "string", "description": "The whole input of the tool, as plain text."}},
            "required": ["input"],
            "additionalProperties": False,
        }
        return {"type": "function", "function": function}
    if tool.description is not None:
        function["description"] = tool.description
    # Templates of self-hosted models require the parameters.
    function["parameters"] = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _description(tool: Tool) -> str:
    """A custom tool's description, with its grammar, which a function has no field for."""
    grammar = tool.grammar or {}
    definition = grammar.get("definition") or _json.an_object(grammar.get("grammar")).get("definition")
    if not isinstance(definition, str) or not definition:
        return tool.description or ""
    syntax = grammar.get("syntax") or _json.an_object(grammar.get("grammar")).get("syntax") or "grammar"
    grammar_text = f"The input must follow this {syntax} grammar:\n{definition}"
    return f"{tool.description}\n\n{grammar_text}" if tool.description else grammar_text


def _format(form: Format | None) -> dict[str, Any] | None:
    if form is None or form.kind == "text":
        return None
    if form.kind != "json_schema" or form.schema is None:
        return {"type": "json_object"}
    inner: dict[str, Any] = {"name": form.name or "response", "schema": form.schema}
    if form.strict is not None:
        inner["strict"] = form.strict
    if form.description is not None:
        inner["description"] = form.description
    return {"type": "json_schema", "json_schema": inner}


def _effort(thinking: Thinking | None, family: ModelFamily) -> str | None:
    if thinking is None:
        return None
    effort = thinking.effort
    if effort is None and thinking.budget is not None and thinking.enabled is not False:
        effort = effort_for_budget(thinking.budget)
    return None if effort is None else family.effort(effort)
