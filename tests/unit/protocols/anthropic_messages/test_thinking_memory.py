"""Thoughts that are kept with the call they came before."""

from __future__ import annotations

from relayd.protocols.anthropic_messages import thinking_memory
from relayd.protocols.canon import Reasoning
from tests.aids.memories import Kept


def test_signed_and_redacted_thoughts_come_back_as_they_were() -> None:
    memory = Kept()
    thoughts = [Reasoning("Hm", signature="s"), Reasoning("", redacted="x")]
    thinking_memory.store(memory, "call", thoughts)
    assert thinking_memory.recall(memory, "call") == thoughts
    assert thinking_memory.recall(memory, "other") == []


def test_unsigned_thinking_is_not_stored() -> None:
    memory = Kept()
    thinking_memory.store(memory, "call", [Reasoning("Hm")])
    assert memory.values == {}


def test_a_damaged_memory_is_an_empty_one() -> None:
    memory = Kept()
    memory.values["anthropic_messages/thoughts/call"] = "broken"
    assert thinking_memory.recall(memory, "call") == []
