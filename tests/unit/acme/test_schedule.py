"""When certificates are renewed, and when failed attempts are repeated."""

from __future__ import annotations

import pytest

from relayd.acme import schedule

DAY = 86400.0


def test_a_certificate_is_renewed_after_two_thirds_of_its_life_or_a_little_earlier() -> None:
    assert schedule.renewal_time(0.0, 90 * DAY, 0.0) == 60 * DAY
    assert schedule.renewal_time(0.0, 90 * DAY, 0.999) == pytest.approx(55.5 * DAY, abs=0.01 * DAY)


def test_a_suggested_time_lies_in_its_window() -> None:
    assert schedule.suggested_time(100.0, 200.0, 0.5) == 150.0
    assert schedule.suggested_time(100.0, 50.0, 0.5) == 100.0  # a window that ends before it begins


def test_pauses_grow_to_a_day_and_five_attempts_fit_into_the_first_hour() -> None:
    pauses = [schedule.pause_s(count, 0.0) for count in range(1, 12)]
    assert pauses == sorted(pauses) and pauses[-1] == DAY
    assert sum(pauses[:4]) < 3600 < sum(pauses[:5])
    assert schedule.pause_s(1, 0.999) < 1.25 * pauses[0]


def test_a_directory_can_ask_for_a_week_at_most() -> None:
    assert schedule.hold_s(60.0) == 60.0
    assert schedule.hold_s(1e12) == 7 * DAY
    assert schedule.hold_s(-1.0) == 0.0


def test_the_authority_is_asked_between_once_a_minute_and_once_a_day() -> None:
    assert schedule.ask_again_s(None) == 6 * 3600
    assert schedule.ask_again_s(1.0) == 60.0
    assert schedule.ask_again_s(1e9) == DAY


@pytest.mark.parametrize(("ends_s", "failures", "now", "expected"), [
    (90 * DAY, 0, 89 * DAY, ""), (90 * DAY, 1, 61 * DAY, "warning"), (90 * DAY, 3, 76 * DAY, "error"), (0.0, 1, 5.0, "error"),
])
def test_failures_become_more_urgent_towards_the_end(ends_s: float, failures: int, now: float, expected: str) -> None:
    assert schedule.urgency(0.0, ends_s, failures, now) == expected
