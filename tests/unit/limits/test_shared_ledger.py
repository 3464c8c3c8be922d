from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from relayd.limits.counter import REQUESTS, TOTAL, Rule
from relayd.limits.gone_instances import GONE_S
from relayd.limits.ledger import Exceeded
from relayd.limits.shared_calls import Failed, name_of, saved
from relayd.limits.shared_ledger import MOST_CALLS, MOST_DECIDED, MOST_REFRESHED, START_S
from relayd.limits.shared_reservation import Decision, SharedReservation, Unavailable
from relayd.limits.window import Span
from tests.aids.redis_connection import RedisConnection
from tests.functional.harness.redis import PROGRAM, Redis
from tests.unit.limits.shared_rig import Instance

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server")

RATE = Rule("consumer team", REQUESTS, 5, Span.sliding(3600))
BUDGET = Rule("group all", TOTAL, 100, Span("total"), warn=(0.5, 0.9))
RULES = (RATE, BUDGET)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisConnection]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        made = RedisConnection(server.port)
        yield made
        made.close()


@pytest.fixture
def redis(connection: RedisConnection) -> RedisConnection:
    connection("FLUSHALL")
    return connection


def instances(redis: RedisConnection, count: int = 2, rules: tuple[Rule, ...] = RULES, on_failure: str = "local") -> list[Instance]:
    made = [Instance(redis, rules, on_failure) for _ in range(count)]
    for one in made:
        one.sync()
        assert one.shared.is_shared
    return made


def amounts(redis: RedisConnection, one: Rule) -> tuple[int, int]:
    """What is used, and the part of it that is held, in the server."""
    found = saved(redis("HGETALL", "{relayd}:rates:window:" + name_of(one.key)))
    return sum(found.slots.values()), sum(found.held.values())


def test_instances_together_admit_no_more_than_the_limit(redis: RedisConnection) -> None:
    some = instances(redis, 3)
    found = [one.reserve((one.counters[0], 1), (one.counters[1], 3)) for _ in range(4) for one in some]
    admitted = [one for one in found if isinstance(one, SharedReservation)]
    assert len(admitted) == 5
    refused = found[-1]
    assert isinstance(refused, Exceeded) and refused.counter.rule is RATE
    assert refused.retry_after_s is not None and 3590 < refused.retry_after_s < 3700
    assert amounts(redis, BUDGET) == (15, 15)
    admitted[0].settle([1, 1])
    admitted[0].settle([1, 9])
    for one in admitted[1:]:
        one.refund()
    for instance in some:
        instance.run()
    for instance in some:
        instance.sync()
        assert [(one.window.used, one.window.held) for one in instance.counters] == [(1, 0), (1, 0)]
        assert instance.shared.is_settled
    assert (amounts(redis, RATE), amounts(redis, BUDGET)) == ((1, 0), (1, 0))


def test_one_call_reserves_for_all_counters_and_settlements_share_one(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)
    one.line.calls.clear()
    found = [one.reserve((one.counters[0], 1), (one.counters[1], 3)) for _ in range(4)]
    assert one.line.calls == ["reserve"] * 4
    for each in found:
        assert isinstance(each, SharedReservation)
        each.settle([1, 2])
    assert one.line.calls == ["reserve"] * 4, "not in the turn of the request's end"
    one.run()
    assert one.line.calls == ["reserve"] * 4 + ["settle"]


def test_a_threshold_is_reported_by_one_instance_once(redis: RedisConnection) -> None:
    some = instances(redis)
    for instance in some:
        instance.warned = []
        instance.ledger.observer = Warned(instance.warned)
    for instance in (*some, *some):
        found = instance.reserve((instance.counters[1], 20))
        assert isinstance(found, SharedReservation)
        found.settle([24])
        instance.run()
    assert [instance.warned for instance in some] == [[0.5], [0.9]] or [instance.warned for instance in some] == [[0.5], []]
    assert sum(amounts(redis, BUDGET)) == 96


