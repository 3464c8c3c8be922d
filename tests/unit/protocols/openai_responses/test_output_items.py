"""Items in the making: what waits, what is written, what is closed."""

from __future__ import annotations

import json

from relayd.protocols.canon import ReasoningDelta, TextDelta
from relayd.protocols.openai_responses.event_writer import EventWriter
from relayd.protocols.openai_responses.output_items import CallItem, MessageItem, ReasoningItem
from relayd.protocols.openai_responses.tools import Called


def kinds(frames: EventWriter) -> list[str]:
    return [json.loads(frame)["type"].removeprefix("response.") for frame in frames.flush().splitlines()]


def test_an_item_waits_until_its_turn() -> None:
    frames = EventWriter("text")
    words = MessageItem(frames, False)
    words.add(TextDelta("a"))
    assert kinds(frames) == []
    words.open(3)
    assert kinds(frames) == ["output_item.added", "content_part.added", "output_text.delta"]
    item = words.close("incomplete")
    assert kinds(frames) == ["output_text.done", "content_part.done", "output_item.done"]
    assert item["status"] == "incomplete" and item["id"] == words.id


def test_a_call_is_complete_when_its_json_is_closed() -> None:
    call = CallItem(EventWriter("none"), "c1", Called(None, "f", "function"))
    call.open(0)
    call.add('{"a": "}')
    assert not call.complete
    call.add('"}')
    assert call.complete
    assert call.close("completed")["arguments"] == '{"a": "}"}'


def test_a_cut_call_keeps_what_came() -> None:
    call = CallItem(EventWriter("none"), "c1", Called("ns", "f", "function"))
    call.open(0)
    item = call.close("incomplete")
    assert (item["arguments"], item["namespace"], item["status"]) == ("", "ns", "incomplete")


def test_a_thought_without_words_has_an_empty_summary() -> None:
    frames = EventWriter("text")
    thought = ReasoningItem(frames, proofs=True)
    thought.add(ReasoningDelta(redacted="r"))
    thought.open(0)
    item = thought.close("completed")
    assert item["summary"] == [] and item["encrypted_content"] and thought.sealed
    assert kinds(frames) == ["output_item.added", "output_item.done"]
