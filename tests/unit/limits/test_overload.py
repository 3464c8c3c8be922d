"""Overload of relayd itself: which requests are shed, how many, and until when."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.overload import MAX_SHARE, OVERLOAD, Bounds, Overload, Reading
from relayd.limits.ticket import Refused

LATE, LOW_WATERMARK, BETWEEN = Reading(loop_lag_s=0.3), Reading(loop_lag_s=0.01), Reading(loop_lag_s=0.22)


def guard(**bounds: float) -> Overload:
    return Overload(Bounds(**({"loop_lag_s": 0.25} | bounds)), 0.25)  # type: ignore[arg-type]


def arrive(overload: Overload, *priorities: int) -> Counter[int]:
    """Who of these is turned away."""
    away: Counter[int] = Counter()
    for priority in priorities:
        try:
            overload.admit(priority)
        except Refused as refused:
            assert refused.reason == OVERLOAD
            away[priority] += 1
    return away


def test_below_the_bounds_every_request_is_admitted() -> None:
    overload = guard()
    for _ in range(100):
        overload.update(LOW_WATERMARK)
        assert not arrive(overload, *range(-5, 5))
    assert not overload.active


def test_a_lagging_loop_sheds_a_growing_share_and_never_all() -> None:
    overload, shares = guard(), []
    for _ in range(40):
        arrive(overload, *[0] * 100)
        overload.update(LATE)
        shares.append(arrive(overload, *[0] * 100)[0] / 100)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert shares[-1] == pytest.approx(MAX_SHARE, abs=0.02)


def test_a_higher_pressure_sheds_faster() -> None:
    little, much = guard(), guard()
    little.update(Reading(loop_lag_s=0.26))
    much.update(Reading(loop_lag_s=2))
    assert little.share < much.share == 0.5


def test_the_lowest_priorities_are_shed_first() -> None:
    overload = guard()
    arrivals = [*[-1] * 10, *[0] * 80, *[9] * 10]
    arrive(overload, *arrivals)
    overload.update(Reading(loop_lag_s=0.25 * 1.3))
    assert arrive(overload, *arrivals) == {-1: 1}
    assert overload.share == pytest.approx(0.015)
    while overload.share < 0.5:
        overload.update(LATE)
        away = arrive(overload, *arrivals)
        assert away[0] == 0 or away[-1] == 10
        assert away[9] == 0
    assert away[-1] == 10
    assert away[0] == pytest.approx(40, abs=10)


def test_many_low_priority_requests_do_not_displace_high_priority_ones() -> None:
    """One reading with a large lag sheds at most all low-priority requests; the others only after one more interval without these."""
    overload, arrivals = guard(), [*[-1] * 50, *[9] * 50]
    arrive(overload, *arrivals)
    for _ in range(2):
        overload.update(Reading(loop_lag_s=9))
    assert arrive(overload, *arrivals) == {-1: 50}
    for _ in range(40):
        overload.update(BETWEEN)
        assert arrive(overload, *arrivals) == {-1: 50}
    overload.update(Reading(loop_lag_s=9))
    away = arrive(overload, *arrivals)
    assert away[-1] == 50
    assert 0 < away[9] < 50


def test_shedding_ends_with_the_highest_priority_first() -> None:
    overload, arrivals = guard(), [*[-1] * 50, *[9] * 50]
    for _ in range(10):
        arrive(overload, *arrivals)
        overload.update(LATE)
    while overload.active:
        overload.update(LOW_WATERMARK)
        away = arrive(overload, *arrivals)
        assert not away[9] or away[-1] == 50
    assert not arrive(overload, *arrivals)


def test_between_calm_and_the_bound_the_share_stays() -> None:
    overload = guard()
    for _ in range(3):
        overload.update(LATE)
    share = overload.share
    for _ in range(50):
        overload.update(BETWEEN)
    assert overload.share == share
    for _ in range(50):
        overload.update(LOW_WATERMARK)
    assert not overload.active
    assert not arrive(overload, -100)


def test_retry_after_is_when_shedding_would_end() -> None:
    overload = guard()
    for _ in range(5):
        overload.update(LATE)
    reported_s, took_s = overload.retry_after_s(), 0.0
    while overload.active:
        overload.update(LOW_WATERMARK)
        took_s += overload.interval_s
    assert reported_s == pytest.approx(took_s, abs=overload.interval_s)


@pytest.mark.parametrize(("reading", "why"), [
    (Reading(memory_bytes=2_000), "memory"), (Reading(descriptors=99), "descriptors"), (Reading(loop_lag_s=1), "loop_lag"),
])
def test_the_worst_reading_counts_and_is_named(reading: Reading, why: str) -> None:
    overload = guard(memory_bytes=1_000, descriptors=90)
    overload.update(reading)
    reported = overload.describe()
    assert (reported["active"], reported["why"]) == (True, why)


def test_a_value_without_a_bound_is_ignored() -> None:
    overload = guard(loop_lag_s=0)
    overload.update(Reading(loop_lag_s=9, memory_bytes=1 << 40, descriptors=1 << 20))
    assert not overload.active


READINGS = st.lists(st.tuples(st.floats(0, 3), st.lists(st.integers(-3, 3), max_size=30)), min_size=1, max_size=40)


@given(READINGS)
def test_no_request_is_shed_while_one_of_lower_priority_is_admitted(rounds: list[tuple[float, list[int]]]) -> None:
    overload = guard()
    for lag_s, priorities in rounds:
        overload.update(Reading(loop_lag_s=lag_s))
        assert 0 <= overload.share <= MAX_SHARE
        away = arrive(overload, *priorities)
        if away:
            assert not any(away[lower] < priorities.count(lower) for lower in set(priorities) if lower < max(away))
