"""The signed thoughts before tool calls, kept between exchanges: the API wants them back, Chat has no place for them.

Kept by the id of the call that they came before. Whoever reads an answer puts them, whoever writes the next request
takes them; one who never comes back costs a bounded place in the memory until its time is over.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols.canon import Reasoning
from relayd.protocols.dialect import Memory

_KEY = "anthropic_messages/thoughts/"
LARGEST_CHARS = 256 * 1024


def keep(memory: Memory, call_id: str, thoughts: list[Reasoning]) -> None:
    """Remember what was thought before a call; the reader holds to LARGEST_CHARS.

    Thoughts that nobody signed are of no use to the API.
    """
    value = [
        {"text": one.text, "signature": one.signature, "redacted": one.redacted}
        for one in thoughts
        if one.signature or one.redacted
    ]
    if value:
        memory.put(_KEY + call_id, value)


def recall(memory: Memory, call_id: str) -> list[Reasoning]:
    """The thoughts before this call; none if they are unknown."""
    found: list[Reasoning] = []
    for one in _json.a_list(memory.get(_KEY + call_id)):
        members: dict[str, Any] = _json.an_object(one)
        found.append(
            Reasoning(
                _json.a_text(members.get("text")),
                _json.a_text(members.get("signature")) or None,
                _json.a_text(members.get("redacted")) or None,
            )
        )
    return found
