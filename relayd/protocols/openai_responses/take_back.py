"""Reasoning items that relayd has written for thoughts of other endpoints, taken out of a request that passes to a
Responses endpoint: it cannot open their proofs, and knows no item of their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._generated_parts import Edit, find_part_lists, removal_edits
from relayd.protocols.openai_responses.reasoning_items import MARK
from relayd.protocols.openai_responses.state import OWN_REASONING
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps

MARKS = (b'"' + MARK.encode(), b'"' + OWN_REASONING.encode())


def has_generated_parts(members: Mapping[str, Any]) -> bool:
    """Whether a parsed body has something to take back."""
    return any(item.__class__ is dict and _is_own(item) for item in _json.a_list(members.get("input")))


def take_back(look: JsonBody) -> Steps[list[Edit]]:
    """The edits, in steps."""
    span = look.span("input")
    edits: list[Edit] = []
    if span is not None:
        for parts in (yield from find_part_lists(look.body, span, b"[", MARKS)):
            edits += removal_edits(parts, _is_own, _as_message)
    return edits


def _is_own(item: dict[str, Any]) -> bool:
    if item.get("type") != "reasoning":
        return False
    proof = _json.a_text(item.get("encrypted_content"))
    return proof.startswith(MARK) or (not proof and _json.a_text(item.get("id")).startswith(OWN_REASONING))


def _as_message(item: dict[str, Any]) -> bytes:
    """An input of nothing but thoughts asks for nothing: the endpoint says so."""
    return b""
