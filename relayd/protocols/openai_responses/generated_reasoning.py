"""Removes reasoning items that relayd wrote for other endpoints from a request that passes to a Responses endpoint.

The endpoint could not decrypt their `encrypted_content`, and does not know their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._generated_parts import Edit, find_part_lists, removal_edits
from relayd.protocols.openai_responses.reasoning_items import PREFIX
from relayd.protocols.openai_responses.state import GENERATED_REASONING_PREFIX
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps

MARKS = (b'"' + PREFIX.encode(), b'"' + GENERATED_REASONING_PREFIX.encode())


def has_generated_parts(members: Mapping[str, Any]) -> bool:
    """True if a parsed body contains such an item."""
    return any(item.__class__ is dict and _is_generated(item) for item in _json.a_list(members.get("input")))


def strip_generated(look: JsonBody) -> Steps[list[Edit]]:
    """Return the edits that remove the items, in steps."""
    span = look.span("input")
    edits: list[Edit] = []
    if span is not None:
        for parts in (yield from find_part_lists(look.body, span, b"[", MARKS)):
            edits += removal_edits(parts, _is_generated, _as_message)
    return edits


def _is_generated(item: dict[str, Any]) -> bool:
    if item.get("type") != "reasoning":
        return False
    encrypted = _json.a_text(item.get("encrypted_content"))
    if encrypted:
        return encrypted.startswith(PREFIX)
    return _json.a_text(item.get("id")).startswith(GENERATED_REASONING_PREFIX)


def _as_message(item: dict[str, Any]) -> bytes:
    """Return the replacement if the input has no other item: none. The endpoint then refuses the empty input."""
    return b""
