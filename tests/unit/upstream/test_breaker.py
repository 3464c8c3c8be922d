"""The breaker: its table, its counts, its permits, under every order of events."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relayd.upstream.breaker import CLOSED, EVENTS, FOREVER, HALF_OPEN, OPEN, STATES, TABLE, Breaker
from relayd.upstream.spec import BreakerSpec


def still() -> float:
    return 0.0


def opened(spec: BreakerSpec, now_s: float = 0.0) -> Breaker:
    breaker = Breaker(spec, still)
    for _ in range(spec.failures):
        breaker.failed(now_s)
    assert breaker.state == OPEN
    return breaker


def test_the_table_knows_every_event_in_every_state() -> None:
    assert set(TABLE) == set(STATES)
    for row in TABLE.values():
        assert set(row) == set(EVENTS) and set(row.values()) <= set(STATES)


def test_every_state_can_be_reached_and_left_without_a_hand() -> None:
    automatic = [event for event in EVENTS if event not in ("forced", "reset")]
    reached, todo = {CLOSED}, [CLOSED]
    while todo:
        state = todo.pop()
        for next_fallback in {TABLE[state][event] for event in automatic} - reached:
            reached.add(next_fallback)
            todo.append(next_fallback)
    assert reached == set(STATES)
    for state in STATES:
        assert {TABLE[state][event] for event in automatic} - {state}, f"{state} is sticky"


def test_failures_in_a_row_open_it_and_a_success_in_between_starts_again() -> None:
    breaker = Breaker(BreakerSpec(failures=3))
    for _ in range(2):
        breaker.failed(0.0)
    breaker.succeeded(0.0)
    assert not breaker.failed(0.0) and not breaker.failed(0.0) and breaker.consecutive == 2
    assert breaker.failed(0.0) and breaker.state == OPEN and not breaker.has_permit()


def test_without_a_count_of_failures_only_the_share_opens_it() -> None:
    breaker = Breaker(BreakerSpec(failures=0, rate=0.5, minimum=10, window_s=10.0))
    for _ in range(9):
        assert not breaker.failed(1.0)
    assert breaker.failed(1.0)


def test_a_share_of_failures_opens_it_though_successes_come_between() -> None:
    breaker = Breaker(BreakerSpec(failures=5, rate=0.5, minimum=20, window_s=10.0))
    changed = [breaker.failed(number * 0.1) if number % 2 else breaker.succeeded(number * 0.1) for number in range(20)]
    assert changed.index(True) == 19


def test_failures_that_are_older_than_the_window_do_not_count() -> None:
    breaker = Breaker(BreakerSpec(failures=1000, rate=0.5, minimum=10, window_s=10.0))
    for _ in range(9):
        breaker.failed(0.0)
    assert not breaker.failed(10.5) and breaker.state == CLOSED
    for _ in range(9):
        breaker.failed(10.5)
    assert breaker.state == OPEN


def test_after_its_time_it_lets_a_bounded_number_of_probes_through() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0, probes=2, successes=2))
    assert not breaker.tick(9.9) and breaker.tick(10.0) and breaker.state == HALF_OPEN
    first, second = breaker.acquire_permit(), breaker.acquire_permit()
    assert first and second and not breaker.acquire_permit() and not breaker.has_permit()
    assert not breaker.succeeded(11.0, first) and breaker.has_permit()
    assert breaker.succeeded(11.0, second) and breaker.state == CLOSED and breaker.consecutive == 0


def test_a_probe_whose_client_left_is_given_back_without_a_verdict() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=1.0))
    breaker.tick(1.0)
    permit = breaker.acquire_permit()
    assert breaker.release_permit(permit) and breaker.state == HALF_OPEN
    assert breaker.has_permit() and breaker.acquire_permit() == permit


def test_a_failed_probe_opens_it_for_longer_up_to_a_ceiling() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0, max_open_s=35.0))
    times = [breaker.until_s]
    for _ in range(4):
        now_s = breaker.until_s
        breaker.tick(now_s)
        breaker.failed(now_s, breaker.acquire_permit())
        times.append(breaker.until_s - now_s)
    assert times == [10.0, 20.0, 35.0, 35.0, 35.0]


def test_a_breaker_that_flaps_goes_on_growing_and_one_that_was_well_for_as_long_begins_anew() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0))
    breaker.tick(10.0)
    breaker.succeeded(10.0, breaker.acquire_permit())
    breaker.failed(12.0)  # well for 2 s after 10 s away
    assert breaker.until_s == 32.0
    breaker.tick(32.0)
    breaker.succeeded(32.0, breaker.acquire_permit())
    breaker.failed(52.0)  # well for as long as it had been away
    assert breaker.until_s == 62.0


def test_chance_takes_up_to_a_fifth_off_the_open_time() -> None:
    chance = random.Random(3)
    times = []
    for _ in range(200):
        breaker = Breaker(BreakerSpec(failures=1, open_s=10.0), chance.random)
        breaker.failed(0.0)
        times.append(breaker.until_s)
    assert 8.0 < min(times) < 8.2 and 9.8 < max(times) <= 10.0


def test_what_began_before_it_opened_says_nothing_afterwards() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0))
    assert not breaker.succeeded(1.0) and breaker.state == OPEN
    breaker.tick(10.0)
    assert not breaker.failed(10.0) and not breaker.succeeded(10.0) and breaker.state == HALF_OPEN


def test_a_permit_of_an_earlier_round_counts_for_nothing() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0))
    breaker.tick(10.0)
    late = breaker.acquire_permit()
    breaker.reset(10.0)
    breaker.failed(10.0)
    breaker.tick(40.0)
    assert breaker.state == HALF_OPEN
    fresh = breaker.acquire_permit()
    assert fresh != late and not breaker.release_permit(late) and not breaker.has_permit()


def test_opened_by_hand_it_stays_open_until_it_is_reset_by_hand() -> None:
    breaker = Breaker(BreakerSpec())
    assert breaker.force_open(0.0) and breaker.forced
    assert not breaker.tick(1e9) and breaker.state == OPEN
    assert breaker.reset(1e9) and breaker.state == CLOSED and not breaker.forced and breaker.until_s == FOREVER


def test_forcing_one_that_is_open_holds_it() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0))
    assert not breaker.force_open(1.0)
    assert not breaker.tick(1e9) and breaker.forced


def test_another_one_goes_on_where_it_stood_and_lends_permits_of_its_own() -> None:
    old = opened(BreakerSpec(failures=1, open_s=10.0))
    old.tick(10.0)
    in_use = old.acquire_permit()
    new = Breaker(BreakerSpec(failures=1, open_s=99.0), still)
    new.inherit_state(old)
    assert new.state == HALF_OPEN and new.has_permit() and new.openings == 1
    assert not new.release_permit(in_use) and old.release_permit(in_use)


class Orders(RuleBasedStateMachine):
    """Any order of verdicts, endings, waits and hands, against a model that only knows who holds a permit."""

    @initialize(
        failures=st.integers(0, 3), rate=st.sampled_from((0.0, 0.5)), probes=st.integers(1, 3),
        successes=st.integers(1, 3), seed=st.integers(0, 99),
    )
    def begin(self, failures: int, rate: float, probes: int, successes: int, seed: int) -> None:
        self.spec = BreakerSpec(
            failures=failures, rate=rate, minimum=3, window_s=5.0, open_s=10.0, max_open_s=40.0, probes=probes,
            successes=successes,
        )
        self.breaker = Breaker(self.spec, random.Random(seed).random)
        self.now_s = 0.0
        self.holding: list[int] = []
        self.round = 0

    def after(self, changed: bool, before: str) -> None:
        assert changed == (self.breaker.state != before)
        if changed:
            self.holding = []  # permits of a round that is over: nobody may be helped or harmed by them

    @rule(seconds=st.floats(0.0, 50.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        before = self.breaker.state
        self.after(self.breaker.tick(self.now_s), before)
        if before == OPEN and not self.breaker.forced:
            assert (self.breaker.state == HALF_OPEN) == (self.now_s >= self.breaker.until_s)

    @rule()
    def acquire_permit(self) -> None:
        allowed = self.breaker.state == HALF_OPEN and len(self.holding) < self.spec.probes
        permit = self.breaker.acquire_permit()
        assert bool(permit) == allowed
        if permit:
            self.holding.append(permit)

    @precondition(lambda self: self.holding)
    @rule(good=st.booleans())
    def verdict_of_a_probe(self, good: bool) -> None:
        permit, before = self.holding.pop(), self.breaker.state
        call = self.breaker.succeeded if good else self.breaker.failed
        self.after(call(self.now_s, permit), before)
        if not good:
            assert self.breaker.state == OPEN

    @precondition(lambda self: self.holding)
    @rule()
    def the_client_of_a_probe_leaves(self) -> None:
        assert self.breaker.release_permit(self.holding.pop())

    @rule(good=st.booleans(), permit=st.integers(0, 3))
    def verdict_without_a_permit(self, good: bool, permit: int) -> None:
        before = self.breaker.state
        call = self.breaker.succeeded if good else self.breaker.failed
        changed = call(self.now_s, 0)
        self.after(changed, before)
        assert not changed or before == CLOSED

    @rule()
    def force(self) -> None:
        before = self.breaker.state
        self.after(self.breaker.force_open(self.now_s), before)

    @rule()
    def reset(self) -> None:
        before = self.breaker.state
        self.after(self.breaker.reset(self.now_s), before)

    @invariant()
    def permits_are_neither_leaked_nor_invented(self) -> None:
        breaker = self.breaker
        if breaker.state == HALF_OPEN:
            assert breaker.has_permit() == (len(self.holding) < self.spec.probes)
        else:
            assert breaker.has_permit() == (breaker.state == CLOSED) and not self.holding

    @invariant()
    def an_open_one_that_nobody_holds_opens_itself(self) -> None:
        breaker = self.breaker
        if breaker.state == OPEN:
            assert breaker.forced == (breaker.until_s == FOREVER)
            assert breaker.forced or breaker.until_s - self.now_s <= self.spec.max_open_s


Orders.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_no_order_of_events_leaks_a_permit_or_sticks = Orders.TestCase


@pytest.mark.parametrize("successes", [1, 3])
def test_more_successes_than_probes_are_gathered_over_turns(successes: int) -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=1.0, probes=1, successes=successes))
    breaker.tick(1.0)
    told = [breaker.succeeded(1.0, breaker.acquire_permit()) for _ in range(successes)]
    assert told == [False] * (successes - 1) + [True]


def test_it_follows_the_openings_and_closings_of_another_instance() -> None:
    breaker = Breaker(BreakerSpec(failures=1, open_s=10.0), still)
    assert breaker.join_opening(5.0, 12.0) and (breaker.state, breaker.until_s) == (OPEN, 12.0)
    assert not breaker.join_opening(6.0, 20.0) and breaker.until_s == 20.0
    assert breaker.tick(20.0) and breaker.state == HALF_OPEN and not breaker.is_probing
    permit = breaker.acquire_permit()
    assert breaker.is_probing
    assert breaker.join_opening(21.0, 22.0) and breaker.openings == 1, "it has not failed here"
    assert not breaker.succeeded(21.5, permit) and breaker.state == OPEN, "a permit of an earlier round"
    assert breaker.join_closing(21.6) and breaker.state == CLOSED and breaker.until_s == FOREVER
    assert not breaker.join_closing(21.7)


def test_an_opening_that_was_given_back_does_not_lengthen_the_next_one() -> None:
    breaker = opened(BreakerSpec(failures=1, open_s=10.0))
    breaker.tick(10.0)
    breaker.join_opening(10.0, 11.0)
    breaker.tick(11.0)
    breaker.failed(11.0, breaker.acquire_permit())
    assert breaker.until_s == 31.0 and breaker.openings == 2
