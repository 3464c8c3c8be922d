"""Thought signatures: Gemini's proofs of a call's origin, stored under its id as clients of other dialects lose them.

Gemini 3 answers 400 to a call of the current turn that comes back without its signature. Of parallel calls only the
first has one, and an invented signature is rejected as well. The Chat dialect, which reads Google's Chat API, stores
signatures under the same key, so that a history may change between the two.

Laws:
1. A signature from the client has priority over the stored one.
2. No signature is invented for a call that Gemini made. If no call of a message is known to be Gemini's, its first call
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
    """Store a call that Gemini made, with or without a signature."""
    memory.put(signature_key(call_id), signature or "")


def made_without_signature(call: ToolCall, memory: Memory) -> bool:
    """Whether Gemini made this call without a signature, after another call of the same batch."""
    return not call.signature and memory.get(signature_key(call.id)) == ""


def signatures_of(
    calls: list[ToolCall], memory: Memory, required: bool, last: Mapping[str, ToolCall]
) -> list[str | None]:
    """The signature of each call of one message, or None. `required`: the model rejects calls without a signature.
    `last` is the last call with each id, see _turns.last_calls."""
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
