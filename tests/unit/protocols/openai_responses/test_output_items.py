"""Output items under construction: waiting deltas, events, and closing."""

from __future__ import annotations

import json

from relayd.protocols.canon import ReasoningDelta, TextDelta
from relayd.protocols.openai_responses.event_writer import EventWriter
from relayd.protocols.openai_responses.output_items import MessageItem, ReasoningItem, ToolCallItem
from relayd.protocols.openai_responses.tools import ClientTool


def kinds(writer: EventWriter) -> list[str]:
    return [json.loads(frame)["type"].removeprefix("response.") for frame in writer.flush().splitlines()]


def test_deltas_wait_until_their_item_is_opened() -> None:
    writer = EventWriter("text")
    message = MessageItem(writer, False)
    message.add(TextDelta("a"))
    assert kinds(writer) == []
    message.open(3)
    assert kinds(writer) == ["output_item.added", "content_part.added", "output_text.delta"]
    item = message.close("incomplete")
    assert kinds(writer) == ["output_text.done", "content_part.done", "output_item.done"]
    assert item["status"] == "incomplete" and item["id"] == message.id


def test_a_call_is_complete_when_its_json_is_closed() -> None:
    call = ToolCallItem(EventWriter("none"), "c1", ClientTool(None, "f", "function"))
    call.open(0)
    call.add('{"a": "}')
    assert not call.complete
    call.add('"}')
    assert call.complete
    assert call.close("completed")["arguments"] == '{"a": "}"}'


def test_an_incomplete_call_keeps_its_received_arguments() -> None:
    call = ToolCallItem(EventWriter("none"), "c1", ClientTool("ns", "f", "function"))
    call.open(0)
    item = call.close("incomplete")
    assert (item["arguments"], item["namespace"], item["status"]) == ("", "ns", "incomplete")


def test_a_reasoning_item_without_text_has_an_empty_summary() -> None:
    writer = EventWriter("text")
    reasoning = ReasoningItem(writer, encrypted_reasoning=True)
    reasoning.add(ReasoningDelta(redacted="r"))
    reasoning.open(0)
    item = reasoning.close("completed")
    assert item["summary"] == [] and item["encrypted_content"] and reasoning.signed
    assert kinds(writer) == ["output_item.added", "output_item.done"]
