"""Long work of the event loop, such as a reload of a large configuration, in many turns."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import TypeVar

from relayd import clock
from relayd.telemetry.journal import Journal

T = TypeVar("T")
TURN_S = 0.002  # how long steps go on in one turn of the event loop


def at_once(steps: Generator[None, None, T]) -> T:
    """The result of the steps, run without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def log_changes(journal: Journal, changes: Sequence[str]) -> Generator[None, None, None]:
    """Log the changes of a reload, one per step."""
    for change in changes:
        journal.info("config_changed", change)
        yield


async def in_turns(steps: Generator[None, None, T]) -> T:
    """The result of the steps. A cancellation of the caller closes the generator."""
    try:
        end_s = clock.monotonic() + TURN_S
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if clock.monotonic() >= end_s:
                await asyncio.sleep(0)
                end_s = clock.monotonic() + TURN_S
    finally:
        steps.close()
