"""A Messages client's request to the canonical form.

Laws:
1. Unknown content is Refused with its path, never dropped silently; only the content in the manual's list (DROPS) is.
2. The order of a turn is kept, but tool results come first, in a message of their own: the API requires this, and every
   other dialect needs it.
3. `cache_control` and other members that only concern Anthropic's own service are ignored.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from relayd.protocols import _json
from relayd.protocols._schema_keywords import can_be_strict
from relayd.protocols._token_estimate import count_steps
from relayd.protocols.anthropic_messages.blocks import ASSISTANT, SYSTEM, USER, block_steps
from relayd.protocols.canon import (
    Format,
    Message,
    Part,
    Request,
    SharedTools,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
)
from relayd.protocols.dialect import Refused, RequestContext, run_steps
from relayd.wire.json_steps import Steps
from relayd.wire.tool_list_cache import memoised

MOST_TOOLS = 1024
MOST_MESSAGES = 100_000
INPUT_TOKENS = "_input_tokens"  # key in Request.extra: the estimate that a stream begins with
MOST_USER_CHARS = 64  # OpenAI's limit for the same field

# Claude Code's first system block is a line for Anthropic's billing. It changes with every session and would invalidate
# every prefix cache of other models.
_BILLING = "x-anthropic-billing-header:"

DROPS = (
    "Server tools and tools without a schema (web_search, code_execution, bash, computer, ...) are left out; a "
    "tool_choice that demands one is refused.",
    "Blocks of server tools in the history are left out.",
    "cache_control, context_management, container, mcp_servers, service_tier, speed, betas and citations are ignored.",
    "thinking.display reaches Messages, Gemini and Responses endpoints only; a thinking budget reaches Chat and "
    "Responses endpoints as an effort.",
    "metadata.user_id longer than 64 characters is sent as its SHA-256.",
    "The billing line of Claude Code's system prompt is left out.",
    "Towards a Messages client: token probabilities (logprobs), and every choice but the first, are left out.",
)


def read_request(body: bytes, context: RequestContext) -> Request:
    """The request of `POST .../messages`. Raises Refused."""
    return run_steps(read_steps(_json.read_object(body), context))


def read_steps(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    """The request of a parsed body, in steps. Raises Refused."""
    limit = _json.required(members, "max_tokens", "an integer")
    if limit < 1:
        raise Refused("max_tokens: must be at least 1.", "max_tokens")
    request = yield from read_members(members, limit)
    if not request.stream:
        return request
    return replace(request, extra={INPUT_TOKENS: (yield from count_steps(request))})


def read_members(members: dict[str, Any], max_tokens: int | None) -> Steps[Request]:
    """Parse the members of a request, in steps; `max_tokens` is None for count_tokens."""
    model = _json.required(members, "model", "a string")
    if not model:
        raise Refused("Missing required parameter: 'model'.", "model")
    tools, omitted = _tools(members)
    choice, parallel = _tool_choice(members, tools, omitted)
    messages = yield from _messages(members)
    return Request(
        model=model,
        messages=messages,
        stream=_json.optional(members, "stream", "a boolean") or False,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        max_tokens=max_tokens,
        temperature=_json.optional(members, "temperature", "a number"),
        top_p=_json.optional(members, "top_p", "a number"),
        top_k=_json.optional(members, "top_k", "an integer"),
        stop=_stop(members),
        format=_format(members),
        thinking=_thinking(members),
        user=_user(members),
    )


def _messages(members: dict[str, Any]) -> Steps[tuple[Message, ...]]:
    found = _json.required(members, "messages", "a list")
    if not found:
        raise Refused("messages: at least one message is required.", "messages")
    if len(found) > MOST_MESSAGES:
        raise Refused(f"messages: there may be {MOST_MESSAGES} of them, not {len(found)}.", "messages")
    messages: list[Message] = []
    if members.get("system") is not None:
        parts = yield from _system(members["system"], "system")
        if parts:
            messages.append(Message("system", parts))
    for number, one in enumerate(found):
        yield
        at = f"messages.{number}"
        message = _json.checked(one, "an object", at)
        role = _json.required(message, "role", "a string", f"{at}.")
        content = message.get("content")
        if content is None:
            raise Refused(f"Missing required parameter: '{at}.content'.", f"{at}.content", "missing_required_parameter")
        if role == "system":
            parts = yield from _system(content, f"{at}.content")
            if parts:
                messages.append(Message("system", parts))
        elif role == "user":
            messages.extend((yield from _user_turn(content, f"{at}.content")))
        elif role == "assistant":
            parts = yield from block_steps(content, f"{at}.content", ASSISTANT)
            if parts:
                messages.append(Message("assistant", parts))
        else:
            raise Refused(f"{at}.role: must be user, assistant or system, not {role!r}.", f"{at}.role")
    return tuple(messages)


def _system(content: Any, at: str) -> Steps[tuple[Part, ...]]:
    parts = yield from block_steps(content, at, SYSTEM)
    return tuple(part for part in parts if not (isinstance(part, Text) and part.text.startswith(_BILLING)))


def _user_turn(content: Any, at: str) -> Steps[list[Message]]:
    parts = yield from block_steps(content, at, USER)
    results = tuple(part for part in parts if isinstance(part, ToolResult))
    if not results:
        return [Message("user", parts)] if parts else []
    others = tuple(part for part in parts if not isinstance(part, ToolResult))
    return [Message("tool", results), *([Message("user", others)] if others else [])]


def _tools(members: dict[str, Any]) -> tuple[tuple[Tool, ...], set[str]]:
    """The tools that can be translated, and the names of the others."""
    found = _json.optional(members, "tools", "a list") or []
    if len(found) > MOST_TOOLS:
        raise Refused(f"tools: there may be {MOST_TOOLS} of them, not {len(found)}.", "tools")
    return memoised(found, "anthropic_messages", _read_tools)


def _read_tools(found: list[Any]) -> tuple[SharedTools, set[str]]:
    tools: list[Tool] = []
    omitted: set[str] = set()
    for number, one in enumerate(found):
        at = f"tools.{number}."
        tool = _json.checked(one, "an object", at[:-1])
        schema = _json.optional(tool, "input_schema", "an object", at)
        if schema is None and tool.get("type") not in (None, "custom"):
            omitted.add(_json.a_text(tool.get("name")))
            continue
        if schema is None:
            raise Refused(f"Missing required parameter: '{at}input_schema'.", f"{at}input_schema")
        name = _json.required(tool, "name", "a string", at)
        if not name:
            raise Refused(f"{at}name: must not be empty.", f"{at}name")
        description = _json.optional(tool, "description", "a string", at)
        strict = _json.optional(tool, "strict", "a boolean", at)
        if strict and not can_be_strict(schema):
            strict = None  # unlike OpenAI's, Anthropic's `strict` accepts optional properties
        tools.append(Tool(name, description, schema, strict))
    return SharedTools(tools), omitted


_MODES = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def _tool_choice(
    members: dict[str, Any], tools: tuple[Tool, ...], omitted: set[str]
) -> tuple[ToolChoice | None, bool | None]:
    choice = _json.optional(members, "tool_choice", "an object")
    if choice is None:
        return None, None
    kind = _json.required(choice, "type", "a string", "tool_choice.")
    mode = _MODES.get(kind)
    if mode is None:
        raise Refused(f"tool_choice.type: must be auto, any, tool or none, not {kind!r}.", "tool_choice.type")
    single = _json.optional(choice, "disable_parallel_tool_use", "a boolean", "tool_choice.")
    name = None
    if mode == "named":
        name = _json.required(choice, "name", "a string", "tool_choice.")
        if name in omitted:
            raise Refused(f"tool_choice.name: the tool {name!r} cannot be offered to this model.", "tool_choice.name")
        if all(tool.name != name for tool in tools):
            raise Refused(f"tool_choice.name: unknown tool {name!r}.", "tool_choice.name")
    elif mode == "required" and not tools:
        raise Refused("tool_choice: no tool can be offered to this model.", "tool_choice")
    return ToolChoice(mode, name), False if single else None


def _stop(members: dict[str, Any]) -> tuple[str, ...] | None:
    found = _json.optional(members, "stop_sequences", "a list")
    if found is None:
        return None
    return tuple(_json.checked(one, "a string", f"stop_sequences.{number}") for number, one in enumerate(found))


def _format(members: dict[str, Any]) -> Format | None:
    """`output_config.format`, or the older `output_format`."""
    config = _json.optional(members, "output_config", "an object") or {}
    at = "output_config.format"
    found = _json.optional(config, "format", "an object", "output_config.")
    if found is None:
        at = "output_format"
        found = _json.optional(members, "output_format", "an object")
    if found is None:
        return None
    kind = _json.required(found, "type", "a string", f"{at}.")
    if kind == "text":
        return None
    if kind != "json_schema":
        raise Refused(f"{at}.type: must be json_schema, not {kind!r}.", f"{at}.type")
    name = _json.optional(found, "name", "a string", f"{at}.")
    schema = _json.required(found, "schema", "an object", f"{at}.")
    return Format("json_schema", name, schema, can_be_strict(schema))


def _thinking(members: dict[str, Any]) -> Thinking | None:
    config = _json.optional(members, "output_config", "an object") or {}
    effort = _json.optional(config, "effort", "a string", "output_config.")
    found = _json.optional(members, "thinking", "an object")
    if found is None:
        return None if effort is None else Thinking(effort=effort)
    kind = _json.required(found, "type", "a string", "thinking.")
    if kind == "disabled":
        return Thinking(effort=effort, enabled=False)
    visible = _json.optional(found, "display", "a string", "thinking.") != "omitted"
    if kind == "adaptive":
        return Thinking(effort=effort, enabled=True, visible=visible)
    if kind != "enabled":
        raise Refused(f"thinking.type: must be enabled, adaptive or disabled, not {kind!r}.", "thinking.type")
    budget = _json.required(found, "budget_tokens", "an integer", "thinking.")
    return Thinking(effort=effort, budget=budget, enabled=True, visible=visible)


def _user(members: dict[str, Any]) -> str | None:
    metadata = _json.optional(members, "metadata", "an object") or {}
    user: str | None = _json.optional(metadata, "user_id", "a string", "metadata.")
    if user is None or len(user) <= MOST_USER_CHARS:
        return user
    # Claude Code sends JSON text here: truncated, several users would share one value; a hash stays unique.
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
