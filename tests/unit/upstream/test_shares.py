"""Shares of requests that go elsewhere."""

from __future__ import annotations

import random

from relayd.upstream.affinity import number_of
from relayd.upstream.shares import Share, roll_of


def test_none_and_all_are_exact() -> None:
    assert not any(Share("b", 0.0).takes(roll) for roll in (0.0, 0.5, 1.0 - 2**-53))
    assert all(Share("b", 1.0).takes(roll) for roll in (0.0, 0.5, 1.0 - 2**-53))


def test_a_share_is_taken_by_chance() -> None:
    chance, share = random.Random(2), Share("b", 0.05)
    taken = sum(share.takes(chance.random()) for _ in range(20000))
    assert abs(taken - 1000) < 120


def test_a_share_is_taken_by_key_and_always_the_same() -> None:
    rolls = [roll_of(number_of(b"consumer-%d" % number)) for number in range(20000)]
    assert rolls == [roll_of(number_of(b"consumer-%d" % number)) for number in range(20000)]
    assert all(0.0 <= roll < 1.0 for roll in rolls)
    for part in (0.01, 0.1, 0.5, 0.9):
        assert abs(sum(roll < part for roll in rolls) / 20000 - part) < 0.012
