"""Overload of relayd itself: who is turned away, how many, and until when."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.overload import MOST, OVERLOAD, Bounds, Overload, Reading
from relayd.limits.ticket import Refused

LATE, CALM, BETWEEN = Reading(loop_lag_s=0.3), Reading(loop_lag_s=0.01), Reading(loop_lag_s=0.22)


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


def test_as_long_as_all_is_well_everybody_passes() -> None:
    overload = guard()
    for _ in range(100):
        overload.feed(CALM)
        assert not arrive(overload, *range(-5, 5))
    assert not overload.active


def test_a_late_loop_turns_a_growing_share_away_and_never_all() -> None:
    overload, shares = guard(), []
    for _ in range(40):
        arrive(overload, *[0] * 100)
        overload.feed(LATE)
        shares.append(arrive(overload, *[0] * 100)[0] / 100)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert shares[-1] == pytest.approx(MOST, abs=0.02)


def test_the_further_above_the_faster() -> None:
    little, much = guard(), guard()
    little.feed(Reading(loop_lag_s=0.26))
    much.feed(Reading(loop_lag_s=2))
    assert little.share < much.share == 0.5


def test_the_lowest_priorities_go_first() -> None:
    overload = guard()
    arrivals = [*[-1] * 10, *[0] * 80, *[9] * 10]
    arrive(overload, *arrivals)
    overload.feed(Reading(loop_lag_s=0.25 * 1.3))
    assert arrive(overload, *arrivals) == {-1: 1}
    assert overload.share == pytest.approx(0.015)
    while overload.share < 0.5:
        overload.feed(LATE)
        away = arrive(overload, *arrivals)
        assert away[0] == 0 or away[-1] == 10
        assert away[9] == 0
    assert away[-1] == 10
    assert away[0] == pytest.approx(40, abs=10)


def test_a_crowd_of_little_importance_does_not_push_out_the_important() -> None:
    """One very late reading turns all of the crowd away at most; the important only after one more without it."""
    overload, arrivals = guard(), [*[-1] * 50, *[9] * 50]
    arrive(overload, *arrivals)
    for _ in range(2):
        overload.feed(Reading(loop_lag_s=9))
    assert arrive(overload, *arrivals) == {-1: 50}
    for _ in range(40):
        overload.feed(BETWEEN)
        assert arrive(overload, *arrivals) == {-1: 50}
    overload.feed(Reading(loop_lag_s=9))
    away = arrive(overload, *arrivals)
    assert away[-1] == 50
    assert 0 < away[9] < 50


def test_it_ends_as_it_began_the_important_first() -> None:
    overload, arrivals = guard(), [*[-1] * 50, *[9] * 50]
    for _ in range(10):
        arrive(overload, *arrivals)
        overload.feed(LATE)
    while overload.active:
        overload.feed(CALM)
        away = arrive(overload, *arrivals)
        assert not away[9] or away[-1] == 50
    assert not arrive(overload, *arrivals)


def test_between_calm_and_the_bound_the_share_stays() -> None:
    overload = guard()
    for _ in range(3):
        overload.feed(LATE)
    share = overload.share
    for _ in range(50):
        overload.feed(BETWEEN)
    assert overload.share == share
    for _ in range(50):
        overload.feed(CALM)
    assert not overload.active
    assert not arrive(overload, -100)


def test_retry_after_is_when_it_would_be_over() -> None:
    overload = guard()
    for _ in range(5):
        overload.feed(LATE)
    told_s, took_s = overload.retry_after_s(), 0.0
    while overload.active:
        overload.feed(CALM)
        took_s += overload.interval_s
    assert told_s == pytest.approx(took_s, abs=overload.interval_s)


@pytest.mark.parametrize(("reading", "why"), [
    (Reading(memory_bytes=2_000), "memory"), (Reading(descriptors=99), "descriptors"), (Reading(loop_lag_s=1), "loop_lag"),
])
def test_the_worst_reading_counts_and_is_named(reading: Reading, why: str) -> None:
    overload = guard(memory_bytes=1_000, descriptors=90)
    overload.feed(reading)
    told = overload.describe()
    assert (told["active"], told["why"]) == (True, why)


def test_what_has_no_bound_is_not_looked_at() -> None:
    overload = guard(loop_lag_s=0)
    overload.feed(Reading(loop_lag_s=9, memory_bytes=1 << 40, descriptors=1 << 20))
    assert not overload.active


READINGS = st.lists(st.tuples(st.floats(0, 3), st.lists(st.integers(-3, 3), max_size=30)), min_size=1, max_size=40)


@given(READINGS)
def test_nobody_is_turned_away_while_somebody_lower_passes(rounds: list[tuple[float, list[int]]]) -> None:
    overload = guard()
    for lag_s, priorities in rounds:
        overload.feed(Reading(loop_lag_s=lag_s))
        assert 0 <= overload.share <= MOST
        away = arrive(overload, *priorities)
        if away:
            assert not any(away[lower] < priorities.count(lower) for lower in set(priorities) if lower < max(away))
