"""Thought signatures: Gemini's proofs of who made a call, which clients of other dialects lose, kept by the call's id.

Gemini 3 answers 400 to a call of the current turn that comes back without the signature it was given. On parallel calls
only the first carries one, and one that was never given is refused as well. Google's Chat surface is read by the Chat
dialect, which keeps signatures under the same key, so that a history may wander between the two.

Laws:
1. A signature that the client brings back counts before the one that was kept.
2. Nothing is invented for a call that Gemini made. Where no call of a message is known to be Gemini's, its first call
   gets the placeholder that Google documents for histories of other models; no other part ever gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols.canon import ToolCall
from relayd.protocols.dialect import Memory
from relayd.protocols.openai_chat.tool_call_assembler import signature_key

PLACEHOLDER = "skip_thought_signature_validator"


def store(memory: Memory, call_id: str, signature: str | None) -> None:
    """Remember a call that Gemini made, with or without a signature."""
    memory.put(signature_key(call_id), signature or "")


def made_without_signature(call: ToolCall, memory: Memory) -> bool:
    """Whether Gemini made this call without a signature: behind another one of the same batch."""
    return not call.signature and memory.get(signature_key(call.id)) == ""


def signatures_of(
    calls: list[ToolCall], memory: Memory, required: bool, last: Mapping[str, ToolCall]
) -> list[str | None]:
    """The signature of each call of one message, None for none. `demanded`: the model refuses what lacks its own.
    `last` are the last calls with their ids, see _turns.last_calls."""
    signatures: list[str | None] = []
    known = False
    for call in calls:
        signature: Any = call.signature
        if not signature and last.get(call.id) is call:
            signature = memory.get(signature_key(call.id))
        known = known or isinstance(signature, str)
        signatures.append(signature if isinstance(signature, str) and signature else None)
    if calls and required and not known:
        signatures[0] = PLACEHOLDER
    return signatures
