"""Counting what is under way."""

from __future__ import annotations

from relayd.limits.permits import Permits


def test_permits_are_available_up_to_the_limit() -> None:
    permits = Permits(2)
    permits.acquire("a")
    assert permits.free
    permits.acquire("b")
    assert not permits.free
    permits.release("a")
    assert permits.free


def test_without_a_limit_a_permit_is_always_available() -> None:
    permits = Permits()
    for _ in range(1000):
        permits.acquire("a")
    assert permits.free
    assert (permits.taken, permits.over) == (1000, 0)


def test_permits_are_counted_per_consumer_and_the_entry_goes_with_the_last() -> None:
    permits = Permits(9)
    for consumer in ("a", "b", "a"):
        permits.acquire(consumer)
    assert permits.held == {"a": 2, "b": 1}
    for consumer in ("a", "b", "a"):
        permits.release(consumer)
    assert (permits.held, permits.taken) == ({}, 0)


def test_a_limit_lowered_below_what_is_taken_revokes_nothing() -> None:
    permits = Permits(5)
    for _ in range(5):
        permits.acquire("a")
    permits.limit = 2
    assert (permits.taken, permits.free, permits.over) == (5, False, 3)
    for _ in range(3):
        permits.release("a")
    assert not permits.free
    permits.release("a")
    assert permits.free