class Warned:
    """Takes down the shares."""

    def __init__(self, shares: list[float]) -> None:
        self.shares = shares

    def exceeded(self, counter: object) -> None:
        """Not of interest."""

    def warned(self, counter: object, share: float) -> None:
        self.shares.append(share)

    def unpriced(self, counter: object, upstream: str, model: str) -> None:
        raise AssertionError


@pytest.mark.parametrize("loses", ["lose_call", "lose_answer"])
def test_without_the_server_an_instance_decides_by_its_copy_and_adds_what_it_used_once(
    redis: RedisConnection, loses: str
) -> None:
    one, other = instances(redis)
    for _ in range(2):
        found = other.reserve((other.counters[0], 1))
        assert isinstance(found, SharedReservation)
        found.settle([1])
    before = one.reserve((one.counters[0], 1))
    assert isinstance(before, SharedReservation)
    other.run()
    one.sync()
    setattr(one.line, loses, True)
    first = one.reserve((one.counters[0], 1))  # its call fails
    one.shared.stop_sharing()
    assert one.changes == [True, False]
    second = one.reserve((one.counters[0], 1))
    assert isinstance(first, SharedReservation) and isinstance(second, SharedReservation)
    refused = one.reserve((one.counters[0], 1))
    assert isinstance(refused, Exceeded) and refused.retry_after_s is not None
    for each in (before, first):
        each.settle([1])
    one.sync()
    assert not one.shared.is_shared
    setattr(one.line, loses, False)
    one.ahead_s += 5
    one.sync()
    assert one.shared.is_shared
    assert amounts(redis, RATE) == (5, 1), "the one in progress is held in the server too"
    assert (one.counters[0].window.used, one.counters[0].window.held) == (5, 1)
    second.settle([1])
    one.run()
    one.sync()
    assert amounts(redis, RATE) == (5, 0)
    assert (one.counters[0].window.used, one.counters[0].window.held) == (5, 0)


@pytest.mark.parametrize(("store", "entry", "admits"), [
    ("local", "", False), ("open", "", True), ("closed", "", None), ("local", "open", True), ("open", "closed", None),
])
def test_without_the_server_a_counter_follows_its_own_policy_or_that_of_the_store(
    redis: RedisConnection, store: str, entry: str, admits: bool | None
) -> None:
    limit = Rule("consumer team", REQUESTS, 1, Span.sliding(3600), on_failure=entry)
    (one,) = instances(redis, 1, (limit,), store)
    assert isinstance(one.reserve((one.counters[0], 1)), SharedReservation)
    one.line.available = False
    one.shared.stop_sharing()
    found = one.reserve((one.counters[0], 1))
    assert isinstance(found, {True: SharedReservation, False: Exceeded, None: Unavailable}[admits])
    if isinstance(found, SharedReservation):
        assert found.let_through == ()
        found.settle([1])
        one.line.available = True
        one.sync()
        assert amounts(redis, limit) == (2, 1)


def test_what_an_instance_reserved_that_is_gone_is_released_by_another(redis: RedisConnection) -> None:
    one, other = instances(redis)
    for _ in range(3):
        assert isinstance(one.reserve((one.counters[0], 1), (one.counters[1], 10)), SharedReservation)
    other.sync()
    other.ahead_s += GONE_S - 1
    other.sync()
    assert amounts(redis, RATE) == (3, 3)
    other.ahead_s += 1
    other.sync()
    other.sync()
    assert (amounts(redis, RATE), amounts(redis, BUDGET)) == ((0, 0), (0, 0))
    assert len(redis("HGETALL", "{relayd}:rates:instances")) == 2


def test_an_instance_that_stood_still_counts_what_it_really_used(redis: RedisConnection) -> None:
    one, other = instances(redis)
    found = one.reserve((one.counters[0], 1), (one.counters[1], 10))
    assert isinstance(found, SharedReservation)
    other.sync()
    other.ahead_s += GONE_S
    other.sync()
    assert amounts(redis, BUDGET) == (0, 0)
    found.settle([1, 7])
    one.run()
    one.sync()
    assert (amounts(redis, RATE), amounts(redis, BUDGET)) == ((1, 0), (7, 0))


