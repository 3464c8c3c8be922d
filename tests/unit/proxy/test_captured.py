"""Copies of bodies: bounded each and in all, with what is missing counted, and free again afterwards."""

from __future__ import annotations

import pytest

from relayd.proxy.captured import EDGE_BYTES, EXCHANGE_BYTES, MAX_PIECES, Allowance, BodyCopy, CapturedExchange


def finished(body: BodyCopy) -> BodyCopy:
    body.finish()
    body.cut_edges()
    return body


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 100 + 2 * EDGE_BYTES])
@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_a_body_within_its_bound_is_kept_as_a_whole(size: int, piece: int) -> None:
    data = bytes(index % 251 for index in range(size))
    body = BodyCopy(Allowance(1 << 20), 100)
    for start in range(0, size, piece):
        body.add(data[start:start + piece], start / 1000)
    finished(body)
    assert bytes(body.head) == data and not body.tail and (body.size, body.missing) == (size, 0)
    assert sum(body.sizes) == size


@pytest.mark.parametrize("piece", [1, 999, 5000, 100_000])
def test_of_a_longer_body_the_beginning_and_the_end_are_kept(piece: int) -> None:
    data = bytes(index % 251 for index in range(50_000))
    allowance = Allowance(1 << 20)
    body = BodyCopy(allowance, 2000)
    for start in range(0, len(data), piece):
        body.add(data[start:start + piece], 0.0)
    finished(body)
    assert bytes(body.head) == data[:1000] and bytes(body.tail) == data[-1000:]
    assert body.missing == len(data) - 2000 and body.size == len(data)
    assert allowance.used_bytes == body.stored_bytes <= 2000 + 16 * MAX_PIECES
    body.release()
    assert allowance.used_bytes == 0 and body.missing == body.size


def test_beyond_the_allowance_nothing_is_kept_and_the_rest_is_counted() -> None:
    allowance = Allowance(10_000)
    first, second = BodyCopy(allowance, 100_000), BodyCopy(allowance, 100_000)
    first.add(b"a" * 8000, 0.0)
    second.add(b"b" * 8000, 0.0)
    second.add(b"c" * 8000, 0.0)
    assert allowance.used_bytes <= 10_000 and allowance.is_full
    finished(first)
    finished(second)
    assert first.missing == 0 and second.size == 16_000 and second.missing == 16_000 - len(second.head) and not second.tail
    for body in (first, second):
        body.release()
    assert allowance.used_bytes == 0


def test_without_bodies_only_sizes_and_times_are_kept() -> None:
    body = BodyCopy(Allowance(1 << 20), 0)
    body.add(b"secret", 0.5)
    finished(body)
    assert not body.head and (body.size, body.missing) == (6, 6) and list(body.times) == [0.5]


def test_the_pieces_of_an_endless_stream_are_bounded() -> None:
    allowance = Allowance(1 << 20)
    body = BodyCopy(allowance, 1000)
    for number in range(MAX_PIECES + 500):
        body.add(b"xyz", float(number))
    assert len(body.times) == len(body.sizes) == MAX_PIECES and body.uncounted == 500
    assert sum(body.sizes) == body.size == 3 * (MAX_PIECES + 500)
    assert allowance.used_bytes < 100_000


def test_a_dropped_exchange_gives_everything_back_once() -> None:
    allowance = Allowance(1 << 20)
    captured = CapturedExchange(allowance, 1000, 0.0)
    captured.body.add(b"x" * 500, 0.0)
    captured.response.body.add(b"x" * 50_000, 0.0)
    assert allowance.used_bytes == captured.size_bytes > EXCHANGE_BYTES
    captured.drop()
    captured.drop()
    assert allowance.used_bytes == 0 and captured.is_dropped
