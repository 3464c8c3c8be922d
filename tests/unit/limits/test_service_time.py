"""The mean hold time of permits, and the waiting time estimated from it."""

from __future__ import annotations

import pytest

from relayd.limits.service_time import MIN_SAMPLES, ServiceTime, margin


def measured(*holds_s: float) -> ServiceTime:
    time = ServiceTime()
    for held_s in holds_s:
        time.observe(held_s)
    return time


def test_the_first_holds_are_averaged_evenly() -> None:
    assert measured(1, 2, 3).mean_s == pytest.approx(2)


def test_the_mean_follows_a_back_end_that_becomes_slow() -> None:
    time = measured(*[1.0] * 500)
    assert time.mean_s == pytest.approx(1)
    for _ in range(144):
        time.observe(10.0)
    assert 9 < time.mean_s < 10


def test_one_outlier_moves_the_mean_little() -> None:
    time = measured(*[1.0] * 100, 20.0)
    assert time.mean_s < 2


def test_the_estimate_is_unknown_before_enough_samples() -> None:
    assert not measured(*[1.0] * (MIN_SAMPLES - 1)).known
    assert measured(*[1.0] * MIN_SAMPLES).known


def test_the_wait_is_the_position_times_the_mean_divided_by_the_permits() -> None:
    assert measured(*[4.0] * 8).wait_s(position=10, permits=8, unchanged_s=0) == pytest.approx(5)


def test_a_stalled_back_end_raises_the_estimate_before_a_permit_is_released() -> None:
    time = measured(*[1.0] * 50)
    assert time.wait_s(position=8, permits=8, unchanged_s=0.5) == pytest.approx(1)
    assert time.wait_s(position=8, permits=8, unchanged_s=20) == pytest.approx(20)


def test_the_margin_shrinks_with_the_position() -> None:
    assert margin(1) == 0.5
    assert margin(1) > margin(4) > margin(64) > margin(10_000) > 0
