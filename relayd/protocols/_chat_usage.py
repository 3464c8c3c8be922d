"""Usage, finish reason and model in Chat Completions responses of OpenAI and compatible APIs.

Endpoints of Ollama and Gemini serve Chat too, on paths of their own, so this module is shared by the dialects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.dialect import ResponseFacts, TapFormat
from relayd.usage import Usage


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Parse a `usage` object."""
    prompt_details = _json.an_object(usage.get("prompt_tokens_details"))
    completion_details = _json.an_object(usage.get("completion_tokens_details"))
    return Usage(
        _count(usage, _INPUT),
        _count(usage, _OUTPUT),
        (_count(prompt_details, _CACHED_DETAILS) if prompt_details else 0) or _count(usage, _CACHED),
        (_count(prompt_details, _CREATION_DETAILS) if prompt_details else 0) or _count(usage, _CREATION),
        (_count(completion_details, _REASONING) if completion_details else 0) or _count(usage, _REASONING),
    )


_INPUT, _OUTPUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_CACHED_DETAILS = ("cached_tokens",)
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
_CREATION_DETAILS, _CREATION = ("cache_write_tokens", "cache_creation_tokens"), ("cache_creation_input_tokens",)
_REASONING = ("reasoning_tokens",)


def _count(usage: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first count other than 0 under one of these names; 0 without one."""
    for name in names:
        if name in usage and (count := _json.a_count(usage[name])):
            return count
    return 0


def usage_of(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The `usage` object of a chunk or a plain response, at any of its known locations; empty if it is missing."""
    usage = chunk.get("usage")
    if usage.__class__ is dict and usage:
        return dict(usage)
    for container in (chunk.get("x_groq"), *_json.a_list(chunk.get("choices"))):
        if container.__class__ is dict and container.get("usage").__class__ is dict and container["usage"]:
            return dict(container["usage"])
    return {}


def facts(value: dict[str, Any]) -> ResponseFacts:
    """See dialect.TapFormat."""
    finish = ""
    for choice in _json.a_list(value.get("choices")):
        finish = finish or _json.a_text(_json.an_object(choice).get("finish_reason"))
    return ResponseFacts(_json.a_text(value.get("model")), finish, usage_of(value) or None)


TAP = TapFormat(usage_key="usage", finish_key="finish_reason", facts=facts, usage=read_usage)
