"""Shares of requests that go elsewhere."""

from __future__ import annotations

from relayd.upstream.affinity import hash_of
from relayd.upstream.shares import fraction_of


def test_a_share_is_taken_by_key_and_always_the_same() -> None:
    rolls = [fraction_of(hash_of(b"consumer-%d" % number)) for number in range(20000)]
    assert rolls == [fraction_of(hash_of(b"consumer-%d" % number)) for number in range(20000)]
    assert all(0.0 <= roll < 1.0 for roll in rolls)
    for part in (0.01, 0.1, 0.5, 0.9):
        assert abs(sum(roll < part for roll in rolls) / 20000 - part) < 0.012