def test_an_outage_of_the_server_does_not_make_the_others_gone(redis: RedisConnection) -> None:
    one, other = instances(redis)
    assert isinstance(one.reserve((one.counters[0], 1)), SharedReservation)
    other.sync()
    other.line.lose_call = True
    other.ahead_s += GONE_S
    other.sync()
    other.line.lose_call = False
    other.sync()
    assert amounts(redis, RATE) == (1, 1)


def test_an_instance_that_ends_in_order_leaves_nothing(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)
    left: list[bool] = []
    one.shared.leave(lambda: left.append(True))
    one.run()
    assert left == [True]
    assert redis("HGETALL", "{relayd}:rates:instances") == []


def test_requests_after_the_start_wait_for_the_first_connection(redis: RedisConnection) -> None:
    (other,) = instances(redis, 1)
    for _ in range(4):
        assert isinstance(other.reserve((other.counters[0], 1)), SharedReservation)
    one = Instance(redis, RULES, "closed")
    one.line.lose_call = True
    one.sync()
    found: list[Decision] = []
    for _ in range(2):
        assert one.shared.reserve([(one.counters[0], 1)], found.append) is None
    one.run()
    assert found == []
    one.line.lose_call = False
    one.sync()
    assert [type(decision) for decision in found] == [SharedReservation, Exceeded]


def test_requests_after_the_start_follow_on_failure_if_the_server_is_not_there(redis: RedisConnection) -> None:
    one = Instance(redis, RULES, "closed")
    one.line.lose_call = True
    one.sync()
    found: list[Decision] = []
    assert one.shared.reserve([(one.counters[0], 1)], found.append) is None
    one.ahead_s += START_S
    one.sync()
    assert [type(decision) for decision in found] == [Unavailable]
    assert isinstance(one.reserve((one.counters[0], 1)), Unavailable)


def test_requests_wait_for_the_first_connection_to_another_server(redis: RedisConnection) -> None:
    one = Instance(redis, RULES, "closed")
    one.sync()
    assert isinstance(one.reserve((one.counters[0], 1)), SharedReservation)
    one.shared.move(one.line)
    found: list[Decision] = []
    assert one.shared.reserve([(one.counters[0], 1)], found.append) is None and not one.line.waiting
    one.sync()
    assert [type(decision) for decision in found] == [SharedReservation]


def test_what_waits_for_the_first_connection_is_decided_locally_if_the_store_is_not_shared_any_more(
    redis: RedisConnection,
) -> None:
    one = Instance(redis, RULES, "closed")
    one.line.lose_call = True
    one.shared.sync()
    found: list[Decision] = []
    assert one.shared.reserve([(one.counters[0], 1)], found.append) is None
    one.shared.close()
    one.run()
    assert [type(decision) for decision in found] == [SharedReservation]


def test_what_others_hold_is_forgotten_if_the_store_is_not_shared_any_more(redis: RedisConnection) -> None:
    one, other = instances(redis)
    own = one.reserve((one.counters[0], 1), (one.counters[1], 10))
    theirs = [other.reserve((other.counters[0], 1), (other.counters[1], 20)) for _ in range(2)]
    ended = theirs[0]
    assert isinstance(ended, SharedReservation) and isinstance(own, SharedReservation)
    ended.settle([1, 5])
    other.run()
    one.sync()
    assert [(each.window.used, each.window.held) for each in one.counters] == [(3, 2), (35, 30)]
    one.shared.close()
    one.run()
    assert [(each.window.used, each.window.held) for each in one.counters] == [(2, 1), (15, 10)]
    own.settle([1, 2])
    assert [(each.window.used, each.window.held) for each in one.counters] == [(2, 0), (7, 0)]


def test_a_refresh_reads_a_bounded_number_of_windows(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)
    each = Rule("route llm", REQUESTS, 5, Span.sliding(60), each="client")
    for number in range(MOST_REFRESHED * MOST_CALLS + 100):
        assert isinstance(one.reserve((one.ledger.counter_of(each, str(number)), 1)), SharedReservation)
    one.line.calls.clear()
    one.sync()
    assert one.line.calls == ["sync"] * MOST_CALLS
    one.sync()
    assert one.line.calls == ["sync"] * (MOST_CALLS + 1)


