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
    count = _json.a_count
    prompt_details = _json.an_object(usage.get("prompt_tokens_details"))
    completion_details = _json.an_object(usage.get("completion_tokens_details"))
    return Usage(
        input=count(usage.get("prompt_tokens")) or count(usage.get("input_tokens")),
        output=count(usage.get("completion_tokens")) or count(usage.get("output_tokens")),
        cached_read=count(prompt_details.get("cached_tokens"))
        or count(usage.get("prompt_cache_hit_tokens"))
        or count(usage.get("cached_tokens"))
        or count(usage.get("cache_read_input_tokens")),
        cache_creation=count(prompt_details.get("cache_write_tokens"))
        or count(prompt_details.get("cache_creation_tokens"))
        or count(usage.get("cache_creation_input_tokens")),
        reasoning=count(completion_details.get("reasoning_tokens")) or count(usage.get("reasoning_tokens")),
    )


def usage_of(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The `usage` object of a chunk or a plain response, at any of its known locations; empty if it is missing."""
    for container in (chunk, chunk.get("x_groq"), *_json.a_list(chunk.get("choices"))):
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
