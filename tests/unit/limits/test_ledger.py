from __future__ import annotations

import json
import weakref
from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from relayd.limits.counter import REQUESTS, TOTAL, Counter, Rule
from relayd.limits.ledger import MOST_VALUES, SWEPT, Exceeded, Ledger, Reservation
from relayd.limits.window import Span, Window
from relayd.protocols.dialect import run_steps

RATE = Rule("consumer team", REQUESTS, 3, Span.sliding(60))
RULES = (RATE, Rule("route llm", TOTAL, 40, Span.sliding(10)), Rule("consumer team", TOTAL, 90, Span("day")),
         Rule("group all", REQUESTS, 12, Span("total")))
START_S = 1_795_910_400.0  # midnight UTC


@dataclass
class Rig:
    """A ledger with its own time."""

    now_s: float = 1000.0
    wall_s: float = START_S
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(lambda: self.now_s, lambda: self.wall_s)

    def use(self, rules: tuple[Rule, ...] = (RATE,)) -> tuple[Counter, ...]:
        counters = tuple(self.ledger.counter(one) for one in rules)
        self.ledger.apply(counters)
        return counters

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall_s += seconds

    def reserve(self, *demands: tuple[Counter, int]) -> Reservation | Exceeded:
        return self.ledger.reserve(demands, self.ledger.now())

    def admitted(self, *demands: tuple[Counter, int]) -> Reservation:
        found = self.reserve(*demands)
        assert isinstance(found, Reservation), found
        return found

    def refused(self, *demands: tuple[Counter, int]) -> Exceeded:
        found = self.reserve(*demands)
        assert isinstance(found, Exceeded)
        return found


@dataclass(eq=False)
class Open:
    """An admitted request of the model: when, and what counts for it now."""

    at_s: float
    reservation: Reservation
    amounts: list[int]


class Histories(RuleBasedStateMachine):
    """Any interleaving of requests, endings, pauses and reloads, compared with a list of all admitted requests."""

    opened = Bundle("opened")
    closed = Bundle("closed")

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.counters = self.rig.use(RULES)
        self.admitted: list[Open] = []
        self.open: set[Open] = set()

    @rule(target=opened, amounts=st.tuples(st.just(1), st.integers(0, 45), st.integers(0, 45), st.just(1)))
    def begin(self, amounts: tuple[int, ...]) -> object:
        demands = tuple(zip(self.counters, amounts, strict=True))
        before = self.seen()
        found = self.rig.reserve(*demands)
        if isinstance(found, Exceeded):
            assert self.seen() == before, "a refused request has changed something"
            return multiple()
        one = Open(self.rig.now_s, found, list(amounts))
        self.admitted.append(one)
        self.open.add(one)
        return one

    @rule(target=closed, one=consumes(opened), share=st.floats(0, 1))
    def settle(self, one: Open, share: float) -> Open:
        one.amounts = [int(amount * share) for amount in one.amounts]
        one.reservation.settle(one.amounts)
        self.open.discard(one)
        return one

    @rule(target=closed, one=consumes(opened))
    def refund(self, one: Open) -> Open:
        one.reservation.refund()
        one.amounts = [0] * len(RULES)
        self.open.discard(one)
        return one

    @rule(one=closed, amount=st.integers(0, 100))
    def close_again(self, one: Open, amount: int) -> None:
        before = self.seen()
        one.reservation.settle([amount] * len(RULES))
        one.reservation.refund()
        assert self.seen() == before

    @rule(seconds=st.one_of(st.floats(0, 0.5), st.floats(0, 40), st.sampled_from([3600.0, 86_400.0])))
    def wait(self, seconds: float) -> None:
        self.rig.sleep(seconds)

    @rule()
    def sweep(self) -> None:
        self.rig.ledger.sweep()

    @rule()
    def reload(self) -> None:
        self.counters = self.rig.use(RULES)

    @rule()
    @precondition(lambda self: not self.open)
    def restart(self) -> None:
        saved = json.loads(json.dumps(self.rig.ledger.dirty(1000)))
        known = {counter.window.key: counter.window.state() for counter in self.counters}
        for key, state in saved:
            assert [list(one) for one in known.get(key, ())] == state[1]
        self.rig = Rig(self.rig.now_s, self.rig.wall_s)
        assert self.rig.ledger.load((key, [str(counter.window.span), list(known[key])])
                                    for key, counter in zip(known, self.counters, strict=True)) == []
        self.counters = self.rig.use(RULES)

    def seen(self) -> list[tuple[int, int]]:
        now = self.rig.ledger.now()
        return [(counter.advance(now), counter.window.held) for counter in self.counters]

    @invariant()
    def no_interval_admits_more_than_its_limit(self) -> None:
        for index, one in enumerate(RULES):
            for end in self.admitted:
                length_s = one.span.length_ms / 1000
                among = [
                    other for other in self.admitted if other.at_s <= end.at_s
                    and (one.span.kind == "total" or (length_s and end.at_s - length_s < other.at_s)
                         or (one.span.kind == "day" and day(other.at_s) == day(end.at_s)))
                ]
                assert sum(other.amounts[index] for other in among) <= one.limit

    @invariant()
    def what_is_held_are_the_open_reservations(self) -> None:
        self.seen()
        for index, counter in enumerate(self.counters):
            held = sum(one.amounts[index] for one in self.open)
            assert counter.window.held <= held
            if not self.open:
                assert counter.window.held == counter.window.pending == 0
            assert 0 <= counter.window.held <= counter.window.used

    @invariant()
    def a_total_is_what_was_admitted(self) -> None:
        self.seen()
        assert self.counters[3].window.used == sum(one.amounts[3] for one in self.admitted)


