"""Counting what is under way."""

from __future__ import annotations

from relayd.limits.permits import Permits


def test_as_many_are_free_as_the_limit_says() -> None:
    permits = Permits(2)
    permits.take("a")
    assert permits.free
    permits.take("b")
    assert not permits.free
    permits.give("a")
    assert permits.free


def test_without_a_limit_there_is_always_one_more() -> None:
    permits = Permits()
    for _ in range(1000):
        permits.take("a")
    assert permits.free
    assert (permits.taken, permits.over) == (1000, 0)


def test_it_is_known_whose_they_are_and_forgotten_with_the_last() -> None:
    permits = Permits(9)
    for who in ("a", "b", "a"):
        permits.take(who)
    assert permits.held == {"a": 2, "b": 1}
    for who in ("a", "b", "a"):
        permits.give(who)
    assert (permits.held, permits.taken) == ({}, 0)


def test_a_limit_lowered_below_what_is_taken_revokes_nothing() -> None:
    permits = Permits(5)
    for _ in range(5):
        permits.take("a")
    permits.limit = 2
    assert (permits.taken, permits.free, permits.over) == (5, False, 3)
    for _ in range(3):
        permits.give("a")
    assert not permits.free
    permits.give("a")
    assert permits.free
