"""The clock: one that only goes forward for durations, one that people read."""

from __future__ import annotations

import time

from relayd import clock


def test_the_monotonic_clock_never_goes_back() -> None:
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


def test_the_wall_clock_tells_the_date() -> None:
    before, told, after = time.time(), clock.wall(), time.time()
    assert before <= told <= after
