"""Reasoning items that relayd has written for thoughts of other endpoints, taken out of a request that passes to a
Responses endpoint: it cannot open their proofs, and knows no item of their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._own_parts import Edit, lists_of_parts, without
from relayd.protocols.openai_responses.reasoning_items import PREFIX
from relayd.protocols.openai_responses.state import OWN_REASONING_PREFIX
from relayd.wire.body import Look
from relayd.wire.json_steps import Steps

MARKS = (b'"' + PREFIX.encode(), b'"' + OWN_REASONING_PREFIX.encode())


def brings_own_parts(members: Mapping[str, Any]) -> bool:
    """Whether a parsed body has something to take back."""
    return any(item.__class__ is dict and _is_own(item) for item in _json.a_list(members.get("input")))


def take_back(look: Look) -> Steps[list[Edit]]:
    """The edits, in steps."""
    span = look.span("input")
    edits: list[Edit] = []
    if span is not None:
        for parts in (yield from lists_of_parts(look.body, span, b"[", MARKS)):
            edits += without(parts, _is_own, _as_message)
    return edits


def _is_own(item: dict[str, Any]) -> bool:
    if item.get("type") != "reasoning":
        return False
    encrypted = _json.a_text(item.get("encrypted_content"))
    if encrypted:
        return encrypted.startswith(PREFIX)
    return _json.a_text(item.get("id")).startswith(OWN_REASONING_PREFIX)


def _as_message(item: dict[str, Any]) -> bytes:
    """An input of nothing but thoughts asks for nothing: the endpoint says so."""
    return b""