def day(now_s: float) -> int:
    return int(now_s - 1000.0 + START_S) // 86_400


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_all_demands_are_reserved_or_none() -> None:
    rig = Rig()
    first, second = rig.use((RATE, replace(RATE, scope="route llm", limit=1)))
    rig.admitted((first, 1), (second, 1))
    assert rig.refused((first, 1), (second, 1)).counter is second
    assert first.window.used == 1


def test_of_several_counters_without_room_the_last_one_to_have_it_is_reported() -> None:
    rig = Rig()
    short, long = rig.use((replace(RATE, limit=1, span=Span.sliding(1)), replace(RATE, limit=1)))
    rig.admitted((long, 1), (short, 1))
    assert rig.refused((short, 1), (long, 1)).counter is long
    never = rig.refused((short, 2), (long, 1))
    assert (never.counter, never.retry_after_s) == (short, None)


def test_after_the_stated_time_there_is_room_and_not_before() -> None:
    rig = Rig()
    (counter,) = rig.use()
    for _ in range(3):
        rig.admitted((counter, 1))
        rig.sleep(7.5)
    found = rig.refused((counter, 1))
    assert found.retry_after_s is not None and 37 < found.retry_after_s < 39
    rig.sleep(found.retry_after_s - 0.01)
    rig.refused((counter, 1))
    rig.sleep(0.01)
    rig.admitted((counter, 1))


def test_a_shadow_rule_counts_and_refuses_nothing() -> None:
    rig = Rig()
    (counter,) = rig.use((replace(RATE, limit=1, counts_only=True),))
    assert rig.admitted((counter, 1)).let_through == ()
    assert rig.admitted((counter, 1)).let_through == (counter,)
    assert counter.window.used == 2


def test_a_real_amount_above_the_reserved_one_is_counted() -> None:
    rig = Rig()
    (counter,) = rig.use((RULES[1],))
    rig.admitted((counter, 10)).settle([50])
    assert rig.refused((counter, 1)).retry_after_s is not None


def test_a_threshold_is_reported_once_per_crossing() -> None:
    rig = Rig()
    (counter,) = rig.use((replace(RATE, limit=10, warn=(0.5, 0.9)),))
    assert rig.admitted((counter, 4)).settle([4]) == []
    assert rig.admitted((counter, 4)).settle([1]) == [(counter, 0.5)]
    assert rig.admitted((counter, 1)).settle([1]) == []
    assert rig.admitted((counter, 3)).settle([4]) == [(counter, 0.9)]
    rig.sleep(62)
    assert rig.admitted((counter, 1)).settle([1]) == []
    assert rig.admitted((counter, 9)).settle([9]) == [(counter, 0.5), (counter, 0.9)]


