"""Reads usage, finish reason and model from answers of the Responses API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.dialect import ResponseFacts, TapFormat
from relayd.usage import Usage

TERMINAL = ("completed", "incomplete", "failed", "cancelled")


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Convert a `usage` object to Usage."""
    input_details = _json.an_object(usage.get("input_tokens_details"))
    output_details = _json.an_object(usage.get("output_tokens_details"))
    count = _json.a_count
    return Usage(
        input=count(usage.get("input_tokens")),
        output=count(usage.get("output_tokens")),
        cached_read=count(input_details.get("cached_tokens")),
        cache_creation=count(input_details.get("cache_write_tokens")),
        reasoning=count(output_details.get("reasoning_tokens")),
    )


def facts(value: dict[str, Any]) -> ResponseFacts:
    """See dialect.TapFormat; `value` is a Response or an event that contains one."""
    response = value.get("response")
    if response.__class__ is not dict:
        response = value
    finish, status = "", _json.a_text(response.get("status"))
    if status in TERMINAL and response.get("object") == "response":
        finish = _json.a_text(_json.an_object(response.get("incomplete_details")).get("reason")) or status
    usage = _json.an_object(response.get("usage"))
    return ResponseFacts(_json.a_text(response.get("model")), finish, usage or None)


TAP = TapFormat(usage_key="usage", finish_key="status", finish_values=TERMINAL, facts=facts, usage=read_usage)
