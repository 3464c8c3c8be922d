"""The canonical form to generateContent: the model and settings; contents.py writes the conversation.

Fields that Gemini does not have are dropped according to the manual's list (`DIALECT.drops`); the request is Refused if
that would change the response.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._capabilities import GEMINI, ModelFamily
from relayd.protocols._stop_strings import require_stop_limits
from relayd.protocols._thinking import recalled_keys as thinking_keys
from relayd.protocols._thinking import requested_thinking
from relayd.protocols._tools import body_steps, tool_steps
from relayd.protocols._turns import call_ids
from relayd.protocols.canon import Request, Thinking, Tool, ToolChoice
from relayd.protocols.dialect import EncodedRequest, Memory, Options, Refused, run_steps
from relayd.protocols.gemini.contents import content_steps
from relayd.protocols.gemini.schema import to_openapi_subset
from relayd.protocols.openai_chat.tool_call_assembler import signature_key
from relayd.wire.json_steps import Steps

_COLLECTION = lazy_regex(r"(models|tunedModels)/(.+)", re.DOTALL)
_SETTINGS = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("max_tokens", "maxOutputTokens"),
    ("n", "candidateCount"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)
_TIERS = ("flex", "priority")
_SEEDS = 1 << 31


def write_request(request: Request, options: Options, memory: Memory) -> EncodedRequest:
    """The request for a Gemini endpoint. Raises Refused."""
    return run_steps(write_steps(request, options, memory))


def recalled_keys(request: Request) -> list[str]:
    """The keys of the memory that `write_request` looks at."""
    return [*thinking_keys(request), *(signature_key(one) for one in call_ids(request.messages))]


def write_steps(request: Request, options: Options, memory: Memory) -> Steps[EncodedRequest]:
    """The same in steps."""
    family = GEMINI.of(request.model)
    body = yield from content_steps(request, family, options, memory)
    settings = _settings(request, family, requested_thinking(request, options, memory))
    if settings:
        body["generationConfig"] = settings
    tools = None
    if request.tools:
        declared = yield from tool_steps(request.tools, "gemini", _declaration, request.large)
        tools = b'[{"functionDeclarations":%b}]' % declared
        if request.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice, request.tools)}
    if request.service_tier in _TIERS:
        body["serviceTier"] = request.service_tier
    verb = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
    written = yield from body_steps(body, tools, request.large)
    return EncodedRequest(f"/{model_path(request.model)}:{verb}", written)


def model_path(model: str) -> str:
    """The path of a model: `models/NAME`, or the name itself if it begins with a collection. Raises Refused."""
    named = _COLLECTION.fullmatch(model)
    collection, name = (named[1], named[2]) if named is not None else ("models", model)
    if not name or len(name) > 256:
        raise Refused("The model's name is empty or too long.", "model", "model_not_found", 404)
    try:
        return f"{collection}/{quote(name, safe='')}"
    except UnicodeEncodeError:
        raise Refused("The model's name is not valid Unicode.", "model", "model_not_found", 404) from None


def _settings(request: Request, family: ModelFamily, requested: Thinking | None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for ours, theirs in _SETTINGS:
        value = getattr(request, ours)
        if value is not None:
            settings[theirs] = value
    stops, others = GEMINI.split_stops(request)
    require_stop_limits(others)
    if stops:
        settings["stopSequences"] = stops
    if request.seed is not None:
        # Gemini's seeds have 32 bits; the reduction is deterministic.
        fits = -_SEEDS <= request.seed < _SEEDS
        settings["seed"] = request.seed if fits else request.seed % _SEEDS
    if request.logprobs:
        settings["responseLogprobs"] = True
        if request.top_logprobs:
            settings["logprobs"] = request.top_logprobs
    if request.format is not None and request.format.kind != "text":
        settings["responseMimeType"] = "application/json"
        if request.format.kind == "json_schema" and request.format.schema is not None:
            if family.json_schema:
                settings["responseJsonSchema"] = request.format.schema
            else:
                settings["responseSchema"] = to_openapi_subset(request.format.schema)
    if requested is not None:
        thinking = _thinking(requested, family)
        if thinking:
            settings["thinkingConfig"] = thinking
    return settings


def _thinking(thinking: Thinking, family: ModelFamily) -> dict[str, Any]:
    """thinkingConfig. A level and a budget are mutually exclusive; the more precise budget has priority."""
    if family.thinking == "no":
        return {}
    effort = "none" if thinking.enabled is False else thinking.effort
    config: dict[str, Any] = {}
    if thinking.budget is not None and effort != "none":
        config["thinkingBudget"] = family.clamp_budget(thinking.budget)
    elif effort is not None and family.thinking == "effort":
        config["thinkingLevel"] = family.effort(effort).upper()
    elif effort is not None:
        config["thinkingBudget"] = family.budget(effort)
    visible = thinking.visible
    if visible is None:
        visible = effort != "none" and (bool(config) or thinking.enabled is True)
    if visible:
        config["includeThoughts"] = True
    return config


def _declaration(tool: Tool) -> dict[str, Any]:
    declaration: dict[str, Any] = {"name": GEMINI.tool_name(tool.name)}
    if tool.description:
        declaration["description"] = tool.description
    if tool.kind == "custom":
        declaration["parametersJsonSchema"] = {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
        }
        if tool.grammar is not None:
            text = f"The input obeys this grammar: {_json.write_text(tool.grammar)}"
            declaration["description"] = f"{tool.description}\n\n{text}" if tool.description else text
    elif tool.parameters is not None:
        declaration["parametersJsonSchema"] = tool.parameters
    return declaration


_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}


def _choice(choice: ToolChoice, tools: tuple[Tool, ...]) -> dict[str, Any]:
    if choice.mode != "named":
        return {"mode": _MODES.get(choice.mode, "AUTO")}
    if all(tool.name != choice.name for tool in tools):
        raise Refused("tool_choice names a function that is not in tools.", "tool_choice", "invalid_value")
    return {"mode": "ANY", "allowedFunctionNames": [GEMINI.tool_name(choice.name or "")]}
