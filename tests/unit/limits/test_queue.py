"""The order of grants: priority, ageing, fair shares, arrival."""

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
        rig.held = rig.acquire(by)  # type: ignore[attr-defined]
    return rig


def order(rig: Rig) -> list[str]:
    """Release every permit as soon as it was granted; the consumers in order of their grants."""
    rig.then = rig.gate.release
    rig.gate.release(rig.held)  # type: ignore[attr-defined]
    return [ticket.consumer for ticket in rig.granted]


def test_one_consumer_is_served_in_the_order_of_arrival() -> None:
    rig = full()
    tickets = [rig.acquire("a") for _ in range(5)]
    order(rig)
    assert rig.granted == tickets


def test_consumers_take_turns_however_many_one_of_them_has_waiting() -> None:
    rig = full()
    for consumer in "aaaaab":
        rig.acquire(consumer)
    assert order(rig) == list("abaaaa")


def test_the_consumer_with_the_fewest_permits_is_next() -> None:
    rig = Rig(4, 10)
    first = [rig.acquire(consumer) for consumer in "aaab"]
    for consumer in "aab":
        rig.acquire(consumer)
    rig.gate.release(first[0])
    rig.gate.release(first[1])
    assert [ticket.consumer for ticket in rig.granted] == ["b", "a"]


def test_a_new_flow_queues_behind_those_already_waiting() -> None:
    rig = full()
    rig.acquire("a")
    rig.acquire("a")
    rig.acquire("b")
    rig.gate.release(rig.held)  # type: ignore[attr-defined]
    rig.gate.release(rig.granted[-1])  # a is served, b is
    rig.acquire("c")
    rig.gate.release(rig.granted[-1])
    rig.acquire("b")
    rig.gate.release(rig.granted[-1])
    assert [ticket.consumer for ticket in rig.granted] == ["a", "b", "a", "c"]


def test_a_higher_priority_goes_first() -> None:
    rig = full()
    for consumer, priority in (("low", -1), ("usual", 0), ("high", 5)):
        rig.acquire(consumer, priority)
    assert order(rig) == ["high", "usual", "low"]


def test_each_interval_of_waiting_raises_a_flow_by_one() -> None:
    rig = full(ageing_s=10)
    rig.acquire("low", 0)
    rig.clock.now_s += 19.9
    rig.acquire("high", 2)
    assert next(iter(rig.gate.waiters(1)))["consumer"] == "high"
    rig.clock.now_s += 10.2
    rig.acquire("newcomer", 2)
    assert [one["consumer"] for one in rig.gate.waiters(3)] == ["low", "high", "newcomer"]
    assert order(rig) == ["low", "high", "newcomer"]


def test_a_grant_resets_the_level_that_ageing_raised() -> None:
    rig = full(ageing_s=10)
    rig.acquire("low", 0)
    rig.acquire("low", 0)
    rig.clock.now_s += 35
    rig.acquire("high", 2)
    rig.acquire("high", 2)
    assert order(rig) == ["low", "high", "high", "low"]


def test_a_flow_without_capacity_is_skipped_and_keeps_its_order() -> None:
    rig = full()
    rooms = {"a": False, "b": True}
    rig.acquire("a", has_capacity=lambda: rooms["a"])
    rig.acquire("b", has_capacity=lambda: rooms["b"])
    rig.acquire("b", has_capacity=lambda: rooms["b"])
    rig.gate.release(rig.held)  # type: ignore[attr-defined]
    assert [ticket.consumer for ticket in rig.granted] == ["b"]
    rooms["a"] = True
    rig.gate.release(rig.granted[-1])
    assert [ticket.consumer for ticket in rig.granted] == ["b", "a"]


def test_a_shared_capacity_check_is_called_once() -> None:
    rig = full()
    asked = []

    def has_capacity() -> bool:
        asked.append(1)
        return False

    for number in range(100):
        rig.acquire(f"c{number}", has_capacity=has_capacity)
    asked.clear()
    rig.gate.release(rig.held)  # type: ignore[attr-defined]
    assert (len(asked), rig.gate.depth) == (1, 100)


def test_a_failing_capacity_check_is_called_once_however_many_flows_use_it() -> None:
    rig = full()
    asked = []

    def closed() -> bool:
        asked.append(1)
        return False

    for number in range(20):
        rig.acquire(f"c{number}", has_capacity=closed)
    rig.acquire("last", has_capacity=lambda: True)
    asked.clear()
    rig.gate.release(rig.held)  # type: ignore[attr-defined]
    assert [ticket.consumer for ticket in rig.granted] == ["last"]
    assert len(asked) == 1


