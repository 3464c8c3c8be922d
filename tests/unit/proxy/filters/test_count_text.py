"""The text that a client got, by the dialect in which it got it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.openai_chat import DIALECT
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.count_text import CountText
from relayd.proxy.request_context import context_of
from relayd.stores.memory import Store
from relayd.telemetry.outcome import Record
from relayd.usage import Usage
from tests.unit.proxy.fakes import head_for


def filter_of() -> tuple[CountText, AiRequest]:
    head, memory = head_for("Content-Type: application/json", start="POST /v1/chat/completions HTTP/1.1"), Store(10, 1000, 60.0).space("x")
    ai_request = AiRequest(DIALECT, head, b'{"model":"m"}', lambda: context_of(head, b"id", memory, b""))
    return CountText(ai_request), ai_request


def counted(*pieces: bytes) -> int:
    """The characters that are counted in a response of these pieces; it passes unchanged."""
    count, ai_request = filter_of()
    assert [count.process(piece) for piece in (*pieces, b"")] == [*pieces, b""]
    return ai_request.output_characters


def event(**members: Any) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


@pytest.mark.parametrize("pieces, characters", [
    ([event(choices=[{"delta": {"content": "four"}}]), event(choices=[{"delta": {"reasoning_content": "sixsix"}}])], 10),
    ([event(choices=[{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}])], 2),
    ([event(type="content_block_delta", delta={"type": "text_delta", "text": "four"}), event(delta={"type": "input_json_delta", "partial_json": "ab"})], 6),
    ([event(candidates=[{"content": {"parts": [{"text": "four"}]}}])], 4),
    ([b'{"model":"m","response":"four","done":false}\n'], 4),
    ([b'{"choices": [{"message": {"content" : "four", "refusal": null}}]}'], 4),
])
def test_text_reasoning_and_arguments_of_every_dialect_count(pieces: list[bytes], characters: int) -> None:
    assert counted(*pieces) == characters


def test_a_text_that_a_stream_repeats_as_a_whole_counts_once() -> None:
    deltas = [event(type="response.output_text.delta", delta="four"), event(type="response.output_text.delta", delta="four")]
    whole = event(type="response.completed", response={"output": [{"content": [{"type": "output_text", "text": "fourfour"}]}]})
    assert counted(*deltas, whole) == counted(*deltas) == 8


def test_a_long_stream_is_estimated_from_a_part_of_its_pieces() -> None:
    pieces = [event(choices=[{"delta": {"content": "word " * (1 + number % 3)}}]) for number in range(5000)]
    text = sum(5 * (1 + number % 3) for number in range(5000))
    assert 0.95 * text < counted(*pieces) < 1.05 * text


def test_a_long_piece_neither_hides_among_others_nor_multiplies_them() -> None:
    short, long = event(choices=[{"delta": {"content": "four"}}]), event(choices=[{"delta": {"content": "x" * 100_000}}])
    for place in range(8):
        pieces = [*[short] * (100 + place), long, *[short] * 100]
        assert 0.95 * (100_000 + 800) < counted(*pieces) < 1.05 * (100_000 + 800)


@pytest.mark.parametrize("usage, characters", [(None, 4), (Usage(1, 1), 0)])
def test_a_response_in_one_piece_is_counted_at_its_end_if_it_reports_no_tokens(usage: Usage | None, characters: int) -> None:
    count, ai_request = filter_of()
    piece, record = event(choices=[{"message": {"content": "four"}}]), Record()
    record.usage = usage
    assert count.process(piece) == piece
    for _ in range(2):
        count.account(record)
        assert ai_request.output_characters == characters


@pytest.mark.parametrize("pieces", range(1, 40))
def test_a_stream_that_is_cut_after_any_piece_has_a_count(pieces: int) -> None:
    """Between two pieces that are counted as well, where some bytes are not counted yet."""
    count, ai_request = filter_of()
    for _ in range(pieces):
        count.process(event(choices=[{"delta": {"content": "four"}}]))
    count.account(Record())
    assert 4 * max(1, pieces - 8) <= ai_request.output_characters <= 4 * pieces


def test_names_and_numbers_are_no_text() -> None:
    assert counted(event(id="chatcmpl-1", model="content", content=None, delta={"role": "assistant"}, text=7)) == 0


def test_an_escaped_quote_does_not_end_a_text() -> None:
    assert counted(rb'{"content":"a\"bc"}') == len(rb"a\"bc")
