"""Instances that count in a server whose replica takes over without the last changes."""

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

from relayd.limits.counter import TOTAL, Rule
from relayd.limits.ledger import Exceeded
from relayd.limits.shared_calls import name_of, saved
from relayd.limits.shared_ledger import WAIT_MS
from relayd.limits.shared_reservation import SharedReservation, Unavailable
from relayd.limits.window import Span
from tests.aids.redis_connection import RedisConnection
from tests.functional.harness.redis import PROGRAM, Redis
from tests.unit.limits.shared_rig import Instance, Master

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server")

LIMIT = 20
BUDGET = Rule("group all", TOTAL, LIMIT, Span("total"))
RATE = Rule("group all", TOTAL, LIMIT, Span.sliding(3600))
RULES = BUDGET, RATE


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisConnection]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        made = RedisConnection(server.port)
        yield made
        made.close()


@pytest.fixture
def master(connection: RedisConnection) -> Master:
    connection("FLUSHALL")
    return Master(connection)


def joined(master: Master, count: int = 2, on_failure: str = "closed") -> list[Instance]:
    made = [Instance(master.redis, RULES, on_failure, master) for _ in range(count)]
    for one in made:
        one.sync()
        assert one.shared.is_shared
    for one in made:
        one.sync()
    master.replicate()
    return made


def fail_over(master: Master, instances: list[Instance]) -> None:
    master.fail_over()
    for one in instances:
        one.shared.stop_sharing()


def amounts(redis: RedisConnection, rule: Rule = BUDGET) -> tuple[int, int]:
    """What is used, and the part of it that is held, in the server."""
    found = saved(redis("HGETALL", "{relayd}:rates:window:" + name_of(rule.key)))
    return sum(found.slots.values()), sum(found.held.values())


def granted(one: Instance, amount: int) -> SharedReservation:
    found = one.reserve(*[(counter, amount) for counter in one.counters])
    assert isinstance(found, SharedReservation)
    return found


def test_what_the_new_master_lacks_is_there_before_it_decides(master: Master) -> None:
    one, other = joined(master)
    ended, running = granted(one, 5), granted(one, 7)
    ended.settle([3, 3])
    one.run()
    granted(other, 6)
    assert amounts(master.redis) == (16, 13)
    fail_over(master, [one, other])
    assert amounts(master.redis) == (0, 0)
    one.sync()
    assert not one.shared.is_shared, "the other one has not reported yet"
    assert isinstance(one.reserve((one.counters[0], 1)), Unavailable)
    assert amounts(master.redis) == (10, 7)
    other.sync()
    assert other.shared.is_shared and amounts(master.redis) == amounts(master.redis, RATE) == (16, 13)
    one.sync()
    assert one.shared.is_shared
    assert isinstance(one.reserve((one.counters[0], 5)), Exceeded)
    running.settle([1, 1])
    one.run()
    assert amounts(master.redis) == amounts(master.redis, RATE) == (10, 6)


def test_nothing_is_sent_to_a_server_before_it_is_known_what_it_has(master: Master) -> None:
    one, _ = joined(master)
    granted(one, 5).settle([3, 3])
    one.run()
    granted(one, 6).settle([6, 6])
    fail_over(master, [one])
    one.line.calls.clear()
    one.sync()
    assert one.line.calls[:2] == ["join", "settle"]
    assert amounts(master.redis) == (9, 0)


def test_a_connection_to_the_same_server_waits_for_nobody(master: Master) -> None:
    one, other = joined(master)
    for instance in (one, other):
        instance.shared.stop_sharing()
    one.sync()
    assert one.shared.is_shared


def test_an_instance_that_does_not_come_back_is_waited_for_no_longer_than_its_time(master: Master) -> None:
    one, other = joined(master)
    granted(other, 6)
    fail_over(master, [one, other])
    one.sync()
    assert not one.shared.is_shared
    ends = int(master.redis("HGET", "{relayd}:rates:master", "until"))
    seconds, micros = master.redis("TIME")
    assert 0 < ends - int(seconds) * 1000 - int(micros) // 1000 <= WAIT_MS
    master.redis("HSET", "{relayd}:rates:master", "until", ends - WAIT_MS)
    one.sync()
    assert one.shared.is_shared
    other.sync()
    assert other.shared.is_shared and amounts(master.redis) == (6, 6)


def test_instances_wait_for_each_other_if_the_server_has_forgotten_all_of_them(master: Master) -> None:
    one, other = joined(master)
    granted(other, 6)
    master.redis("FLUSHALL")
    master.replicate()
    fail_over(master, [one, other])
    one.sync()
    assert not one.shared.is_shared
    other.sync()
    one.sync()
    assert one.shared.is_shared and other.shared.is_shared and amounts(master.redis) == (6, 6)