def test_a_changed_limit_applies_to_what_was_used_and_a_reload_keeps_it() -> None:
    rig = Rig()
    (counter,) = rig.use()
    for _ in range(3):
        rig.admitted((counter, 1)).settle([1])
    (raised,) = rig.use((replace(RATE, limit=4),))
    rig.admitted((raised, 1))
    (lowered,) = rig.use((replace(RATE, limit=2),))
    assert rig.refused((lowered, 1)).retry_after_s is not None


def test_a_rule_that_is_removed_and_comes_back_has_not_forgotten() -> None:
    rig = Rig()
    (counter,) = rig.use()
    rig.admitted((counter, 3)).settle([3])
    rig.use(())
    rig.ledger.sweep()
    (again,) = rig.use()
    rig.refused((again, 1))
    window = weakref.ref(again.window)
    rig.use(())
    rig.sleep(62)
    rig.ledger.sweep()
    rig.ledger.dirty(1000)
    del counter, again
    assert window() is None


def test_a_plan_that_is_compiled_and_discarded_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.ledger.counter(RATE)
    assert run_steps(rig.ledger.counters()) == []


def test_every_value_of_each_has_its_own_counter_and_idle_ones_are_forgotten() -> None:
    rig = Rig()
    each = replace(RATE, each="client", limit=1)
    for client in ("10.0.0.1", "10.0.0.2"):
        rig.admitted((rig.ledger.counter_of(each, client), 1)).settle([1])
        rig.refused((rig.ledger.counter_of(each, client), 1))
    rig.ledger.sweep()
    assert [one.value for one in run_steps(rig.ledger.counters())] == ["10.0.0.1", "10.0.0.2"]
    rig.ledger.dirty(1000)
    rig.sleep(62)
    rig.ledger.sweep()
    assert run_steps(rig.ledger.counters()) == []
    assert [state[1] for _, state in rig.ledger.dirty(1000)] == [[], []], "saved states are removed as well"


def test_the_number_of_values_is_bounded_and_the_one_not_used_for_longest_is_forgotten() -> None:
    rig = Rig()
    each = replace(RATE, each="client")
    for number in range(MOST_VALUES):
        rig.ledger.counter_of(each, str(number))
    used = rig.ledger.counter_of(each, "0")
    rig.ledger.counter_of(each, "one more")
    assert len(run_steps(rig.ledger.counters())) == MOST_VALUES
    assert rig.ledger.counter_of(each, "0") is used
    assert not any(one.value == "1" for one in run_steps(rig.ledger.counters()))
    assert [one.value for one in run_steps(rig.ledger.counters(2))] == ["one more", "0"], "the last used ones"
    assert run_steps(rig.ledger.counters(0)) == []


def test_one_sweep_looks_at_a_bounded_number_of_windows_however_many_there_are() -> None:
    rig, looked = Rig(), list[str]()

    class Watched(Window):
        @property
        def idle(self) -> bool:
            looked.append(self.key)
            return super().idle

    def use(number: int) -> None:
        rule = replace(RATE, scope=f"consumer {number}")
        window = Watched(rule.key, rule.span)
        rig.admitted((Counter(rule, window), 1)).settle([1])

    for number in range(3 * SWEPT):
        use(number)
    for _ in range(4):
        looked.clear()
        rig.ledger.sweep()
        assert len(looked) <= SWEPT
    rig.ledger.dirty(4 * SWEPT)
    assert len(rig.ledger.consumers()) == 3 * SWEPT
    rig.sleep(62)
    for _ in range(7):
        looked.clear()
        rig.ledger.sweep()
        assert len(looked) <= SWEPT
    assert rig.ledger.consumers() == []


def test_a_clock_that_jumps_does_not_move_sliding_spans() -> None:
    rig = Rig()
    (counter,) = rig.use()
    rig.admitted((counter, 3)).settle([3])
    rig.wall_s += 10 * 86_400
    rig.refused((counter, 1))
    rig.wall_s -= 400 * 86_400
    found = rig.refused((counter, 1))
    assert found.retry_after_s is not None and found.retry_after_s <= 61


