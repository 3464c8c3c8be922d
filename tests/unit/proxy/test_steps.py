"""Work in turns of the loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest

from relayd import clock
from relayd.proxy.steps import Work
from relayd.wire.json_steps import Steps
from relayd.wire.waiting import Waiting


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


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still."""
    monkeypatch.setattr(clock, "monotonic", lambda: 0.0)


@pytest.mark.usefixtures("fast")
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


@pytest.mark.usefixtures("fast")
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


def test_steps_that_wait_are_resumed_in_a_later_turn_when_the_result_is_there() -> None:
    loop, waiting, seen, done = Loop(), Waiting(), list[object](), list[bool]()

    def steps() -> Steps[None]:
        yield waiting
        seen.append(waiting.result)

    work = Work(steps(), loop.call_later, lambda: done.append(True))
    assert not work.turn() and not loop.waiting
    waiting.set(7)
    waiting.set(8)
    assert not seen
    loop.turn()
    assert seen == [7] and done == [True]


def test_what_is_there_already_is_not_waited_for_and_an_end_cancels_the_waiting() -> None:
    loop, ready, never = Loop(), Waiting(), Waiting()
    ready.set(1)

    def steps() -> Steps[None]:
        yield ready
        yield never

    work = Work(steps(), loop.call_later, lambda: None)
    assert not work.turn()
    work.cancel()
    never.set(2)
    assert not loop.waiting
    called: list[int] = []
    ready.when_done(lambda: called.append(1))
    assert called == [1]


def test_cancelled_work_whose_result_is_still_to_come_keeps_nothing_of_its_owner() -> None:
    class Owner(Loop):
        def done(self) -> None:
            """Not called."""

    def steps() -> Steps[None]:
        yield result

    result, owner = Waiting(), Owner()
    work = Work(steps(), owner.call_later, owner.done)
    assert not work.turn()
    work.cancel()
    known = weakref.ref(owner)
    del work, owner
    assert known() is None
    result.set(1)
