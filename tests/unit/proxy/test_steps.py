"""Work in turns of the loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relayd import clock
from relayd.proxy.steps import Work
from relayd.wire.json_steps import Steps


class Loop:
    """An event loop under manual control."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        assert delay_s == 0
        self.waiting.append(callback)
        return lambda: self.waiting.remove(callback)

    def turn(self) -> None:
        self.waiting.pop(0)()


def counted(steps: list[int], most: int) -> Steps[None]:
    for number in range(most):
        steps.append(number)
        yield


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading of the clock is a long time after the previous one."""
    times = iter(range(1_000_000))
    monkeypatch.setattr(clock, "monotonic", lambda: float(next(times)))


def test_short_work_is_done_at_once() -> None:
    loop, steps, done = Loop(), [], []  # type: ignore[var-annotated]
    assert Work(counted(steps, 3), loop.call_later, lambda: done.append(True)).turn()
    assert steps == [0, 1, 2] and not done and not loop.waiting


@pytest.mark.usefixtures("slow")
def test_long_work_lets_the_loop_turn_between_its_steps() -> None:
    loop, steps, done = Loop(), [], []  # type: ignore[var-annotated]
    assert not Work(counted(steps, 3), loop.call_later, lambda: done.append(True)).turn()
    for number in range(3):
        assert steps == list(range(number + 1)) and not done and len(loop.waiting) == 1
        loop.turn()
    assert done == [True] and not loop.waiting


def test_work_may_begin_in_another_turn() -> None:
    loop, steps, done = Loop(), [], []  # type: ignore[var-annotated]
    Work(counted(steps, 3), loop.call_later, lambda: done.append(True)).defer()
    assert not steps and not done
    loop.turn()
    assert steps == [0, 1, 2] and done == [True]
    late = Work(counted(steps, 3), loop.call_later, lambda: done.append(True))
    late.defer()
    late.cancel()
    assert not loop.waiting


@pytest.mark.usefixtures("slow")
def test_cancelled_work_does_nothing_more() -> None:
    loop, steps, done = Loop(), [], []  # type: ignore[var-annotated]
    work = Work(counted(steps, 3), loop.call_later, lambda: done.append(True))
    work.turn()
    work.cancel()
    assert not loop.waiting and steps == [0] and not done
    work.cancel()