def test_ends_that_a_failover_has_lost_are_sent_again(redis: RedisConnection) -> None:
    one, other = instances(redis)
    found = [one.reserve((one.counters[0], 1), (one.counters[1], 10)) for _ in range(3)]
    replicated = {key: redis("DUMP", key) for key in redis("KEYS", "*")}
    for each in found[:2]:
        assert isinstance(each, SharedReservation)
        each.settle([1, 4])
    one.run()
    assert (amounts(redis, RATE), amounts(redis, BUDGET)) == ((3, 1), (18, 10))
    for key, dump in replicated.items():
        redis("RESTORE", key, 0, dump, "REPLACE")
    assert amounts(redis, BUDGET) == (30, 30)
    one.shared.stop_sharing()
    one.sync()
    assert (amounts(redis, RATE), amounts(redis, BUDGET)) == ((3, 1), (18, 10))
    last = found[2]
    assert isinstance(last, SharedReservation)
    last.settle([1, 2])
    for instance in (one, other):
        instance.run()
        instance.sync()
        assert [(counter.window.used, counter.window.held) for counter in instance.counters] == [(3, 0), (10, 0)]


def test_the_time_is_that_of_the_server(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)
    one.ahead_s -= 12345
    one.sync()
    seconds, _ = redis("TIME")
    assert abs(one.ledger.now().wall_ms / 1000 - int(seconds)) < 5
    one.ahead_s += 99999
    assert isinstance(one.reserve((one.counters[0], 1)), SharedReservation)
    one.ahead_s -= 99999  # now its calls seem to be late, once
    assert isinstance(one.reserve((one.counters[0], 1)), SharedReservation)
    assert amounts(redis, RATE) == (2, 2)


def test_only_what_is_settled_refuses_a_request_before_its_body_is_read(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)
    found = [one.reserve((one.counters[0], 1)) for _ in range(5)]
    assert one.shared.used_up(one.counters) is None
    for each in found:
        assert isinstance(each, SharedReservation)
        each.settle([1])
    one.run()
    assert one.shared.used_up(one.counters) is one.counters[0]


class Faults(RuleBasedStateMachine):
    """Requests of three instances, and every kind of fault of their connections. In the end the server has exactly what
    was used."""

    opened = Bundle("opened")
    redis: RedisConnection

    @initialize()
    def begin(self) -> None:
        self.redis("FLUSHALL")
        self.instances = [Instance(self.redis, (Rule("x", TOTAL, 10**9, Span("total")), RATE)) for _ in range(3)]
        for one in self.instances:
            one.sync()
        self.used = 0
        self.open: list[SharedReservation] = []

    @rule(which=st.integers(0, 2), fault=st.sampled_from(["", "", "call", "answer", "answer", "server"]))
    def change(self, which: int, fault: str) -> None:
        line = self.instances[which].line
        line.lose_call, line.lose_answer = fault in ("call", "server"), fault == "answer"
        line.available = fault != "server"

    @rule(which=st.integers(0, 2), seconds=st.sampled_from([0.0, 2.0, 2.0, 20.0]))
    def sync(self, which: int, seconds: float) -> None:
        one = self.instances[which]
        one.ahead_s += seconds
        one.shared.sync()
        one.run()

    @rule(target=opened, which=st.integers(0, 2), amount=st.integers(0, 50))
    def reserve(self, which: int, amount: int) -> object:
        one = self.instances[which]
        found = one.reserve((one.counters[0], amount))
        assert isinstance(found, SharedReservation)
        self.open.append(found)
        return found

    @rule(found=consumes(opened), amount=st.integers(0, 60), runs=st.booleans())
    def settle(self, found: SharedReservation, amount: int, runs: bool) -> None:
        found.settle([amount])
        self.open.remove(found)
        self.used += amount
        if runs:
            for one in self.instances:
                one.run()

    @rule(target=opened)
    def flush_scripts(self) -> object:
        self.redis("SCRIPT", "FLUSH")
        return multiple()

    @invariant()
    def held_is_never_negative(self) -> None:
        if hasattr(self, "instances"):
            used, held = amounts(self.redis, self.instances[0].counters[0].rule)
            assert 0 <= held <= used

    def teardown(self) -> None:
        if not hasattr(self, "instances"):
            return
        for found in self.open:
            found.refund()
        for one in self.instances:
            one.line.lose_call, one.line.lose_answer, one.line.available = False, False, True
            one.run()
            for _ in range(3):
                one.ahead_s += 5
                one.sync()
            assert one.shared.is_shared and one.shared.is_settled
        total = self.instances[0].counters[0].rule
        assert amounts(self.redis, total) == (self.used, 0)
        for one in self.instances:
            one.sync()
            assert (one.counters[0].window.used, one.counters[0].window.held) == (self.used, 0)


