"""A Chat Completions client's request to the canonical form: types are checked, errors name the path of the field.

Members that the canonical form does not know are in `extra` under their own names. `functions` is in `extra` if the
client used the old form, because the response then has the old form too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relayd.protocols import _json
from relayd.protocols.canon import Format, Request, SharedTools, Thinking, Tool, ToolChoice
from relayd.protocols.dialect import Refused, RequestContext, run_steps
from relayd.protocols.openai_chat.read_messages import message_steps
from relayd.wire.json_steps import Steps
from relayd.wire.tool_list_cache import memoised

MAX_TOOLS = 1024
MAX_STOPS = 64

# Members whose value is copied: their name, also in Request, and their kind.
_PLAIN = (
    ("temperature", "a number"), ("top_p", "a number"), ("top_k", "an integer"), ("n", "an integer"),
    ("seed", "an integer"), ("presence_penalty", "a number"), ("frequency_penalty", "a number"),
    ("logit_bias", "an object"), ("logprobs", "a boolean"), ("top_logprobs", "an integer"),
    ("parallel_tool_calls", "a boolean"), ("verbosity", "a string"), ("user", "a string"), ("metadata", "an object"),
    ("service_tier", "a string"), ("prompt_cache_key", "a string"), ("safety_identifier", "a string"),
)  # fmt: skip
_KNOWN = frozenset(
    [name for name, _ in _PLAIN]
    + ["model", "messages", "stream", "stream_options", "tools", "tool_choice", "function_call", "max_tokens"]
    + ["max_completion_tokens", "stop", "response_format", "reasoning_effort", "reasoning", "thinking"]
)


def read_request(body: bytes, context: RequestContext) -> Request:
    """Parse a request. Raises Refused."""
    return run_steps(read_steps(_json.read_object(body), context))


def read_steps(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    """The request of a parsed body, in steps. Raises Refused."""
    model = _json.required(members, "model", "a string")
    if not model:
        raise Refused("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    messages = yield from message_steps(_json.required(members, "messages", "a list"))
    options = _json.optional(members, "stream_options", "an object") or {}
    tools = _tools(members)
    tools, choice = _choice(members, tools)
    max_tokens = _json.optional(members, "max_completion_tokens", "an integer")
    if max_tokens is None:
        max_tokens = _json.optional(members, "max_tokens", "an integer")
    plain = {name: _json.optional(members, name, kind) for name, kind in _PLAIN}
    if plain["n"] is not None and not 1 <= plain["n"] <= 128:
        raise Refused("'n' must be between 1 and 128.", "n", "invalid_value")
    _refuse_audio_output(members)
    return Request(
        model=model,
        messages=messages,
        stream=_json.optional(members, "stream", "a boolean") or False,
        include_usage=_json.optional(options, "include_usage", "a boolean", "stream_options.") or False,
        tools=tools,
        tool_choice=choice,
        max_tokens=max_tokens,
        stop=_stop(members.get("stop")),
        format=_format(members),
        thinking=_thinking(members),
        extra={name: value for name, value in members.items() if name not in _KNOWN},
        **plain,
    )


def _refuse_audio_output(members: Mapping[str, Any]) -> None:
    """Refuse requests for audio responses, which other dialects do not support."""
    kinds = _json.optional(members, "modalities", "a list") or ()
    if any(kind != "text" for kind in kinds):
        raise Refused("'modalities' must be text only.", "modalities", "unsupported_value")


def _stop(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    entries = _json.checked(value, "a list", "stop")
    if len(entries) > MAX_STOPS:
        raise Refused(f"'stop' has more than {MAX_STOPS} entries.", "stop", "invalid_value")
    return tuple(_json.checked(entry, "a string", f"stop[{index}]") for index, entry in enumerate(entries))


# ---- tools


def _tools(members: Mapping[str, Any]) -> tuple[Tool, ...]:
    tools = _json.optional(members, "tools", "a list")
    functions = _json.optional(members, "functions", "a list")
    if tools and functions:
        raise Refused("Only one of 'tools' and 'functions' can be given.", "functions", "invalid_value")
    field = "functions" if functions else "tools"
    entries = functions or tools or []
    if len(entries) > MAX_TOOLS:
        raise Refused(f"'{field}' has more than {MAX_TOOLS} entries.", field, "invalid_value")
    return memoised(entries, field, lambda values: _read_tools(values, field))


def _read_tools(entries: Sequence[Any], field: str) -> SharedTools:
    read = _function if field == "functions" else _tool
    found: list[Tool] = []
    names: set[str] = set()
    for index, entry in enumerate(entries):
        tool = _read_plain_function(entry)
        if tool is None:
            at = f"{field}[{index}]"
            tool = read(_json.checked(entry, "an object", at), f"{at}.")
        if tool.name in names:
            at = f"{field}[{index}]"
            raise Refused(f"'{at}' has the name of an earlier tool: '{tool.name[:64]}'.", at, "invalid_value")
        names.add(tool.name)
        found.append(tool)
    return SharedTools(found)


def _read_plain_function(entry: Any) -> Tool | None:
    """Fast path for a valid function, as agents send dozens with each request; None if it needs full validation."""
    if entry.__class__ is not dict or entry.get("type") != "function":
        return None
    function = entry.get("function")
    if function.__class__ is not dict:
        return None
    name, description = function.get("name"), function.get("description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if (
        (name.__class__ is str and name)
        and (description is None or description.__class__ is str)
        and (parameters is None or parameters.__class__ is dict)
        and (strict is None or strict.__class__ is bool)
    ):
        return Tool(name, description, parameters, strict)
    return None


def _tool(entry: Mapping[str, Any], at: str) -> Tool:
    kind = _json.required(entry, "type", "a string", at)
    if kind == "function":
        return _function(_json.required(entry, "function", "an object", at), f"{at}function.")
    if kind == "custom":
        custom = _json.required(entry, "custom", "an object", at)
        return Tool(
            _name(custom, f"{at}custom."),
            _json.optional(custom, "description", "a string", f"{at}custom."),
            kind="custom",
            grammar=_grammar(_json.optional(custom, "format", "an object", f"{at}custom.")),
        )
    raise Refused(f"'{at}type' is '{kind[:64]}', which is not supported here.", f"{at}type", "unsupported_value")


def _function(function: Mapping[str, Any], at: str) -> Tool:
    return Tool(
        _name(function, at),
        _json.optional(function, "description", "a string", at),
        _json.optional(function, "parameters", "an object", at),
        _json.optional(function, "strict", "a boolean", at),
    )


def _name(members: Mapping[str, Any], at: str) -> str:
    name: str = _json.required(members, "name", "a string", at)
    if not name:
        raise Refused(f"'{at}name' is empty.", f"{at}name", "invalid_value")
    return name


def _grammar(tool_format: dict[str, Any] | None) -> Mapping[str, Any] | None:
    """The format of a custom tool in the Responses API's flat form: type, syntax, definition. None for free text."""
    if tool_format is None or tool_format.get("type") in (None, "text"):
        return None
    return {"type": tool_format["type"], **_json.an_object(tool_format.get("grammar")), **{
        key: value for key, value in tool_format.items() if key not in ("type", "grammar")
    }}  # fmt: skip


