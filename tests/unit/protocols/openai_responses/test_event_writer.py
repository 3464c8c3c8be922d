"""Events as bytes in all forms."""

from __future__ import annotations

import json

from relayd.protocols.openai_responses.event_writer import DONE, EventWriter, location_of


def test_a_stream_names_each_event_and_numbers_it() -> None:
    writer = EventWriter("sse")
    writer.event("response.created", {"x": "a\nb"})
    writer.delta("response.output_text.delta", location_of({"item_id": "msg_1", "output_index": 0}), 'say "é"\n')
    writer.done()
    first, second, done, rest = writer.flush().split(b"\n\n")
    assert first == b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"x":"a\\nb"}'
    assert json.loads(second.split(b"data: ")[1]) == {
        "type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1", "output_index": 0, "delta": 'say "é"\n',
    }  # fmt: skip
    assert done + b"\n\n" == DONE and rest == writer.flush() == b""


def test_a_text_frame_is_the_event_alone() -> None:
    writer = EventWriter("text")
    writer.event("a", {})
    writer.done()
    assert [json.loads(line) for line in writer.flush().splitlines()] == [{"type": "a", "sequence_number": 0}]


def test_a_plain_answer_has_no_events() -> None:
    writer = EventWriter("none")
    writer.event("a", {})
    writer.delta("b", b"", "x")
    writer.done()
    assert writer.discards_events and writer.flush() == b""


def test_a_long_event_leaves_in_pieces_before_what_follows_it() -> None:
    writer = EventWriter("sse")
    writer.event("a", {"text": "x\n" * 1_000_000}, 2_000_000)
    writer.delta("b", b"", "y")
    pieces = [writer.flush()]
    while writer.has_more:
        pieces.append(writer.flush())
    assert len(pieces) > 5 and max(map(len, pieces)) < 500_000
    first, second, _ = b"".join(pieces).split(b"\n\n")
    assert json.loads(first.split(b"data: ")[1]) == {"type": "a", "sequence_number": 0, "text": "x\n" * 1_000_000}
    assert json.loads(second.split(b"data: ")[1])["sequence_number"] == 1