def test_a_database_that_somebody_has_emptied_gets_back_what_the_instances_know(master: Master) -> None:
    (one,) = joined(master, 1)
    granted(one, 4).settle([4, 4])
    one.run()
    granted(one, 6)
    master.redis("FLUSHALL")
    one.sync()
    assert one.shared.is_shared and amounts(master.redis) == (10, 6)


def test_reservations_that_were_decided_locally_are_made_before_the_server_decides(master: Master) -> None:
    (one,) = joined(master, 1, "local")
    one.shared.stop_sharing()
    first, second = granted(one, 12), granted(one, 5)
    first.settle([10, 10])
    one.sync()
    assert one.shared.is_shared and amounts(master.redis) == (15, 5)
    assert isinstance(one.reserve((one.counters[0], 6)), Exceeded)
    second.settle([2, 2])
    one.run()
    one.sync()
    assert amounts(master.redis) == (12, 0)
    assert [(counter.window.used, counter.window.held) for counter in one.counters] == [(12, 0)] * 2


def test_requests_of_a_lost_connection_are_decided_after_those_before_them(master: Master) -> None:
    """The server has decided for some calls, others got no answer: the copies must have the former first."""
    (one,) = joined(master, 1, "local")
    found: list[object] = []
    for _ in range(4):
        one.shared.reserve([(one.counters[0], 5)], found.append)
    one.shared.stop_sharing()
    one.line.available = False
    assert one.shared.reserve([(one.counters[0], 5)], found.append) is None, "it waits for the four"
    one.run()
    assert [type(decision) for decision in found] == [SharedReservation] * 4 + [Exceeded]


class Failovers(RuleBasedStateMachine):
    """Requests of three instances, failovers to a replica that lags, and faults of connections: together they use no
    more than the limit at any time, and in the end the server has exactly what was used."""

    opened = Bundle("opened")
    redis: RedisConnection

    @initialize()
    def begin(self) -> None:
        self.redis("FLUSHALL")
        self.master = Master(self.redis)
        self.instances = joined(self.master, 3)
        self.used = 0
        self.open: dict[SharedReservation, int] = {}
        self.forgotten: list[SharedReservation] = []  # which end with the test

    @rule()
    def replicate(self) -> None:
        self.master.replicate()

    @rule(order=st.lists(st.integers(0, 2), max_size=6), amount=st.integers(1, LIMIT), asks=st.booleans())
    def fail_over(self, order: list[int], amount: int, asks: bool) -> None:
        """The instances come back in any order, some not yet, and ask at once."""
        fail_over(self.master, self.instances)
        for which in order:
            self.instances[which].sync()
            if asks:
                found = self.ask(which, amount)
                if found is not None:
                    self.forgotten.append(found)

    @rule(which=st.integers(0, 2), fault=st.sampled_from(["", "", "", "call", "answer"]))
    def change(self, which: int, fault: str) -> None:
        line = self.instances[which].line
        line.lose_call, line.lose_answer = fault == "call", fault == "answer"

    @rule(which=st.integers(0, 2), seconds=st.sampled_from([0.0, 2.0]))
    def sync(self, which: int, seconds: float) -> None:
        self.instances[which].ahead_s += seconds
        self.instances[which].sync()

    @rule()
    def sync_all(self) -> None:
        for _ in range(2):
            for one in self.instances:
                one.sync()

    @rule(target=opened, which=st.integers(0, 2), amount=st.integers(1, 8))
    def reserve(self, which: int, amount: int) -> object:
        return self.ask(which, amount) or multiple()

    def ask(self, which: int, amount: int) -> SharedReservation | None:
        one = self.instances[which]
        found = one.reserve(*[(counter, amount) for counter in one.counters])
        if not isinstance(found, SharedReservation):
            return None
        self.open[found] = amount
        return found

    @rule(found=consumes(opened), share=st.floats(0, 1), runs=st.booleans())
    def settle(self, found: SharedReservation, share: float, runs: bool) -> None:
        amount = round(self.open.pop(found) * share)
        found.settle([amount, amount])
        self.used += amount
        if runs:
            for one in self.instances:
                one.run()

    @invariant()
    def no_more_is_used_than_the_limit(self) -> None:
        if hasattr(self, "instances"):
            assert self.used + sum(self.open.values()) <= LIMIT

    def teardown(self) -> None:
        if not hasattr(self, "instances"):
            return
        for found in self.open:
            found.refund()
        for one in self.instances:
            one.line.lose_call = one.line.lose_answer = False
        for _ in range(4):
            for one in self.instances:
                one.ahead_s += 2
                one.sync()
        assert all(one.shared.is_shared and one.shared.is_settled for one in self.instances)
        assert amounts(self.redis) == amounts(self.redis, RATE) == (self.used, 0)


def test_no_failover_admits_more_than_the_limit_or_loses_a_use(connection: RedisConnection) -> None:
    Failovers.redis = connection
    run_state_machine_as_test(Failovers, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
