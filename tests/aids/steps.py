"""How long the steps of a work are, in processor time: a bound in seconds holds on one machine only.

The measure is the time that Python's own parser needs for the longest piece of JSON that relayd gives it at once.

Other work on the machine makes a step longer (it takes the cache, and a page of memory that the kernel has to find), and
never shorter. So a work is done several times, and the shortest time of each of its steps counts. Every time it does the
same steps: turns that end after a time (`TURN_S`) end after one step, because the clock shows a later time at every look.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from relayd import clock
from relayd.wire.json_steps import CHUNK_BYTES, TURN_S, Steps

MOST_UNITS = 24  # of the time for one piece, that a step may take
UNITS = 12  # pieces of one measurement
TRIES, MOST_TRIES = 8, 32  # the further ones only while a step seems too long

_quickest_unit_s = float("inf")


def unit_s() -> float:
    """Processor seconds for one piece of small numbers: the mean of as many as take about as long as a long step, so that
    other work on the machine slows both alike."""
    global _quickest_unit_s
    text = "[" + "1," * (CHUNK_BYTES // 2) + "1]"
    found_s = timed(lambda: [json.loads(text) for _ in range(UNITS)])[1] / UNITS
    _quickest_unit_s = min(found_s, _quickest_unit_s)
    return found_s


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the seconds of this thread's processor time."""
    begun = time.thread_time()
    found = work()
    return found, time.thread_time() - begun


def seconds_of_steps(steps: Steps[Any]) -> list[float]:
    """The processor seconds of each step."""
    found = []
    done = object()
    while True:
        begun = time.thread_time()
        is_done = next(steps, done) is done
        found.append(time.thread_time() - begun)
        if is_done:
            return found


@contextmanager
def turns_of_one_step() -> Iterator[None]:
    """No turn is long enough for a second step."""
    kept = clock.monotonic
    clock.monotonic = itertools.count(kept(), 2 * TURN_S).__next__
    try:
        yield
    finally:
        clock.monotonic = kept


def units_of(make: Callable[[], Steps[Any]], enough: float = MOST_UNITS / 2) -> float:
    """The longest step of some work in units; no further tries if it is `enough` short. A unit is measured beside a try
    that is longer than this in the shortest unit until now. A tracer of coverage would make Python code slower, but not
    the unit."""
    tracer = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    try:
        if _quickest_unit_s == float("inf"):
            unit_s()
        shortest_s: list[float] = []
        unit = float("inf")
        for number in range(MOST_TRIES):
            if number >= TRIES and max(shortest_s) < MOST_UNITS * unit:
                break
            with turns_of_one_step():
                found_s = seconds_of_steps(make())
            assert number == 0 or len(found_s) == len(shortest_s), "the steps of a work are the same every time"
            shortest_s = list(map(min, found_s, shortest_s or found_s))
            if max(shortest_s) <= enough * _quickest_unit_s:
                return max(shortest_s) / _quickest_unit_s
            unit = min(unit, unit_s())
            if max(shortest_s) <= enough * unit:
                break
        return max(shortest_s) / unit
    finally:
        gc.enable()
        sys.settrace(tracer)
