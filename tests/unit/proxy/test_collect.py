"""A body that is gathered before the next room decides."""

from __future__ import annotations

import pytest

from relayd.errors import ExchangeError
from relayd.proxy.collect import Collector


class Until:
    """Knows enough when this was seen."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark

    def feed(self, data: bytes) -> bool:
        return self.mark in data


def test_pieces_become_the_whole_body() -> None:
    got: list[tuple[bytes, bool]] = []
    collector = Collector(10, lambda data, whole: got.append((data, whole)))
    assert not collector.take(b"abc", False) and collector.take(b"def", True)
    collector.finish(True)
    assert got == [(b"abcdef", True)] and collector.size == 6


def test_more_than_the_route_takes_is_refused_at_the_first_byte_too_much() -> None:
    collector = Collector(4, lambda data, whole: None)
    assert not collector.take(b"abcd", False)
    with pytest.raises(ExchangeError) as refused:
        collector.take(b"e", False)
    assert refused.value.kind.status == 413


def test_no_limit_is_no_limit() -> None:
    collector = Collector(0, lambda data, whole: None)
    assert not collector.take(bytes(1_000_000), False)


def test_who_knows_enough_ends_it_early() -> None:
    got: list[tuple[bytes, bool]] = []
    collector = Collector(0, lambda data, whole: got.append((data, whole)), Until(b"model"))
    assert not collector.take(b"--x\r\n", False) and collector.take(b"model", False)
    collector.finish(False)
    assert got == [(b"--x\r\nmodel", False)]