def test_a_sum_of_rounded_times_does_not_stop_the_clock() -> None:
    rig = full(ageing_s=0.1)
    rig.clock.now_s = 0.1
    rig.acquire("a")
    for step in range(1, 200):
        rig.clock.now_s = 0.1 + step * 0.1
        assert rig.gate.waiters(1)


WAITERS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=30)
HELD = st.lists(st.sampled_from("abcd"), min_size=1, max_size=10)


@given(HELD, WAITERS)
def test_the_reported_order_is_the_order_of_the_grants(held: list[str], waiters: list[tuple[str, int, int]]) -> None:
    """No ticket is released, permits are added one by one: grants follow in_order and position."""
    rig = Rig(len(held), 1000, ageing_s=10)
    for consumer in held:
        rig.acquire(consumer)
    for consumer, priority, later_s in waiters:
        rig.clock.now_s += later_s
        rig.acquire(consumer, priority)
    queue = rig.gate._queue
    reported = list(queue.in_order(rig.clock.now_s))
    assert sorted(map(id, reported)) == sorted(map(id, queue))
    for more in range(1, len(waiters) + 1):
        assert rig.gate.position(next(iter(queue))) >= 1
        rig.gate.configure(GateLimits(len(held) + more, 1000, 0.0, 10.0))
    assert rig.granted == reported


@given(HELD, st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), min_size=1, max_size=30))
def test_the_position_is_the_number_of_the_grant(held: list[str], waiters: list[tuple[str, int]]) -> None:
    rig = Rig(len(held), 1000)
    for consumer in held:
        rig.acquire(consumer)
    queue = rig.gate._queue
    for consumer, priority in waiters:
        expected = queue.position_of_newcomer(consumer, priority, None, rig.clock.now_s)
        ticket = rig.acquire(consumer, priority)
        assert rig.gate.position(ticket) == expected
    reported = list(queue.in_order(rig.clock.now_s))
    assert [rig.gate.position(ticket) for ticket in reported] == list(range(1, len(reported) + 1))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), min_size=1, max_size=12, unique=True),
    st.integers(0, 3), st.floats(0.5, 30), st.integers(1, 3),
)
def test_no_flow_starves_beyond_the_bound(
    others: list[tuple[str, int]], mine: int, step_s: float, requests: int
) -> None:
    """All other lines are refilled for ever; after (q - p + 1) * ageing each of them goes before me once at most."""
    ageing_s = 10.0
    rig = Rig(requests, 10_000, ageing_s=ageing_s)
    held = [rig.acquire("z") for _ in range(requests)]
    for consumer, priority in others:
        rig.acquire(consumer, priority)
    me, began_s = rig.acquire("me", mine), rig.clock.now_s
    bound_s = (max(priority for _, priority in others) - mine + 1) * ageing_s
    late = 0
    while me not in rig.granted:
        rig.clock.now_s += step_s
        known = len(rig.granted)
        rig.gate.release(held.pop(0))
        ticket = rig.granted[known]
        held.append(ticket)
        if ticket is not me:
            assert isinstance(ticket, Waiter)
            late += rig.clock.now_s - began_s >= max(bound_s, 0.0)
            rig.acquire(ticket.consumer, ticket.priority)
        assert late <= len(others)


def test_stale_heap_entries_do_not_accumulate() -> None:
    permits = Permits(1)
    queue = WaitingQueue(permits, 10.0)

    def waiter(consumer: str) -> Waiter:
        return Waiter(consumer, 0, 0.0, None, lambda ticket: None, lambda ticket, reason, seconds: None, None)

    queue.enqueue(waiter("a"), 0.0)
    for _ in range(5000):
        queue.reprioritise("a")
        queue.enqueue(one := waiter("b"), 0.0)
        queue.remove(one)
    assert len(queue._order) < 200
    assert len(queue._due) < 200
    assert queue.depth == 1


@pytest.mark.parametrize(("priority", "consumer", "evicted"), [
    (1, "c", "a"),  # a higher priority evicts the newest request of the consumer with the most at the lowest
    (0, "c", "a"),  # the same priority, but nothing waiting of its own
    (0, "b", "a"), (0, "a", None), (-1, "c", None),
])
def test_the_eviction_candidate(priority: int, consumer: str, evicted: str | None) -> None:
    rig = full()
    tickets = {number: rig.acquire(one) for number, one in enumerate("aabaa")}
    found = rig.gate._queue.eviction_candidate(priority, consumer)
    assert (found.consumer if found else None) == evicted
    if found is not None:
        assert found is tickets[4]