def _choice(members: Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """The offered tools and the choice: with `allowed_tools`, only these tools are offered."""
    field = "tool_choice"
    value = members.get(field)
    if value is None:
        field = "function_call"
        value = members.get(field)
    if value is None:
        return tools, None
    if isinstance(value, str):
        mode = "required" if value == "any" else value
        if mode not in ("auto", "none", "required"):
            raise Refused(f"'{field}' is none of auto, none and required.", field, "invalid_value")
        return tools, ToolChoice(mode)
    entry = _json.checked(value, "an object", field)
    if entry.get("type") == "allowed_tools":
        return _allowed_tools(entry, tools)
    name = _chosen(entry, field)
    if all(tool.name != name for tool in tools):
        raise Refused(f"The tool '{name[:64]}' of '{field}' is not in 'tools'.", field, "invalid_value")
    return tools, ToolChoice("named", name)


def _chosen(entry: Mapping[str, Any], at: str) -> str:
    """The name in {"type": "function", "function": {"name"}}, in the form for `custom`, or in the old {"name"}."""
    kind = entry.get("type")
    if kind is None and "name" in entry:
        return _name(entry, f"{at}.")
    if kind not in ("function", "custom"):
        raise Refused(f"'{at}.type' is none of function, custom and allowed_tools.", f"{at}.type", "invalid_value")
    return _name(_json.required(entry, kind, "an object", f"{at}."), f"{at}.{kind}.")


def _allowed_tools(entry: Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], ToolChoice]:
    at = "tool_choice.allowed_tools"
    allowed = _json.required(entry, "allowed_tools", "an object", "tool_choice.")
    mode = _json.required(allowed, "mode", "a string", f"{at}.")
    if mode not in ("auto", "required"):
        raise Refused(f"'{at}.mode' is neither auto nor required.", f"{at}.mode", "invalid_value")
    entries = _json.required(allowed, "tools", "a list", f"{at}.")
    names = {
        _chosen(_json.checked(one, "an object", f"{at}.tools[{index}]"), f"{at}.tools[{index}]")
        for index, one in enumerate(entries)
    }
    remaining = tuple(tool for tool in tools if tool.name in names)
    if len(remaining) < len(names) or not remaining:
        raise Refused(f"'{at}.tools' names a tool that is not in 'tools'.", f"{at}.tools", "invalid_value")
    return remaining, ToolChoice(mode)


