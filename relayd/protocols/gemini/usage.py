"""Usage, finish reason and model in responses of generateContent. Gemini counts thoughts apart from candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.dialect import ResponseFacts, TapFormat
from relayd.usage import Usage


def read_usage(counts: Mapping[str, Any]) -> Usage:
    """Parse a `usageMetadata` object."""
    thoughts = _json.a_count(counts.get("thoughtsTokenCount"))
    return Usage(
        input=_json.a_count(counts.get("promptTokenCount")),
        output=_json.a_count(counts.get("candidatesTokenCount")) + thoughts,
        cached_read=_json.a_count(counts.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )


def facts(value: dict[str, Any]) -> ResponseFacts:
    """See dialect.TapFormat."""
    finish = ""
    for candidate in _json.a_list(value.get("candidates")):
        finish = finish or _json.a_text(_json.an_object(candidate).get("finishReason"))
    usage = _json.an_object(value.get("usageMetadata"))
    return ResponseFacts(_json.a_text(value.get("modelVersion")), finish, usage or None)


TAP = TapFormat(
    usage_key="usageMetadata", finish_key="finishReason", model_key="modelVersion", facts=facts, usage=read_usage
)
