"""How long permits are held, and what it says about waiting."""

from __future__ import annotations

import pytest

from relayd.limits.service_time import ENOUGH, ServiceTime, doubt


def measured(*holds_s: float) -> ServiceTime:
    time = ServiceTime()
    for held_s in holds_s:
        time.observe(held_s)
    return time


def test_the_first_holds_are_averaged_evenly() -> None:
    assert measured(1, 2, 3).mean_s == pytest.approx(2)


def test_a_back_end_that_becomes_slow_is_followed() -> None:
    time = measured(*[1.0] * 500)
    assert time.mean_s == pytest.approx(1)
    for _ in range(144):
        time.observe(10.0)
    assert 9 < time.mean_s < 10


def test_one_outlier_moves_the_mean_little() -> None:
    time = measured(*[1.0] * 100, 20.0)
    assert time.mean_s < 2


def test_nothing_is_known_before_enough_was_measured() -> None:
    assert not measured(*[1.0] * (ENOUGH - 1)).known
    assert measured(*[1.0] * ENOUGH).known


def test_the_wait_is_the_place_times_the_mean_through_the_permits() -> None:
    assert measured(*[4.0] * 8).wait_s(place=10, permits=8, still_s=0) == pytest.approx(5)


def test_a_back_end_that_stands_still_is_noticed_before_anything_comes_back() -> None:
    time = measured(*[1.0] * 50)
    assert time.wait_s(place=8, permits=8, still_s=0.5) == pytest.approx(1)
    assert time.wait_s(place=8, permits=8, still_s=20) == pytest.approx(20)


def test_doubt_shrinks_with_the_place() -> None:
    assert doubt(1) == 0.5
    assert doubt(1) > doubt(4) > doubt(64) > doubt(10_000) > 0
