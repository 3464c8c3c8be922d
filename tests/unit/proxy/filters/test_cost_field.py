"""The cost of a request in the head of a plain response, and in the trailer of a stream or of a large response."""

from __future__ import annotations

import pytest

from relayd.proxy.filters.cost_field import FIELD, MAX_HELD_BYTES, CostField
from relayd.wire.response import ResponseHead

COST = "0.0125 USD"


def filter_of(*, is_stream: bool = False, chunks: bool = True, cost: str = COST) -> CostField:
    return CostField(lambda: cost, is_stream, chunks)


def lines_of(cost_field: CostField) -> list[bytes]:
    return list(cost_field.head(ResponseHead(200, b"OK")).keep)


def test_a_plain_response_is_held_and_has_the_cost_in_its_head() -> None:
    cost_field = filter_of()
    assert cost_field.process(b"one") == cost_field.process(b"two") == b""
    assert cost_field.finish() == b"onetwo"
    assert lines_of(cost_field) == [f"{FIELD}: {COST}\r\n".encode()] and cost_field.trailer() == b""


def test_an_unknown_cost_is_not_shown() -> None:
    cost_field = filter_of(cost="")
    assert (cost_field.process(b"x"), cost_field.finish(), lines_of(cost_field), cost_field.trailer()) == (b"", b"x", [], b"")


def test_a_stream_passes_at_once_and_has_the_cost_in_its_trailer() -> None:
    cost_field = filter_of(is_stream=True)
    head = ResponseHead(200, b"OK")
    head.length = 3
    assert cost_field.process(b"one") == b"one"
    assert cost_field.head(head).keep == [f"Trailer: {FIELD}\r\n".encode()] and head.length is None
    assert cost_field.finish() == b"" and cost_field.trailer() == f"{FIELD}: {COST}\r\n".encode()


@pytest.mark.parametrize("chunks", [True, False])
def test_a_large_response_is_held_no_longer(chunks: bool) -> None:
    cost_field, piece = filter_of(chunks=chunks), b"x" * (MAX_HELD_BYTES // 2 + 1)
    assert cost_field.process(piece) == b"" and cost_field.process(piece) == 2 * piece
    assert cost_field.process(b"end") == b"end"
    assert lines_of(cost_field) == ([f"Trailer: {FIELD}\r\n".encode()] if chunks else [])
