"""A gate: permits, places, callbacks, refusals; and that none of them is ever lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.limits.gate import Gate, GateLimits
from relayd.limits.ticket import GRANTED, LEFT, REFUSED, WAITING, Refused, Ticket
from tests.unit.limits.gate_rig import Rig


def test_what_is_free_is_granted_at_once_and_nobody_is_called() -> None:
    rig = Rig(2)
    assert [rig.enter("a").state, rig.enter("b").state] == [GRANTED, GRANTED]
    assert (rig.gate.in_flight, rig.granted, rig.refused) == (2, [], [])


def test_a_permit_given_back_is_passed_on_in_the_same_call() -> None:
    rig = Rig(1)
    first, second = rig.enter("a"), rig.enter("a")
    assert (second.state, rig.gate.depth) == (WAITING, 1)
    rig.clock.now_s += 3
    rig.gate.leave(first)
    assert (second.state, rig.granted, rig.gate.in_flight, rig.gate.depth) == (GRANTED, [second], 1, 0)
    assert second.waited_s == pytest.approx(3)


def test_leaving_twice_gives_back_once() -> None:
    rig = Rig(2)
    first = rig.enter("a")
    rig.enter("a")
    rig.gate.leave(first)
    rig.gate.leave(first)
    assert rig.gate.in_flight == 1


def test_who_leaves_the_queue_frees_its_place_and_hears_nothing() -> None:
    rig = Rig(1, queue=1)
    first, second = rig.enter("a"), rig.enter("a")
    rig.gate.leave(second)
    assert (second.state, rig.gate.depth, rig.gate.counts.left_waiting) == (LEFT, 0, 1)
    third = rig.enter("a")
    rig.gate.leave(first)
    assert rig.granted == [third]


def test_a_full_queue_refuses() -> None:
    rig = Rig(1, queue=2)
    for _ in range(3):
        rig.enter("a")
    with pytest.raises(Refused) as caught:
        rig.enter("a")
    assert caught.value.reason == "queue_full"
    assert (rig.gate.depth, rig.gate.counts.refused["queue_full"]) == (2, 1)


def test_who_cannot_be_called_back_does_not_wait() -> None:
    gate = Gate("e", GateLimits(1, 10))
    ticket = gate.enter("a")
    with pytest.raises(Refused):
        gate.enter("a")
    gate.leave(ticket)
    assert gate.enter("a").state == GRANTED


def test_without_limits_everybody_goes_on_and_is_counted() -> None:
    rig = Rig(0, queue=0)
    tickets = [rig.enter("a") for _ in range(100)]
    assert rig.gate.in_flight == 100
    for ticket in tickets:
        rig.gate.leave(ticket)
    assert rig.gate.in_flight == 0


def test_a_full_queue_of_one_consumer_yields_its_last_place_to_another() -> None:
    rig = Rig(1, queue=3)
    rig.enter("greedy")
    waiting = [rig.enter("greedy") for _ in range(3)]
    modest = rig.enter("modest")
    assert modest.state == WAITING
    assert [(ticket, reason) for ticket, reason, _ in rig.refused] == [(waiting[2], "shed")]
    assert waiting[2].state == REFUSED
    assert rig.enter("modest2").state == WAITING
    with pytest.raises(Refused):  # everybody has one by now
        rig.enter("modest3")
    assert rig.gate.depth == 3


def test_a_full_queue_yields_a_place_to_a_higher_priority_and_to_no_lower_one() -> None:
    rig = Rig(1, queue=1)
    rig.enter("a")
    low = rig.enter("a", -5)
    with pytest.raises(Refused):
        rig.enter("b", -6)
    high = rig.enter("a", 1)
    assert (low.state, high.state) == (REFUSED, WAITING)


def test_who_is_shed_and_comes_back_at_once_ends_nothing_in_a_circle() -> None:
    rig = Rig(1, queue=3)
    for _ in range(4):
        rig.enter("greedy")
    again: list[Ticket] = []
    rig.then = lambda ticket: again.append(rig.enter("greedy")) if ticket.state == REFUSED else None
    with pytest.raises(Refused):
        rig.enter("modest")
    assert (rig.gate.depth, len(again)) == (3, 1)


def test_a_raised_limit_grants_at_once_and_a_lowered_one_revokes_nothing() -> None:
    rig = Rig(1, queue=9)
    tickets = [rig.enter("a") for _ in range(5)]
    rig.gate.configure(GateLimits(3, 9))
    assert rig.granted == tickets[1:3]
    rig.gate.configure(GateLimits(1, 0))
    assert (rig.gate.in_flight, rig.gate.depth) == (3, 2)
    rig.gate.leave(tickets[0])
    rig.gate.leave(tickets[1])
    assert len(rig.granted) == 2
    rig.gate.leave(tickets[2])
    assert (len(rig.granted), rig.gate.in_flight, rig.gate.depth) == (3, 1, 1)
    rig.gate.configure(GateLimits(0, 0))
    assert rig.gate.depth == 0


def test_who_waits_longer_than_the_queue_allows_is_refused_by_the_sweep() -> None:
    rig = Rig(1, queue_timeout_s=30)
    rig.enter("a")
    early = rig.enter("a")
    rig.clock.now_s += 10
    rig.enter("a")
    rig.clock.now_s += 20
    rig.gate.sweep(rig.clock.now_s)
    assert [(ticket, reason) for ticket, reason, _ in rig.refused] == [(early, "queue_timeout")]
    assert (early.state, early.waited_s, rig.gate.depth) == (REFUSED, 30, 1)


def test_a_deadline_that_has_passed_refuses() -> None:
    rig = Rig(1)
    rig.enter("a")
    waiting = rig.enter("a", deadline_s=rig.clock.now_s + 2)
    rig.gate.sweep(rig.clock.now_s + 1.9)
    assert rig.refused == []
    rig.gate.sweep(rig.clock.now_s + 2)
    assert [(ticket, reason) for ticket, reason, _ in rig.refused] == [(waiting, "deadline")]
    with pytest.raises(Refused) as caught:
        rig.enter("a", deadline_s=rig.clock.now_s - 1)
    assert caught.value.reason == "deadline"


def measured(rig: Rig, held_s: float, times: int = 10) -> None:
    for _ in range(times):
        ticket = rig.enter("before")
        rig.clock.now_s += held_s
        rig.gate.leave(ticket)


def test_a_deadline_that_cannot_be_made_refuses_early_and_says_when_to_come_back() -> None:
    rig = Rig(1, queue=100)
    measured(rig, 10)
    for _ in range(5):
        rig.enter("a")
    with pytest.raises(Refused) as caught:
        rig.enter("a", deadline_s=rig.clock.now_s + 20)
    assert caught.value.reason == "deadline"
    assert caught.value.retry_after_s == pytest.approx(50)
    assert rig.enter("a", deadline_s=rig.clock.now_s + 60).state == WAITING
    # Another consumer is the next but one, whatever the greedy one has waiting.
    assert rig.enter("b", deadline_s=rig.clock.now_s + 20).state == WAITING


def test_what_cannot_be_served_within_the_queue_timeout_is_refused_on_arrival() -> None:
    rig = Rig(1, queue=100, queue_timeout_s=30)
    measured(rig, 10)
    for _ in range(4):
        rig.enter("a")
    with pytest.raises(Refused) as caught:
        for _ in range(20):
            rig.enter("a")
    assert caught.value.reason == "deadline"
    assert 3 <= rig.gate.depth <= 8


def test_nobody_is_refused_for_an_estimate_made_of_too_little() -> None:
    rig = Rig(1, queue=100)
    measured(rig, 10, times=3)
    rig.enter("a")
    assert rig.enter("a", deadline_s=rig.clock.now_s + 1).state == WAITING


def test_room_elsewhere_is_awaited_and_its_return_wakes() -> None:
    rig, rooms = Rig(0, queue=5), list[int]()
    waiting = rig.enter("a", room=lambda: bool(rooms))
    assert (waiting.state, rig.gate.in_flight) == (WAITING, 0)
    rig.gate.wake()
    assert rig.granted == []
    rooms.append(1)
    rig.gate.wake()
    assert rig.granted == [waiting]


def test_room_that_came_without_a_word_lets_nobody_be_overtaken() -> None:
    rig, rooms = Rig(1, queue=5), list[int]()
    waiting = rig.enter("a", room=lambda: bool(rooms))
    rooms.append(1)
    newcomer = rig.enter("b", room=lambda: bool(rooms))
    assert (rig.granted, newcomer.state) == ([waiting], WAITING)


def test_who_has_room_does_not_wait_behind_those_who_have_none() -> None:
    rig = Rig(1, queue=5)
    rig.enter("a", room=lambda: False)
    assert rig.enter("b", room=lambda: True).state == GRANTED


def test_a_long_line_of_those_who_leave_at_once_does_not_recurse() -> None:
    rig = Rig(1, queue=20_000)
    first = rig.enter("a")
    for _ in range(20_000):
        rig.enter("a")
    rig.then = rig.gate.leave
    rig.gate.leave(first)
    assert (len(rig.granted), rig.gate.in_flight, rig.gate.depth) == (20_000, 0, 0)


def test_what_a_callback_raises_takes_nobody_elses_turn() -> None:
    rig = Rig(2, queue=5)
    first = [rig.enter("a"), rig.enter("a")]
    broken, other = rig.enter("a"), rig.enter("a")

    def fail(ticket: Ticket) -> None:
        if ticket is broken:
            rig.gate.leave(first[1])
            raise ValueError("broken")

    rig.then = fail
    with pytest.raises(ValueError, match="broken"):
        rig.gate.leave(first[0])
    assert (broken.state, other.state) == (GRANTED, WAITING)
    rig.gate.sweep(rig.clock.now_s)
    assert other.state == GRANTED


def test_a_newcomer_in_a_callback_overtakes_nobody() -> None:
    """The callback frees a second permit and comes in again: that permit is for the next in line."""
    rig = Rig(2, queue=9)
    first = [rig.enter("a"), rig.enter("a")]
    waiting = [rig.enter("a"), rig.enter("a")]
    came: list[Ticket] = []

    def again(ticket: Ticket) -> None:
        if ticket is waiting[0]:
            rig.gate.leave(first[1])
            came.append(rig.enter("a"))
            assert came[0].state == WAITING

    rig.then = again
    rig.gate.leave(first[0])
    assert rig.granted == waiting
    assert rig.gate.depth == 1


def test_one_late_waiter_may_take_another_with_it() -> None:
    rig = Rig(1, queue=9, queue_timeout_s=5)
    rig.enter("a")
    pair = [rig.enter("a"), rig.enter("a")]

    def both_leave(ticket: Ticket) -> None:
        for one in pair:
            rig.gate.leave(one)

    rig.then = both_leave
    rig.clock.now_s += 6
    rig.gate.sweep(rig.clock.now_s)
    assert [ticket for ticket, _, _ in rig.refused] == pair[:1]
    assert ([one.state for one in pair], rig.gate.depth) == ([REFUSED, LEFT], 0)


def test_who_sheds_one_that_gives_back_a_permit_need_not_wait() -> None:
    rig = Rig(1, queue=1)
    first = rig.enter("a")
    rig.enter("a", -1)
    rig.then = lambda ticket: rig.gate.leave(first)
    assert rig.enter("b", 1).state == GRANTED
    assert rig.gate.depth == 0


def test_a_permit_taken_past_those_without_room_counts_against_its_consumer() -> None:
    rig, rooms = Rig(9, queue=9), list[int]()
    for who in "ab":
        rig.enter(who, room=lambda: bool(rooms))
    rig.enter("a")
    rooms.append(1)
    rig.gate.wake()
    assert [ticket.who for ticket in rig.granted] == ["b", "a"]


def test_a_lowered_limit_lengthens_what_is_expected() -> None:
    rig = Rig(4, queue=9)
    measured(rig, 10)
    for _ in range(4):
        rig.enter("a")
    before_s = rig.gate.wait_s(1)
    rig.gate.configure(GateLimits(1, 9))
    assert before_s == pytest.approx(2.5)
    assert rig.gate.wait_s(1) == pytest.approx(10)


def test_counts_and_description_tell_what_happened() -> None:
    rig = Rig(1, queue=2)
    first = rig.enter("a")
    rig.enter("b")
    rig.enter("b")
    with pytest.raises(Refused):
        rig.enter("b")
    rig.clock.now_s += 2
    told = rig.gate.describe()
    assert (told["in_flight"], told["depth"], told["oldest_wait_s"]) == (1, 2, 2.0)
    assert (told["in_flight_of"], told["waiting_of"]) == ({"a": 1}, {"b": 2})
    assert [(one["place"], one["consumer"], one["waited_s"]) for one in rig.gate.waiters(9)] == [(1, "b", 2.0), (2, "b", 2.0)]
    rig.gate.leave(first)
    counts = rig.gate.counts
    assert (counts.at_once, counts.queued, counts.waited, counts.waited_total_s, counts.most_waiting) == (1, 2, 1, 2.0, 2)


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

    def _enter(self, who: str, priority: int, deadline_s: float | None, room: str | None) -> None:
        before = {id(one) for one in self.all}
        try:
            ticket = self.gate.enter(who, priority, deadline_s, self._granted, self._refused, self.rooms[room])
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
            self._leave(ticket)
        elif word == "enter":
            self._enter("c", 0, None, None)
        elif word == "leave another" and self.all:
            self._leave(self.all[len(self.all) // 2])
        elif word == "sweep":
            self.gate.sweep(self.rig.clock.now_s)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.state == WAITING:
            self.left_waiting.add(id(ticket))
        self.gate.leave(ticket)
        assert ticket.state in (LEFT, REFUSED)

    @rule(
        who=st.sampled_from("ab"), priority=st.integers(-1, 1), within_s=st.none() | st.floats(-1, 40),
        room=st.sampled_from([None, None, "x", "y"]),
    )
    def enter(self, who: str, priority: int, within_s: float | None, room: str | None) -> None:
        self._enter(who, priority, None if within_s is None else self.rig.clock.now_s + within_s, room)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self._leave(self.all[data.draw(st.integers(0, len(self.all) - 1))])

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
    def room(self, name: str, state: bool) -> None:
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
                assert waiter.room is not None
                assert not waiter.room(), "a permit and room, and still it waits"

    @invariant()
    def everybody_is_called_once(self) -> None:
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
            self.gate.leave(ticket)
        assert (self.gate.in_flight, self.gate.depth) == (0, 0)
        queue = self.gate._queue
        assert not queue._lines
        assert not queue._lines_of
        assert not queue._rooms
        assert not queue._crowds


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_permit_at_once_is_one_that_nobody_waits_for() -> None:
    gate = Gate("g", GateLimits(requests=1, queue=1))
    assert gate.at_once("a", lambda: False) is None
    ticket = gate.at_once("a")
    assert ticket is not None and gate.in_flight == 1
    assert gate.at_once("b") is None
    waiting = gate.enter("b", on_granted=lambda ticket: None, on_refused=lambda ticket, reason, after_s: None)
    gate.configure(GateLimits(requests=1, queue=1))
    gate.leave(ticket)
    assert (waiting.state, gate.in_flight) == ("granted", 1)
    assert gate.counts.at_once == 1
