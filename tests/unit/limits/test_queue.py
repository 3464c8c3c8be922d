"""Whose turn it is: priority, ageing, fair shares, arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.gate import GateLimits
from relayd.limits.permits import Permits
from relayd.limits.queue import WaitingQueue
from relayd.limits.ticket import Waiter
from tests.unit.limits.gate_rig import Rig


def full(requests: int = 1, by: str = "holder", **words: float) -> Rig:
    """A gate whose permits are all taken."""
    rig = Rig(requests, 1000, **words)
    for _ in range(requests):
        rig.held = rig.enter(by)  # type: ignore[attr-defined]
    return rig


def order(rig: Rig) -> list[str]:
    """Give every permit back as soon as it was granted; who came in which order."""
    rig.then = rig.gate.leave
    rig.gate.leave(rig.held)  # type: ignore[attr-defined]
    return [ticket.who for ticket in rig.granted]


def test_one_consumer_is_served_in_the_order_of_arrival() -> None:
    rig = full()
    tickets = [rig.enter("a") for _ in range(5)]
    order(rig)
    assert rig.granted == tickets


def test_consumers_take_turns_however_many_one_of_them_has_waiting() -> None:
    rig = full()
    for who in "aaaaab":
        rig.enter(who)
    assert order(rig) == list("abaaaa")


def test_the_one_with_the_fewest_permits_is_next() -> None:
    rig = Rig(4, 10)
    first = [rig.enter(who) for who in "aaab"]
    for who in "aab":
        rig.enter(who)
    rig.gate.leave(first[0])
    rig.gate.leave(first[1])
    assert [ticket.who for ticket in rig.granted] == ["b", "a"]


def test_who_comes_back_stands_behind_those_who_waited_meanwhile() -> None:
    rig = full()
    rig.enter("a")
    rig.enter("a")
    rig.enter("b")
    rig.gate.leave(rig.held)  # type: ignore[attr-defined]
    rig.gate.leave(rig.granted[-1])  # a is served, b is
    rig.enter("c")
    rig.gate.leave(rig.granted[-1])
    rig.enter("b")
    rig.gate.leave(rig.granted[-1])
    assert [ticket.who for ticket in rig.granted] == ["a", "b", "a", "c"]


def test_a_higher_priority_goes_first() -> None:
    rig = full()
    for who, priority in (("low", -1), ("usual", 0), ("high", 5)):
        rig.enter(who, priority)
    assert order(rig) == ["high", "usual", "low"]


def test_waiting_raises_a_line_by_one_for_each_span() -> None:
    rig = full(ageing_s=10)
    rig.enter("low", 0)
    rig.clock.now_s += 19.9
    rig.enter("high", 2)
    assert next(iter(rig.gate.waiters(1)))["consumer"] == "high"
    rig.clock.now_s += 10.2
    rig.enter("newcomer", 2)
    assert [one["consumer"] for one in rig.gate.waiters(3)] == ["low", "high", "newcomer"]
    assert order(rig) == ["low", "high", "newcomer"]


def test_a_turn_ends_what_ageing_has_given() -> None:
    rig = full(ageing_s=10)
    rig.enter("low", 0)
    rig.enter("low", 0)
    rig.clock.now_s += 35
    rig.enter("high", 2)
    rig.enter("high", 2)
    assert order(rig) == ["low", "high", "high", "low"]


def test_who_has_no_room_is_passed_over_and_loses_nothing() -> None:
    rig = full()
    rooms = {"a": False, "b": True}
    rig.enter("a", room=lambda: rooms["a"])
    rig.enter("b", room=lambda: rooms["b"])
    rig.enter("b", room=lambda: rooms["b"])
    rig.gate.leave(rig.held)  # type: ignore[attr-defined]
    assert [ticket.who for ticket in rig.granted] == ["b"]
    rooms["a"] = True
    rig.gate.leave(rig.granted[-1])
    assert [ticket.who for ticket in rig.granted] == ["b", "a"]


def test_room_is_asked_once_for_all_who_share_it() -> None:
    rig = full()
    asked = []

    def room() -> bool:
        asked.append(1)
        return False

    for number in range(100):
        rig.enter(f"c{number}", room=room)
    asked.clear()
    rig.gate.leave(rig.held)  # type: ignore[attr-defined]
    assert (len(asked), rig.gate.depth) == (1, 100)


def test_a_room_that_is_closed_is_asked_once_however_many_others_there_are() -> None:
    rig = full()
    asked = []

    def closed() -> bool:
        asked.append(1)
        return False

    for number in range(20):
        rig.enter(f"c{number}", room=closed)
    rig.enter("last", room=lambda: True)
    asked.clear()
    rig.gate.leave(rig.held)  # type: ignore[attr-defined]
    assert [ticket.who for ticket in rig.granted] == ["last"]
    assert len(asked) == 1


def test_a_sum_of_rounded_times_does_not_stop_the_clock() -> None:
    rig = full(ageing_s=0.1)
    rig.clock.now_s = 0.1
    rig.enter("a")
    for step in range(1, 200):
        rig.clock.now_s = 0.1 + step * 0.1
        assert rig.gate.waiters(1)


WAITERS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=30)
HELD = st.lists(st.sampled_from("abcd"), min_size=1, max_size=10)


@given(HELD, WAITERS)
def test_the_order_that_is_told_is_the_order_that_comes(held: list[str], waiters: list[tuple[str, int, int]]) -> None:
    """Nobody leaves, one permit after the other is added: turns come as in_order and place have said."""
    rig = Rig(len(held), 1000, ageing_s=10)
    for who in held:
        rig.enter(who)
    for who, priority, later_s in waiters:
        rig.clock.now_s += later_s
        rig.enter(who, priority)
    queue = rig.gate._queue
    told = list(queue.in_order(rig.clock.now_s))
    assert sorted(map(id, told)) == sorted(map(id, queue))
    for more in range(1, len(waiters) + 1):
        assert rig.gate.place(next(iter(queue))) >= 1
        rig.gate.configure(GateLimits(len(held) + more, 1000, 0.0, 10.0))
    assert rig.granted == told


@given(HELD, st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), min_size=1, max_size=30))
def test_the_place_is_the_number_of_the_turn(held: list[str], waiters: list[tuple[str, int]]) -> None:
    rig = Rig(len(held), 1000)
    for who in held:
        rig.enter(who)
    queue = rig.gate._queue
    for who, priority in waiters:
        expected = queue.place_of_newcomer(who, priority, None, rig.clock.now_s)
        ticket = rig.enter(who, priority)
        assert rig.gate.place(ticket) == expected
    told = list(queue.in_order(rig.clock.now_s))
    assert [rig.gate.place(ticket) for ticket in told] == list(range(1, len(told) + 1))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), min_size=1, max_size=12, unique=True),
    st.integers(0, 3), st.floats(0.5, 30), st.integers(1, 3),
)
def test_nobody_starves_beyond_the_bound(
    others: list[tuple[str, int]], mine: int, step_s: float, requests: int
) -> None:
    """All other lines are refilled for ever; after (q - p + 1) * ageing each of them goes before me once at most."""
    ageing_s = 10.0
    rig = Rig(requests, 10_000, ageing_s=ageing_s)
    held = [rig.enter("z") for _ in range(requests)]
    for who, priority in others:
        rig.enter(who, priority)
    me, began_s = rig.enter("me", mine), rig.clock.now_s
    bound_s = (max(priority for _, priority in others) - mine + 1) * ageing_s
    late = 0
    while me not in rig.granted:
        rig.clock.now_s += step_s
        known = len(rig.granted)
        rig.gate.leave(held.pop(0))
        ticket = rig.granted[known]
        held.append(ticket)
        if ticket is not me:
            assert isinstance(ticket, Waiter)
            late += rig.clock.now_s - began_s >= max(bound_s, 0.0)
            rig.enter(ticket.who, ticket.priority)
        assert late <= len(others)


def test_what_changes_leaves_no_heap_of_old_entries() -> None:
    permits = Permits(1)
    queue = WaitingQueue(permits, 10.0)

    def waiter(who: str) -> Waiter:
        return Waiter(who, 0, 0.0, None, lambda ticket: None, lambda ticket, reason, seconds: None, None)

    queue.join(waiter("a"), 0.0)
    for _ in range(5000):
        queue.weigh("a")
        queue.join(one := waiter("b"), 0.0)
        queue.remove(one)
    assert len(queue._order) < 200
    assert len(queue._due) < 200
    assert queue.depth == 1


@pytest.mark.parametrize(("priority", "who", "yields"), [
    (1, "c", "a"),  # a higher priority takes the last place of the largest crowd of the lowest
    (0, "c", "a"),  # the same priority, but nothing waiting of its own
    (0, "b", "a"), (0, "a", None), (-1, "c", None),
])
def test_who_gives_up_a_place(priority: int, who: str, yields: str | None) -> None:
    rig = full()
    tickets = {number: rig.enter(one) for number, one in enumerate("aabaa")}
    found = rig.gate._queue.last_to_come(priority, who)
    assert (found.who if found else None) == yields
    if found is not None:
        assert found is tickets[4]