def test_whatever_happens_to_calls_nothing_is_lost_or_counted_twice(connection: RedisConnection) -> None:
    Faults.redis = connection
    run_state_machine_as_test(Faults, settings=settings(max_examples=30, stateful_step_count=40, deadline=None))


def test_an_observer_that_fails_stops_no_batch(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)

    class Failing(Warned):
        def warned(self, counter: object, share: float) -> None:
            raise RuntimeError("an observer")

    one.ledger.observer = Failing([])
    for found, amount in [(one.reserve((one.counters[1], 40)), 60), (one.reserve((one.counters[1], 10)), 10)]:
        assert isinstance(found, SharedReservation)
        found.settle([amount])
    with pytest.raises(RuntimeError, match="an observer"):
        one.run()
    one.run()
    assert one.shared.is_settled and amounts(redis, BUDGET) == (70, 0)


def test_fields_that_relayd_has_not_written_stop_no_release(redis: RedisConnection) -> None:
    one, other = instances(redis)
    assert isinstance(one.reserve((one.counters[0], 1)), SharedReservation)
    redis("HSET", "{relayd}:rates:instances", b"\xff\xfe", b"\xff", "x" * 16, "7")
    (own,) = [key for key in redis("KEYS", "*:open:*") if one.shared._calls.instance.encode() in key]
    redis("HSET", own, "not a number", "x", "99999999999999999999", "y", "77", b"\xff x y z\n")
    other.sync()
    other.ahead_s += GONE_S
    for _ in range(3):
        other.sync()
    assert amounts(redis, RATE) == (0, 0)


def test_requests_that_waited_for_the_first_connection_are_decided_in_bounded_turns(redis: RedisConnection) -> None:
    one = Instance(redis, (Rule("x", REQUESTS, 10**6, Span.sliding(3600)),), "local")
    one.line.lose_call = True
    one.sync()
    found: list[Decision] = []
    for _ in range(3 * MOST_DECIDED):
        assert one.shared.reserve([(one.counters[0], 1)], found.append) is None
    one.ahead_s += START_S
    one.shared.sync()
    one.line.turn()
    turns = []
    while one.later:
        before = len(found)
        one.later.popleft()()
        turns.append(len(found) - before)
    assert len(found) == 3 * MOST_DECIDED and max(turns) == MOST_DECIDED


def test_a_call_for_which_too_many_wait_is_repeated_and_at_last_refused(redis: RedisConnection) -> None:
    (one,) = instances(redis, 1)
    found: list[Decision] = []
    assert one.shared.reserve([(one.counters[0], 1)], found.append) is None
    *_, on_answer = one.line.waiting.pop()
    on_answer(Failed(unknown=False))
    assert one.shared.is_shared and found == []
    one.sync()
    assert [type(decision) for decision in found] == [SharedReservation]
    assert one.shared.reserve([(one.counters[0], 1)], found.append) is None
    *_, on_answer = one.line.waiting.pop()
    on_answer(Failed(unknown=False))
    one.ahead_s += one.line.timeout_s * 2
    one.sync()
    assert [type(decision) for decision in found] == [SharedReservation, Unavailable]
    assert amounts(redis, RATE) == (1, 1)
