"""Work for later turns: its share of one turn, its order, and steps that fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relayd import clock
from relayd.work_queue import SHARE_S, WorkQueue


class Loop:
    """Turns by hand, and a clock that only steps move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.scheduled: list[Callable[[], None]] = []

    def schedule(self, call: Callable[[], None]) -> None:
        self.scheduled.append(call)

    def turn(self) -> None:
        ready, self.scheduled = self.scheduled, []
        for call in ready:
            call()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(clock, "monotonic", lambda: made.now_s)
    return made


def test_all_work_together_gets_one_share_of_a_turn(loop: Loop) -> None:
    queue, done = WorkQueue(loop.schedule), [0]

    def step() -> None:
        done[0] += 1
        loop.now_s += SHARE_S / 3.5

    for _ in range(10):
        queue.put(step)
    assert len(loop.scheduled) == 1
    counts = []
    while loop.scheduled:
        loop.turn()
        counts.append(done[0])
    assert counts == [4, 8, 10]


def test_a_step_that_puts_itself_again_goes_behind_the_others(loop: Loop) -> None:
    queue, order = WorkQueue(loop.schedule), list[str]()

    def greedy() -> None:
        order.append("greedy")
        if len(order) < 6:
            queue.put(greedy)

    queue.put(greedy)
    queue.put(lambda: order.append("modest"))
    while loop.scheduled:
        loop.turn()
    assert order[:2] == ["greedy", "modest"] and len(order) == 6


def test_a_step_that_raises_ends_only_itself(loop: Loop) -> None:
    queue, done = WorkQueue(loop.schedule), list[int]()
    queue.put(lambda: 1 // 0)  # type: ignore[arg-type]
    queue.put(lambda: done.append(1))
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert done == [1]
    queue.put(lambda: done.append(2))
    loop.turn()
    assert done == [1, 2]
