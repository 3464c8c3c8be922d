"""Usage, finish reason and model in answers of Ollama's own API: the counts stand beside the message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.dialect import ResponseFacts, TapFormat
from relayd.usage import Usage

_COUNTS = ("prompt_eval_count", "eval_count")


def read_usage(value: Mapping[str, Any]) -> Usage:
    """The counts of an answer's last object as Usage."""
    return Usage(_json.a_count(value.get("prompt_eval_count")), _json.a_count(value.get("eval_count")))


def facts(value: dict[str, Any]) -> ResponseFacts:
    """See dialect.TapFormat."""
    usage = {name: value[name] for name in _COUNTS if name in value}
    return ResponseFacts(_json.a_text(value.get("model")), _json.a_text(value.get("done_reason")), usage or None)


TAP = TapFormat(
    usage_key="eval_count", usage_is_object=False, finish_key="done_reason", is_ndjson=True,
    facts=facts, usage=read_usage,
)
