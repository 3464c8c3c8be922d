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
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = creation = reasoning = 0
    if prompt.__class__ is dict:
        cached, creation = _count(prompt, _CACHED_DETAILS), _count(prompt, _CREATION_DETAILS)
    if completion.__class__ is dict:
        reasoning = _count(completion, _REASONING)
    if not _BESIDE_TOTALS.isdisjoint(usage):
        cached, creation = cached or _count(usage, _CACHED), creation or _count(usage, _CREATION)
        reasoning = reasoning or _count(usage, _REASONING)
    return Usage(_count(usage, _INPUT), _count(usage, _OUTPUT), cached, creation, reasoning)


_INPUT, _OUTPUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_CACHED_DETAILS = ("cached_tokens",)
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
_CREATION_DETAILS, _CREATION = ("cache_write_tokens", "cache_creation_tokens"), ("cache_creation_input_tokens",)
_REASONING = ("reasoning_tokens",)
_BESIDE_TOTALS = frozenset((*_CACHED, *_CREATION, *_REASONING))  # some endpoints report these without details


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
    model, finish, choices = value.get("model"), "", value.get("choices")
    for choice in choices if choices.__class__ is list else ():
        if choice.__class__ is dict and (reason := choice.get("finish_reason")).__class__ is str and reason:
            finish = reason
            break
    return ResponseFacts(model if model.__class__ is str else "", finish, usage_of(value) or None)


TAP = TapFormat(usage_key="usage", finish_key="finish_reason", facts=facts, usage=read_usage)
