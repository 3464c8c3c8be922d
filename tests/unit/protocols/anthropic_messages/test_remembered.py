"""Thoughts that are kept with the call they came before."""

from __future__ import annotations

from relayd.protocols.anthropic_messages import remembered
from relayd.protocols.canon import Reasoning
from tests.unit.protocols.anthropic_messages.grammar import Remembering


def test_signed_and_redacted_thoughts_come_back_as_they_were() -> None:
    memory = Remembering()
    thoughts = [Reasoning("Hm", signature="s"), Reasoning("", redacted="x")]
    remembered.keep(memory, "call", thoughts)
    assert remembered.recall(memory, "call") == thoughts
    assert remembered.recall(memory, "other") == []


def test_what_nobody_signed_is_not_kept() -> None:
    memory = Remembering()
    remembered.keep(memory, "call", [Reasoning("Hm")])
    assert memory.kept == {}


def test_a_damaged_memory_is_an_empty_one() -> None:
    memory = Remembering()
    memory.kept["anthropic_messages/thoughts/call"] = "broken"
    assert remembered.recall(memory, "call") == []
