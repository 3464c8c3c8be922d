"""Usage, finish reason and model in responses of the Messages API.

Usage is cumulative and comes in several events: a member of a later event replaces the one before it. A 0 does not,
because some gateways write 0 for an unknown count. Anthropic's `input_tokens` excludes cached tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.dialect import ResponseFacts, TapFormat
from relayd.usage import Usage

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_DETAILS = "output_tokens_details"


def merge_usage(known: dict[str, Any], usage: Any) -> None:
    """Merge the counts of an event's `usage` into the known ones."""
    found = _json.an_object(usage)
    for name in _COUNTS:
        if count := _json.a_count(found.get(name)):
            known[name] = count
        elif found.get(name) is not None:
            known.setdefault(name, 0)
    if _DETAILS in found:
        known[_DETAILS] = {"thinking_tokens": _json.a_count(_json.an_object(found[_DETAILS]).get("thinking_tokens"))}


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Parse the merged members of `usage`."""
    count = _json.a_count
    read, creation = count(usage.get("cache_read_input_tokens")), count(usage.get("cache_creation_input_tokens"))
    return Usage(
        input=count(usage.get("input_tokens")) + read + creation,
        output=count(usage.get("output_tokens")),
        cached_read=read,
        cache_creation=creation,
        reasoning=count(_json.an_object(usage.get(_DETAILS)).get("thinking_tokens")),
    )


def facts(value: dict[str, Any]) -> ResponseFacts:
    """See dialect.TapFormat; `value` is a message, or an event that holds one or changes one."""
    message = value.get("message")
    if message.__class__ is not dict:
        message = value
    stop = _json.an_object(value.get("delta")).get("stop_reason") or message.get("stop_reason")
    usage = _json.an_object(message.get("usage"))
    return ResponseFacts(_json.a_text(message.get("model")), _json.a_text(stop), usage or None)


TAP = TapFormat(usage_key="usage", finish_key="stop_reason", facts=facts, usage=read_usage)
