"""Usage, finish reason and model in responses of Ollama's own API: the counts are members of the response object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.dialect import ResponseFacts, TapFormat
from relayd.usage import Usage

_COUNTS = ("prompt_eval_count", "eval_count")


def read_usage(value: Mapping[str, Any]) -> Usage:
    """The counts in a response's last object."""
    return Usage(_json.a_count(value.get("prompt_eval_count")), _json.a_count(value.get("eval_count")))


def facts(value: dict[str, Any]) -> ResponseFacts:
    """See dialect.TapFormat."""
    usage = {name: value[name] for name in _COUNTS if name in value}
    return ResponseFacts(_json.a_text(value.get("model")), _json.a_text(value.get("done_reason")), usage or None)


TAP = TapFormat(
    usage_key="eval_count", usage_is_object=False, finish_key="done_reason", is_ndjson=True,
    facts=facts, usage=read_usage,
)
