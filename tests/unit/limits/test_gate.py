"""A gate: permits, queue entries, callbacks and refusals, none of which is ever lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.limits.gate import Gate, GateLimits
from relayd.limits.ticket import GRANTED, REFUSED, RELEASED, WAITING, Refused, Ticket
from tests.unit.limits.gate_rig import Rig


def test_a_free_permit_is_granted_immediately_without_a_callback() -> None:
    rig = Rig(2)
    assert [rig.acquire("a").state, rig.acquire("b").state] == [GRANTED, GRANTED]
    assert (rig.gate.in_flight, rig.granted, rig.refused) == (2, [], [])


def test_a_released_permit_is_passed_on_in_the_same_call() -> None:
    rig = Rig(1)
    first, second = rig.acquire("a"), rig.acquire("a")
    assert (second.state, rig.gate.depth) == (WAITING, 1)
    rig.clock.now_s += 3
    rig.gate.release(first)
    assert (second.state, rig.granted, rig.gate.in_flight, rig.gate.depth) == (GRANTED, [second], 1, 0)
    assert second.waited_s == pytest.approx(3)


def test_releasing_twice_releases_once() -> None:
    rig = Rig(2)
    first = rig.acquire("a")
    rig.acquire("a")
    rig.gate.release(first)
    rig.gate.release(first)
    assert rig.gate.in_flight == 1


def test_a_released_waiting_ticket_frees_its_queue_entry_and_gets_no_callback() -> None:
    rig = Rig(1, queue=1)
    first, second = rig.acquire("a"), rig.acquire("a")
    rig.gate.release(second)
    assert (second.state, rig.gate.depth, rig.gate.counts.left_waiting) == (RELEASED, 0, 1)
    third = rig.acquire("a")
    rig.gate.release(first)
    assert rig.granted == [third]


def test_a_full_queue_refuses() -> None:
    rig = Rig(1, queue=2)
    for _ in range(3):
        rig.acquire("a")
    with pytest.raises(Refused) as caught:
        rig.acquire("a")
    assert caught.value.reason == "queue_full"
    assert (rig.gate.depth, rig.gate.counts.refused["queue_full"]) == (2, 1)


def test_a_request_without_callbacks_does_not_wait() -> None:
    gate = Gate("e", GateLimits(1, 10))
    ticket = gate.acquire("a")
    with pytest.raises(Refused):
        gate.acquire("a")
    gate.release(ticket)
    assert gate.acquire("a").state == GRANTED


def test_without_limits_every_request_is_granted_and_counted() -> None:
    rig = Rig(0, queue=0)
    tickets = [rig.acquire("a") for _ in range(100)]
    assert rig.gate.in_flight == 100
    for ticket in tickets:
        rig.gate.release(ticket)
    assert rig.gate.in_flight == 0


def test_a_queue_full_of_one_consumer_evicts_its_newest_request_for_another() -> None:
    rig = Rig(1, queue=3)
    rig.acquire("greedy")
    waiting = [rig.acquire("greedy") for _ in range(3)]
    modest = rig.acquire("modest")
    assert modest.state == WAITING
    assert [(ticket, reason) for ticket, reason, _ in rig.refused] == [(waiting[2], "shed")]
    assert waiting[2].state == REFUSED
    assert rig.acquire("modest2").state == WAITING
    with pytest.raises(Refused):  # everybody has one by now
        rig.acquire("modest3")
    assert rig.gate.depth == 3


def test_a_full_queue_evicts_for_a_higher_priority_but_not_for_a_lower_one() -> None:
    rig = Rig(1, queue=1)
    rig.acquire("a")
    low = rig.acquire("a", -5)
    with pytest.raises(Refused):
        rig.acquire("b", -6)
    high = rig.acquire("a", 1)
    assert (low.state, high.state) == (REFUSED, WAITING)


def test_an_evicted_request_that_retries_at_once_causes_no_loop() -> None:
    rig = Rig(1, queue=3)
    for _ in range(4):
        rig.acquire("greedy")
    again: list[Ticket] = []
    rig.then = lambda ticket: again.append(rig.acquire("greedy")) if ticket.state == REFUSED else None
    with pytest.raises(Refused):
        rig.acquire("modest")
    assert (rig.gate.depth, len(again)) == (3, 1)


def test_a_raised_limit_grants_immediately_and_a_lowered_one_revokes_nothing() -> None:
    rig = Rig(1, queue=9)
    tickets = [rig.acquire("a") for _ in range(5)]
    rig.gate.configure(GateLimits(3, 9))
    assert rig.granted == tickets[1:3]
    rig.gate.configure(GateLimits(1, 0))
    assert (rig.gate.in_flight, rig.gate.depth) == (3, 2)
    rig.gate.release(tickets[0])
    rig.gate.release(tickets[1])
    assert len(rig.granted) == 2
    rig.gate.release(tickets[2])
    assert (len(rig.granted), rig.gate.in_flight, rig.gate.depth) == (3, 1, 1)
    rig.gate.configure(GateLimits(0, 0))
    assert rig.gate.depth == 0


def test_a_request_that_waits_longer_than_the_queue_timeout_is_refused_by_the_sweep() -> None:
    rig = Rig(1, queue_timeout_s=30)
    rig.acquire("a")
    early = rig.acquire("a")
    rig.clock.now_s += 10
    rig.acquire("a")
    rig.clock.now_s += 20
    rig.gate.sweep(rig.clock.now_s)
    assert [(ticket, reason) for ticket, reason, _ in rig.refused] == [(early, "queue_timeout")]
    assert (early.state, early.waited_s, rig.gate.depth) == (REFUSED, 30, 1)


def test_a_deadline_that_has_passed_refuses() -> None:
    rig = Rig(1)
    rig.acquire("a")
    waiting = rig.acquire("a", deadline_s=rig.clock.now_s + 2)
    rig.gate.sweep(rig.clock.now_s + 1.9)
    assert rig.refused == []
    rig.gate.sweep(rig.clock.now_s + 2)
    assert [(ticket, reason) for ticket, reason, _ in rig.refused] == [(waiting, "deadline")]
    with pytest.raises(Refused) as caught:
        rig.acquire("a", deadline_s=rig.clock.now_s - 1)
    assert caught.value.reason == "deadline"


def measured(rig: Rig, held_s: float, times: int = 10) -> None:
    for _ in range(times):
        ticket = rig.acquire("before")
        rig.clock.now_s += held_s
        rig.gate.release(ticket)


def test_a_deadline_that_cannot_be_met_refuses_early_with_retry_after() -> None:
    rig = Rig(1, queue=100)
    measured(rig, 10)
    for _ in range(5):
        rig.acquire("a")
    with pytest.raises(Refused) as caught:
        rig.acquire("a", deadline_s=rig.clock.now_s + 20)
    assert caught.value.reason == "deadline"
    assert caught.value.retry_after_s == pytest.approx(50)
    assert rig.acquire("a", deadline_s=rig.clock.now_s + 60).state == WAITING
    # Another consumer is the next but one, whatever the greedy one has waiting.
    assert rig.acquire("b", deadline_s=rig.clock.now_s + 20).state == WAITING


def test_a_request_that_would_exceed_the_queue_timeout_is_refused_on_arrival() -> None:
    rig = Rig(1, queue=100, queue_timeout_s=30)
    measured(rig, 10)
    for _ in range(4):
        rig.acquire("a")
    with pytest.raises(Refused) as caught:
        for _ in range(20):
            rig.acquire("a")
    assert caught.value.reason == "deadline"
    assert 3 <= rig.gate.depth <= 8


def test_no_request_is_refused_for_an_estimate_from_few_samples() -> None:
    rig = Rig(1, queue=100)
    measured(rig, 10, times=3)
    rig.acquire("a")
    assert rig.acquire("a", deadline_s=rig.clock.now_s + 1).state == WAITING


def test_a_request_waits_for_capacity_and_wake_grants_it() -> None:
    rig, rooms = Rig(0, queue=5), list[int]()
    waiting = rig.acquire("a", has_capacity=lambda: bool(rooms))
    assert (waiting.state, rig.gate.in_flight) == (WAITING, 0)
    rig.gate.wake()
    assert rig.granted == []
    rooms.append(1)
    rig.gate.wake()
    assert rig.granted == [waiting]


def test_capacity_that_appears_without_wake_goes_to_the_waiting_request_first() -> None:
    rig, rooms = Rig(1, queue=5), list[int]()
    waiting = rig.acquire("a", has_capacity=lambda: bool(rooms))
    rooms.append(1)
    newcomer = rig.acquire("b", has_capacity=lambda: bool(rooms))
    assert (rig.granted, newcomer.state) == ([waiting], WAITING)


def test_a_request_with_capacity_does_not_wait_behind_requests_without() -> None:
    rig = Rig(1, queue=5)
    rig.acquire("a", has_capacity=lambda: False)
    assert rig.acquire("b", has_capacity=lambda: True).state == GRANTED


def test_a_long_queue_of_requests_released_at_once_does_not_recurse() -> None:
    rig = Rig(1, queue=20_000)
    first = rig.acquire("a")
    for _ in range(20_000):
        rig.acquire("a")
    rig.then = rig.gate.release
    rig.gate.release(first)
    assert (len(rig.granted), rig.gate.in_flight, rig.gate.depth) == (20_000, 0, 0)


def test_an_exception_of_a_callback_costs_no_other_request_its_turn() -> None:
    rig = Rig(2, queue=5)
    first = [rig.acquire("a"), rig.acquire("a")]
    broken, other = rig.acquire("a"), rig.acquire("a")

    def fail(ticket: Ticket) -> None:
        if ticket is broken:
            rig.gate.release(first[1])
            raise ValueError("broken")

    rig.then = fail
    with pytest.raises(ValueError, match="broken"):
        rig.gate.release(first[0])
    assert (broken.state, other.state) == (GRANTED, WAITING)
    rig.gate.sweep(rig.clock.now_s)
    assert other.state == GRANTED


def test_a_request_made_in_a_callback_overtakes_no_other() -> None:
    """The callback frees a second permit and comes in again: that permit is for the next in line."""
    rig = Rig(2, queue=9)
    first = [rig.acquire("a"), rig.acquire("a")]
    waiting = [rig.acquire("a"), rig.acquire("a")]
    came: list[Ticket] = []

    def again(ticket: Ticket) -> None:
        if ticket is waiting[0]:
            rig.gate.release(first[1])
            came.append(rig.acquire("a"))
            assert came[0].state == WAITING

    rig.then = again
    rig.gate.release(first[0])
    assert rig.granted == waiting
    assert rig.gate.depth == 1


def test_the_callback_of_a_late_request_may_release_another() -> None:
    rig = Rig(1, queue=9, queue_timeout_s=5)
    rig.acquire("a")
    pair = [rig.acquire("a"), rig.acquire("a")]

    def both_release(ticket: Ticket) -> None:
        for one in pair:
            rig.gate.release(one)

    rig.then = both_release
    rig.clock.now_s += 6
    rig.gate.sweep(rig.clock.now_s)
    assert [ticket for ticket, _, _ in rig.refused] == pair[:1]
    assert ([one.state for one in pair], rig.gate.depth) == ([REFUSED, RELEASED], 0)


def test_a_request_does_not_wait_if_the_evicted_one_releases_a_permit() -> None:
    rig = Rig(1, queue=1)
    first = rig.acquire("a")
    rig.acquire("a", -1)
    rig.then = lambda ticket: rig.gate.release(first)
    assert rig.acquire("b", 1).state == GRANTED
    assert rig.gate.depth == 0


def test_a_permit_acquired_past_requests_without_capacity_counts_for_its_consumer() -> None:
    rig, rooms = Rig(9, queue=9), list[int]()
    for consumer in "ab":
        rig.acquire(consumer, has_capacity=lambda: bool(rooms))
    rig.acquire("a")
    rooms.append(1)
    rig.gate.wake()
    assert [ticket.consumer for ticket in rig.granted] == ["b", "a"]


def test_a_lowered_limit_raises_the_estimated_wait() -> None:
    rig = Rig(4, queue=9)
    measured(rig, 10)
    for _ in range(4):
        rig.acquire("a")
    before_s = rig.gate.wait_s(1)
    rig.gate.configure(GateLimits(1, 9))
    assert before_s == pytest.approx(2.5)
    assert rig.gate.wait_s(1) == pytest.approx(10)


def test_counts_and_description_match_the_events() -> None:
    rig = Rig(1, queue=2)
    first = rig.acquire("a")
    rig.acquire("b")
    rig.acquire("b")
    with pytest.raises(Refused):
        rig.acquire("b")
    rig.clock.now_s += 2
    reported = rig.gate.describe()
    assert (reported["in_flight"], reported["depth"], reported["oldest_wait_s"]) == (1, 2, 2.0)
    assert (reported["in_flight_of"], reported["waiting_of"]) == ({"a": 1}, {"b": 2})
    assert [(one["place"], one["consumer"], one["waited_s"]) for one in rig.gate.waiters(9)] == [(1, "b", 2.0), (2, "b", 2.0)]
    rig.gate.release(first)
    counts = rig.gate.counts
    assert (counts.granted_at_once, counts.queued, counts.waited, counts.waited_total_s, counts.most_waiting) == (1, 2, 1, 2.0, 2)


class GateMachine(RuleBasedStateMachine):
    """Anything in any order, also from within callbacks; after each step nothing is lost, doubled or left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(1, 3, 30.0, 5.0)
        self.gate = self.rig.gate
        self.open = {"x": True, "y": True}
        self.rooms = {"x": lambda: self.open["x"], "y": lambda: self.open["y"], None: None}
        self.all: list[Ticket] = []
        self.waited: set[int] = set()
        self.calls: dict[int, list[str]] = {}
        self.left_waiting: set[int] = set()
        self.script: list[str] = []
        self.lowered = False

    def _acquire(self, consumer: str, priority: int, deadline_s: float | None, has_capacity: str | None) -> None:
        before = {id(one) for one in self.all}
        try:
            ticket = self.gate.acquire(consumer, priority, deadline_s, self._granted, self._refused, self.rooms[has_capacity])
        except Refused as refused:
            assert refused.retry_after_s >= 0
            return
        assert id(ticket) not in before
        assert id(ticket) not in self.calls, "called before it was returned"
        assert ticket.state in (GRANTED, WAITING)
        self.all.append(ticket)
        if ticket.state == WAITING:
            self.waited.add(id(ticket))
        else:
            self._within_limit()

    def _within_limit(self) -> None:
        limit = self.gate.limits.requests
        assert not limit or self.gate.in_flight <= limit

    def _granted(self, ticket: Ticket) -> None:
        assert ticket.state == GRANTED
        self._within_limit()
        self.calls.setdefault(id(ticket), []).append("granted")
        self._act(ticket)

    def _refused(self, ticket: Ticket, reason: str, retry_after_s: float) -> None:
        assert ticket.state == REFUSED
        assert retry_after_s >= 0
        self.calls.setdefault(id(ticket), []).append(reason)
        self._act(ticket)

    def _act(self, ticket: Ticket) -> None:
        """What a callback does besides."""
        word = self.script.pop() if self.script else ""
        if word == "leave":
            self._release(ticket)
        elif word == "enter":
            self._acquire("c", 0, None, None)
        elif word == "leave another" and self.all:
            self._release(self.all[len(self.all) // 2])
        elif word == "sweep":
            self.gate.sweep(self.rig.clock.now_s)

    def _release(self, ticket: Ticket) -> None:
        if ticket.state == WAITING:
            self.left_waiting.add(id(ticket))
        self.gate.release(ticket)
        assert ticket.state in (RELEASED, REFUSED)

    @rule(
        consumer=st.sampled_from("ab"), priority=st.integers(-1, 1), within_s=st.none() | st.floats(-1, 40),
        has_capacity=st.sampled_from([None, None, "x", "y"]),
    )
    def acquire(self, consumer: str, priority: int, within_s: float | None, has_capacity: str | None) -> None:
        self._acquire(consumer, priority, None if within_s is None else self.rig.clock.now_s + within_s, has_capacity)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._release(self.all[data.draw(st.integers(0, len(self.all) - 1))])

    @rule(requests=st.integers(0, 4), queue=st.integers(0, 5), queue_timeout_s=st.sampled_from([0.0, 3.0, 30.0]))
    def configure(self, requests: int, queue: int, queue_timeout_s: float) -> None:
        self.gate.configure(GateLimits(requests, queue, queue_timeout_s, 5.0))
        self.lowered = True

    @rule(later_s=st.sampled_from([0.0, 0.5, 4.0, 40.0]), swept=st.booleans())
    def time(self, later_s: float, swept: bool) -> None:
        self.rig.clock.now_s += later_s
        if swept:
            self.gate.sweep(self.rig.clock.now_s)

    @rule(name=st.sampled_from("xy"), state=st.booleans())
    def has_capacity(self, name: str, state: bool) -> None:
        self.open[name] = state
        self.gate.wake()

    @rule(words=st.lists(st.sampled_from(["", "leave", "enter", "leave another", "sweep"]), max_size=4))
    def callbacks_will(self, words: list[str]) -> None:
        self.script = words

    @invariant()
    def nothing_is_lost(self) -> None:
        gate, states = self.gate, [ticket.state for ticket in self.all]
        assert gate.in_flight == states.count(GRANTED)
        assert gate.depth == states.count(WAITING) == len(list(gate._queue))
        held = gate.describe()["in_flight_of"]
        assert isinstance(held, dict)
        assert sum(held.values()) == gate.in_flight
        assert all(held.values())
        assert self.lowered or gate.depth <= gate.limits.queue

    @invariant()
    def no_turn_is_forgotten(self) -> None:
        if self.gate.free:
            for waiter in self.gate._queue:
                assert waiter.has_capacity is not None
                assert not waiter.has_capacity(), "a permit and capacity are free, but the request waits"

    @invariant()
    def each_waiter_is_called_once(self) -> None:
        for ticket in self.all:
            calls, waited = self.calls.get(id(ticket), []), id(ticket) in self.waited
            if not waited or ticket.state == WAITING or id(ticket) in self.left_waiting:
                assert calls == []
            else:
                assert len(calls) == 1
                assert (calls == ["granted"]) is (ticket.state != REFUSED)

    def teardown(self) -> None:
        self.script = []
        for ticket in self.all:
            self.gate.release(ticket)
        assert (self.gate.in_flight, self.gate.depth) == (0, 0)
        queue = self.gate._queue
        assert not queue._flows
        assert not queue._flows_of
        assert not queue._capacity_checks
        assert not queue._counts_by_priority


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_try_acquire_never_overtakes_a_waiting_request() -> None:
    gate = Gate("g", GateLimits(requests=1, queue=1))
    assert gate.try_acquire("a", lambda: False) is None
    ticket = gate.try_acquire("a")
    assert ticket is not None and gate.in_flight == 1
    assert gate.try_acquire("b") is None
    waiting = gate.acquire("b", on_granted=lambda ticket: None, on_refused=lambda ticket, reason, after_s: None)
    gate.configure(GateLimits(requests=1, queue=1))
    gate.release(ticket)
    assert (waiting.state, gate.in_flight) == ("granted", 1)
    assert gate.counts.granted_at_once == 1


def test_a_gate_grants_up_to_its_share_of_a_shared_limit() -> None:
    rig = Rig()
    rig.gate.configure(GateLimits(4, 10, shared=True))
    tickets = [rig.acquire() for _ in range(4)]
    assert rig.gate.in_flight == 4, "without a known share it has all"
    rig.gate.set_share(0)
    waiting = rig.acquire()
    for ticket in tickets:
        rig.gate.release(ticket)
    assert waiting.state == WAITING and rig.gate.in_flight == 0 and rig.gate.wait_s(1) == 0.0
    assert rig.gate.try_acquire("") is None
    rig.gate.set_share(1)
    assert rig.granted == [waiting] and rig.gate.describe()["share"] == 1
    rig.acquire()
    assert rig.gate.depth == 1
    rig.gate.configure(GateLimits(4, 10))
    assert rig.gate.depth == 0, "no longer shared"
