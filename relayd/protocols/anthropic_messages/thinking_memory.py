"""Signed thinking blocks before tool calls, stored between exchanges: the API requires them back, Chat has no field for
them.

They are stored under the id of the call that follows them. The reader of a response stores them and the writer of the
next request recalls them; entries that are never recalled are bounded and expire.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols.canon import Reasoning
from relayd.protocols.dialect import Memory

_KEY = "anthropic_messages/thoughts/"
LARGEST_CHARS = 256 * 1024


def store(memory: Memory, call_id: str, thoughts: list[Reasoning]) -> None:
    """Store the thinking before a call; the reader enforces LARGEST_CHARS. The API has no use for unsigned thinking."""
    value = [
        {"text": one.text, "signature": one.signature, "redacted": one.redacted}
        for one in thoughts
        if one.signature or one.redacted
    ]
    if value:
        memory.put(thoughts_key(call_id), value)


def thoughts_key(call_id: str) -> str:
    """The key under which the thinking before this call is stored."""
    return _KEY + call_id


def recall(memory: Memory, call_id: str) -> list[Reasoning]:
    """The thinking before this call; empty if it is unknown."""
    found: list[Reasoning] = []
    for one in _json.a_list(memory.get(thoughts_key(call_id))):
        members: dict[str, Any] = _json.an_object(one)
        found.append(
            Reasoning(
                _json.a_text(members.get("text")),
                _json.a_text(members.get("signature")) or None,
                _json.a_text(members.get("redacted")) or None,
            )
        )
    return found