# ---- form of the response


def _format(members: Mapping[str, Any]) -> Format | None:
    entry = _json.optional(members, "response_format", "an object")
    if entry is None:
        return None
    kind = _json.required(entry, "type", "a string", "response_format.")
    if kind in ("text", "json_object"):
        return Format(kind)
    if kind != "json_schema":
        raise Refused(
            "'response_format.type' is none of text, json_object and json_schema.",
            "response_format.type",
            "unsupported_value",
        )
    at = "response_format.json_schema."
    inner = _json.required(entry, "json_schema", "an object", "response_format.")
    return Format(
        kind,
        _name(inner, at),
        _json.optional(inner, "schema", "an object", at),
        _json.optional(inner, "strict", "a boolean", at),
        _json.optional(inner, "description", "a string", at),
    )


def _thinking(members: Mapping[str, Any]) -> Thinking | None:
    """OpenAI's `reasoning_effort`, OpenRouter's `reasoning` and the `thinking` of DeepSeek and GLM."""
    effort = _json.optional(members, "reasoning_effort", "a string")
    budget: int | None = None
    enabled: bool | None = None
    visible: bool | None = None
    reasoning = _json.optional(members, "reasoning", "an object")
    if reasoning is not None:
        effort = effort or _json.optional(reasoning, "effort", "a string", "reasoning.")
        budget = _json.optional(reasoning, "max_tokens", "an integer", "reasoning.")
        enabled = _json.optional(reasoning, "enabled", "a boolean", "reasoning.")
        hidden = _json.optional(reasoning, "exclude", "a boolean", "reasoning.")
        visible = None if hidden is None else not hidden
    thinking = _json.optional(members, "thinking", "an object")
    if thinking is not None:
        kind = _json.optional(thinking, "type", "a string", "thinking.")
        enabled = {"enabled": True, "disabled": False}.get(kind or "", enabled)
        if budget is None:
            budget = _json.optional(thinking, "budget_tokens", "an integer", "thinking.")
    if effort == "none":
        enabled = False
    if effort is None and budget is None and enabled is None and visible is None:
        return None
    return Thinking(effort, budget, enabled, visible)
