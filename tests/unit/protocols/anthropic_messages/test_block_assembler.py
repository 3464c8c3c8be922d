"""The fold: one block open at a time, in order, and nothing held longer than it must be."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.protocols.anthropic_messages import block_assembler
from relayd.protocols.canon import Event, Finish, ReasoningDelta, TextDelta, ToolDelta, ToolStart


class Written:
    """A sink that writes down what it is told, and holds it to the order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._open = -1
        self._count = 0

    def open(self, index: int, block: dict[str, Any]) -> None:
        assert self._open < 0 and index == self._count
        self._open = index
        self._count += 1
        self.log.append(f"open {block.get('name', block['type'])}")

    def delta(self, index: int, kind: str, member: str, text: str) -> None:
        assert index == self._open
        self.log.append(text)

    def close(self, index: int) -> None:
        assert index == self._open
        self._open = -1
        self.log.append("close")


def received(*events: Event, ends: bool = True) -> list[str]:
    sink = Written()
    one = block_assembler.BlockAssembler(sink)
    for event in events:
        one.add(event)
    if ends:
        one.end()
    return sink.log


def test_text_is_closed_before_a_call_opens() -> None:
    assert received(TextDelta("a"), ToolStart(0, "1", "f"), ToolDelta(0, "{}")) == [
        "open text", "a", "close", "open f", "{}", "close"]  # fmt: skip


def test_a_call_whose_arguments_are_open_holds_everything_else_back() -> None:
    begun = (ToolStart(0, "1", "f"), ToolDelta(0, "{"), ToolStart(1, "2", "g"), ToolDelta(1, "{}"), TextDelta("t"))
    assert received(*begun, ends=False) == ["open f", "{"]
    assert received(*begun, ToolDelta(0, "}"), ends=False) == [
        "open f", "{", "}", "close", "open g", "{}", "close", "open text", "t"]  # fmt: skip


def test_what_comes_behind_a_whole_object_is_left_out() -> None:
    log = received(ToolStart(0, "1", "f"), ToolDelta(0, "{}"), TextDelta("t"), ToolDelta(0, "\n"), ToolDelta(0, "x"))
    assert log == ["open f", "{}", "close", "open text", "t", "close"]


def test_a_signature_ends_its_thought() -> None:
    log = received(ReasoningDelta("a", signature="s"), ReasoningDelta("b"))
    assert log == ["open thinking", "a", "s", "close", "open thinking", "b", "", "close"]


def test_the_reason_to_stop_is_that_of_the_calls() -> None:
    one = block_assembler.BlockAssembler(Written())
    for event in (ToolStart(0, "1", "f"), ToolDelta(0, "{"), Finish("length")):
        one.add(event)
    assert one.stop() == ("max_tokens", None)
    one.add(ToolDelta(0, "}"))
    assert one.stop() == ("tool_use", None)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_assembler, "MOST_BUFFERED_BYTES", 1000)
    with pytest.raises(block_assembler.BufferLimitExceeded):
        received(ToolStart(0, "1", "f"), *(TextDelta("") for _ in range(50)), *(TextDelta("x") for _ in range(50)))
