"""Requests that wait for room in one window."""

from __future__ import annotations

from relayd.limits.rate_queue import RateQueue

FIRST, SECOND, THIRD, OTHER = object(), object(), object(), object()
ALL = (FIRST, SECOND, THIRD, OTHER)


class Rig:
    """A queue in which three requests wait for 1, 2 and 3; `called` are those whose turn it was."""

    def __init__(self) -> None:
        self.queue, self.called = RateQueue(), list[object]()
        for amount, one in enumerate((FIRST, SECOND, THIRD), 1):
            self.queue.join(one, amount, lambda one=one: self.called.append(one))  # type: ignore[misc]


def test_only_the_first_request_is_called_and_the_next_one_when_it_leaves() -> None:
    rig = Rig()
    rig.queue.wake()
    rig.queue.wake()
    assert rig.called == [FIRST, FIRST]
    rig.queue.leave(FIRST)
    assert rig.called == [FIRST, FIRST, SECOND] and len(rig.queue) == 2


def test_a_request_that_gives_up_in_the_middle_calls_nobody() -> None:
    rig = Rig()
    rig.queue.leave(SECOND)
    assert rig.called == []
    rig.queue.leave(FIRST)
    assert rig.called == [THIRD]


def test_only_requests_that_arrived_earlier_are_before_one() -> None:
    rig = Rig()
    assert [rig.queue.is_behind(one) for one in ALL] == [False, True, True, True]
    assert [rig.queue.amount_before(one) for one in ALL] == [0, 1, 3, 6]
    assert not RateQueue().is_behind(OTHER) and RateQueue().amount_before(OTHER) == 0


def test_waiting_again_keeps_the_place() -> None:
    rig = Rig()
    rig.queue.join(FIRST, 9, lambda: rig.called.append(OTHER))
    assert len(rig.queue) == 3 and rig.queue.amount_before(SECOND) == 1
    rig.queue.wake()
    assert rig.called == [FIRST]


def test_leaving_twice_and_waking_nobody_have_no_effect() -> None:
    rig = Rig()
    for one in (FIRST, FIRST, SECOND, THIRD, THIRD):
        rig.queue.leave(one)
    rig.queue.wake()
    assert rig.called == [SECOND, THIRD] and len(rig.queue) == 0
