"""Long work in many turns of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from relayd import clock
from relayd.daemon.turns import TURN_S, at_once, in_turns


def busy(steps: int, step_s: float = TURN_S) -> Generator[None, None, str]:
    for _ in range(steps):
        end_s = clock.monotonic() + step_s
        while clock.monotonic() < end_s:
            pass
        yield
    return "done"


async def test_other_work_runs_between_the_steps() -> None:
    seen = 0

    async def other() -> None:
        nonlocal seen
        while True:
            seen += 1
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(other())
    assert await in_turns(busy(10)) == "done"
    task.cancel()
    assert seen >= 10


async def test_a_cancellation_closes_the_steps() -> None:
    closed = asyncio.Event()

    def steps() -> Generator[None, None, None]:
        try:
            while True:
                yield from busy(1)
        finally:
            closed.set()

    task = asyncio.get_running_loop().create_task(in_turns(steps()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


def test_without_a_loop_the_steps_run_at_once_and_their_fault_is_raised() -> None:
    def failing() -> Generator[None, None, None]:
        yield
        raise ValueError("no")

    assert at_once(busy(3, 0.0)) == "done"
    with pytest.raises(ValueError, match="no"):
        at_once(failing())
