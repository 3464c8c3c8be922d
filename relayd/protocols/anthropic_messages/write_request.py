"""The canonical form to a request for a Messages endpoint.

Laws:
1. Content that the API would reject, although the client's dialect allows it, is corrected, or dropped according to
   the manual's list (DROPS); the request is Refused if that would change its meaning.
2. Thinking is requested only if the rest of the request permits it: no forced tool, no prefilled response, room in
   max_tokens, and, for a budget, signed thinking before the calls of the current tool loop.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _thinking
from relayd.protocols._capabilities import MESSAGES, ModelFamily
from relayd.protocols._schema_keywords import fit_schema
from relayd.protocols._stop_strings import require_stop_limits
from relayd.protocols._thinking import requested_thinking
from relayd.protocols._tool_arguments import require_few_values
from relayd.protocols._tools import body_steps, tool_steps
from relayd.protocols._turns import call_ids, last_calls, merge_turns
from relayd.protocols.anthropic_messages.history import History
from relayd.protocols.anthropic_messages.thinking_memory import thoughts_key
from relayd.protocols.canon import Request, Thinking, Tool
from relayd.protocols.dialect import EncodedRequest, Memory, Options, Refused, run_steps
from relayd.wire.json_steps import Steps

VERSION = "2023-06-01"

DROPS = (
    "seed, penalties, logit_bias, logprobs, verbosity, service_tier, metadata, prompt_cache_key and a tool's `strict` "
    "are left out; n above 1 is refused.",
    "The name of a message's author, the name of a schema and the detail of an image are left out.",
    "Thinking is requested as the model's family supports it: not at all, by a budget, or adaptively by an effort; for "
    "an unknown model, as the upstream's options say. An effort that the model does not support becomes the nearest.",
    "temperature above 1 becomes 1, and top_p is left out if both are given.",
    "Objects of a response_format's schema are closed, bounds of values and unsupported formats move to its "
    "descriptions, and oneOf becomes anyOf.",
    "response_format json_object is left out, because the API supports schemas only.",
    "Audio, files in another provider's storage and files that are neither PDF, text nor image are refused.",
    "Reasoning without a signature is left out of the history.",
    "A forced tool_choice, and a last message of the assistant, disable thinking: the API does not accept both.",
)


def write_request(request: Request, options: Options, memory: Memory) -> EncodedRequest:
    """The request for the endpoint. Raises Refused."""
    return run_steps(write_steps(request, options, memory))


def recalled_keys(request: Request) -> list[str]:
    """The keys of the memory that `write_request` looks at."""
    return [*_thinking.recalled_keys(request), *(thoughts_key(one) for one in call_ids(request.messages))]


def write_steps(request: Request, options: Options, memory: Memory) -> Steps[EncodedRequest]:
    """The same in steps."""
    if request.n is not None and request.n != 1:
        raise Refused("Messages endpoints return one choice: n must be 1.", "n")
    yield from require_few_values(request.messages)
    history = History(memory, options.unanswered_calls, last_calls(request.messages))
    for number, message in enumerate((yield from merge_turns(request.messages))):
        yield from history.add_steps(message, f"messages[{number}]")
        yield
    history.end()
    body: dict[str, Any] = {"model": request.model, "max_tokens": request.max_tokens or options.default_max_tokens}
    if history.system:
        body["system"] = "\n\n".join(history.system)
    body["messages"] = history.turns
    tools = yield from _write_tools(body, request, history)
    _write_thinking(body, request, requested_thinking(request, options, memory), options.thinking, history)
    _write_sampling(body, request)
    sent_stops, local_stops = MESSAGES.split_stops(request)
    require_stop_limits(local_stops)
    if sent_stops:
        body["stop_sequences"] = sent_stops
    if request.format is not None and request.format.kind == "json_schema":
        schema = fit_schema(request.format.schema or {}, MESSAGES.schemas)
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
    user = request.user if request.user is not None else request.safety_identifier
    if user:
        body["metadata"] = {"user_id": user}
    if request.stream:
        body["stream"] = True
    encoded = yield from body_steps(body, tools, request.large)
    return EncodedRequest("/messages", encoded, (("anthropic-version", VERSION),))


def _write_tools(body: dict[str, Any], request: Request, history: History) -> Steps[bytes | None]:
    """The tools' JSON; writes tool_choice to the body."""
    if not request.tools:
        if history.call_names:
            # The tools of calls in the history must be declared; the model must not call them again.
            body["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in history.call_names]
            body["tool_choice"] = {"type": "none"}
        return None
    choice = request.tool_choice
    choice_json: dict[str, Any] = {}
    if choice is not None and choice.mode == "named":
        if all(tool.name != choice.name for tool in request.tools):
            raise Refused(f"Unknown tool {choice.name!r}.", "tool_choice")
        choice_json = {"type": "tool", "name": MESSAGES.tool_name(choice.name or "")}
    elif choice is not None:
        choice_json = {"type": {"required": "any", "none": "none"}.get(choice.mode, "auto")}
    if request.parallel_tool_calls is False and choice_json.get("type") != "none":
        choice_json = {"type": "auto"} | choice_json | {"disable_parallel_tool_use": True}
    if choice_json:
        body["tool_choice"] = choice_json
    return (yield from tool_steps(request.tools, "anthropic_messages", _tool, request.large))


def _tool(tool: Tool) -> dict[str, Any]:
    tool_json: dict[str, Any] = {"name": MESSAGES.tool_name(tool.name)}
    description = tool.description or ""
    if tool.kind == "custom":
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        }
        if tool.grammar is not None and tool.grammar.get("definition"):
            description = f"{description}\n\nThe input follows this grammar:\n{tool.grammar['definition']}".strip()
    else:
        schema = {"type": "object"} | dict(tool.parameters or {})
    if description:
        tool_json["description"] = description
    tool_json["input_schema"] = schema
    return tool_json


def _write_thinking(
    body: dict[str, Any], request: Request, requested: Thinking | None, option: str, history: History
) -> None:
    family = MESSAGES.of(request.model)
    if requested is None or family.thinking == "no":
        return
    if requested.enabled is False or requested.effort == "none" or requested.budget == 0:
        body["thinking"] = {"type": "disabled"}
        return
    by_budget = (family.thinking or option) == "budget"
    if not by_budget and requested.effort is not None:
        body["output_config"] = {"effort": family.effort(requested.effort)}
    if body.get("tool_choice", {}).get("type") in ("any", "tool") or history.turns[-1]["role"] == "assistant":
        return
    if by_budget:
        budget = _budget(requested, request.max_tokens, family)
        if budget and history.loop_has_thoughts():
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
            if request.max_tokens is None:
                body["max_tokens"] += budget
        return
    thinking = {"type": "adaptive"}
    if requested.visible is not None:
        thinking["display"] = "summarized" if requested.visible else "omitted"
    body["thinking"] = thinking


def _budget(requested: Thinking, limit: int | None, family: ModelFamily) -> int:
    """The thinking budget, below the client's limit; 0 if the limit leaves no room for the smallest budget."""
    budget = requested.budget if requested.budget is not None else family.budget(requested.effort or "medium")
    budget = max(budget, family.min_budget)
    if limit is None:
        return budget
    return min(budget, limit - 1) if limit > family.min_budget else 0


def _write_sampling(body: dict[str, Any], request: Request) -> None:
    if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        return  # the API accepts no sampling settings with thinking
    if request.temperature is not None:
        body["temperature"] = min(max(request.temperature, 0), 1)
    elif request.top_p is not None:
        body["top_p"] = request.top_p
    if request.top_k is not None:
        body["top_k"] = request.top_k