def test_what_was_used_survives_a_restart_and_expires_by_the_time_since() -> None:
    rig = Rig()
    (counter,) = rig.use()
    rig.admitted((counter, 1)).settle([1])
    rig.admitted((counter, 2))  # in progress: not part of the state
    saved = json.loads(json.dumps(rig.ledger.dirty(1000)))
    assert rig.ledger.dirty(1000) == []
    later = Rig(now_s=5.0, wall_s=START_S + 30)
    assert later.ledger.load(saved) == []
    (again,) = later.use()
    assert again.advance(later.ledger.now()) == 1
    later.sleep(32)
    assert again.advance(later.ledger.now()) == 0


def test_states_that_cannot_be_read_are_named_and_the_others_are_used() -> None:
    rig = Rig()
    slot = RATE.span.slot(rig.ledger.now().steady_ms)
    bad = [("a", None), ("b", ["week", []]), ("c", ["day", [["x", 1]]]), ("d", ["day", [[1, -1]]]), ("e", [])]
    assert rig.ledger.load([*bad, (RATE.key, ["60000ms", [[slot, 2]]])]) == ["a", "b", "c", "d", "e"]
    assert rig.use()[0].advance(rig.ledger.now()) == 2


def test_a_counter_that_no_plan_refers_to_keeps_its_window_while_it_is_used() -> None:
    rig = Rig()
    counter = rig.ledger.counter(RATE)
    rig.ledger.sweep()
    rig.admitted((counter, 2)).settle([2])
    assert rig.ledger.counter(RATE).window is counter.window
    rig.ledger.dirty(1000)
    del counter
    rig.ledger.sweep()
    assert rig.ledger.counter(RATE).advance(rig.ledger.now()) == 2


def test_the_use_of_one_consumer_is_forgotten_also_in_the_saved_state() -> None:
    rig = Rig()
    each = Rule("group all", REQUESTS, 9, Span.sliding(60), each="consumer")
    (own,) = rig.use((RATE,))
    values = [rig.ledger.counter_of(each, name) for name in ("team", "other")]
    of_client = rig.ledger.counter_of(replace(RATE, each="client"), "192.0.2.1")
    for counter in (own, of_client, *values):
        found = rig.ledger.reserve([(counter, 1)], rig.ledger.now())
        assert isinstance(found, Reservation)
        found.settle([1])
    assert sorted(rig.ledger.consumers()) == ["192.0.2.1", "other", "team", "team"]
    assert rig.ledger.forget("team", dry_run=True) == 3 and own.window.used == 1
    assert rig.ledger.forget("team") == 3
    assert [counter.window.used for counter in (own, of_client, *values)] == [0, 0, 0, 1]
    assert {key: bool(state[-1]) for key, state in rig.ledger.dirty(1000)} == {
        own.window.key: False, of_client.window.key: False, values[0].window.key: False, values[1].window.key: True,
    }


def test_a_threshold_that_was_reported_before_a_restart_is_not_reported_again() -> None:
    warns, before, after = Rule("consumer team", TOTAL, 10, Span("total"), warn=(0.5, 0.9)), Rig(), Rig()

    def spend(rig: Rig, counter: Counter, amount: int) -> list[float]:
        found = rig.ledger.reserve([(counter, amount)], rig.ledger.now())
        assert isinstance(found, Reservation)
        return [share for _, share in found.settle([amount])]

    (counter,) = before.use((warns,))
    assert spend(before, counter, 6) == [0.5]
    after.ledger.load(before.ledger.dirty(1000))
    (counter,) = after.use((warns,))
    assert spend(after, counter, 1) == []
    assert spend(after, counter, 2) == [0.9]


def test_the_time_of_a_server_is_followed_until_it_is_not_shared_any_more() -> None:
    ledger = Ledger(lambda: 1000.0, lambda: 5000.0)
    ledger.follow_time(100.0)
    assert ledger.now() == (1_100_000, 1_100_000)
    ledger.follow_own_time()
    assert ledger.now() == (5_000_000, 5_000_000)
