"""The scripts in a real server, compared with `Window` and `Ledger` for the same history."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from relayd.limits.counter import COST, REQUESTS, TOTAL, Counter, Rule
from relayd.limits.ledger import Exceeded, Ledger, Reservation
from relayd.limits.shared_calls import (
    Entry,
    Operation,
    Use,
    crossed,
    held,
    name_of,
    release_args,
    reserve_args,
    saved,
    settle_args,
    uses,
)
from relayd.limits.shared_scripts import LEAVE, RESERVE, SETTLE, SYNC, Script
from relayd.limits.window import DAY_MS, Moment, Span
from tests.aids.redis_connection import RedisConnection
from tests.functional.harness.redis import PROGRAM, Redis

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server")

RULES = (
    Rule("consumer team", REQUESTS, 3, Span.sliding(60)), Rule("route llm", TOTAL, 40, Span.sliding(10)),
    Rule("consumer team", TOTAL, 90, Span("day")), Rule("group all", COST, 150, Span("month"), warn=(0.2, 0.5)),
    Rule("group all", REQUESTS, 12, Span("total")),
    Rule("upstream up", TOTAL, 45, Span.sliding(366 * 86_400)),
)  # fmt: skip
START_MS = 1_795_910_400_000  # midnight UTC
OPEN, INSTANCES, MASTER = "{t}:open:a", "{t}:instances", "{t}:master"
FAR_MS = 2**52


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisConnection]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        made = RedisConnection(server.port)
        yield made
        made.close()


class Server:
    """The scripts in an empty server."""

    def __init__(self, connection: RedisConnection) -> None:
        self.redis = connection
        connection("FLUSHALL")

    def run(self, script: Script, keys: Sequence[str], args: Sequence[int | str]) -> Any:
        return self.redis("EVAL", script.text, len(keys), *keys, *args)

    def reserve(self, demands: Sequence[tuple[Counter, int]], number: int, now_ms: int, expires_ms: int = FAR_MS) -> Any:
        keys = [OPEN, *[key(counter) for counter, _ in demands]]
        return self.run(RESERVE, keys, reserve_args(demands, number, expires_ms, now_ms))

    def settle(self, counters: Sequence[Counter], operations: Sequence[Operation], batch: int, now_ms: int | str) -> Any:
        keys = [OPEN, *[key(counter) for counter in counters]]
        return self.run(SETTLE, keys, settle_args(counters, operations, batch, now_ms))

    def saved(self, counter: Counter) -> tuple[dict[int, int], dict[int, int]]:
        slots, holds = saved(self.redis("HGETALL", key(counter)))
        return nonzero(slots), nonzero(holds)


def key(counter: Counter) -> str:
    return "{t}:window:" + name_of(counter.window.key)


def nonzero(amounts: dict[int, int]) -> dict[int, int]:
    return {slot: amount for slot, amount in sorted(amounts.items()) if amount}


def counters() -> list[Counter]:
    ledger = Ledger()
    return [ledger.counter(one) for one in RULES]


@dataclass(eq=False)
class Open:
    """A reservation on both sides."""

    number: int
    reservation: Reservation
    amounts: tuple[int, ...]

    def operation(self, amounts: Sequence[int]) -> Operation:
        return Operation(self.number, [
            Entry(counter, slot, amount)
            for (counter, slot, _), amount in zip(self.reservation.entries, amounts, strict=True)
        ])


class Histories(RuleBasedStateMachine):
    """Any interleaving of requests, endings and changes of the clock."""

    opened = Bundle("opened")
    connection: RedisConnection

    def __init__(self) -> None:
        super().__init__()
        self.server = Server(self.connection)
        self.now_ms = START_MS
        self.ledger = Ledger()
        self.counters = [self.ledger.counter(one) for one in RULES]
        self.numbers = 0
        self.batches = 0

    @rule(target=opened, amounts=st.tuples(*[st.integers(0, one) for one in (1, 30, 30, 60, 1, 4)]), which=st.integers(1, 63))
    def begin(self, amounts: tuple[int, ...], which: int) -> object:
        demands = [one for index, one in enumerate(zip(self.counters, amounts, strict=True)) if which >> index & 1]
        found = self.ledger.reserve(demands, Moment(self.now_ms, self.now_ms))
        self.numbers += 1
        answer = self.server.reserve(demands, self.numbers, self.now_ms)
        states = [Use(one.window._slot, one.window.used, one.window.held) for one, _ in demands]
        if isinstance(found, Exceeded):
            assert answer[0] == 0
            assert demands[answer[2] - 1][0] is found.counter
            wait_s = None if answer[3] < 0 else max(0.0, (answer[3] - self.now_ms) / 1000)
            assert wait_s == found.retry_after_s
            assert uses(answer[4:]) == states
            return multiple()
        assert answer[:2] == [1, self.now_ms]
        assert uses(answer[2:]) == states
        return Open(self.numbers, found, amounts)

    @rule(ones=st.lists(consumes(opened), min_size=1, max_size=3), factor=st.floats(0, 2))
    def settle(self, ones: list[Open], factor: float) -> None:
        self.batches += 1
        operations, expected = [], []
        for one in ones:
            for counter, _, _ in one.reservation.entries:
                counter.advance(Moment(self.now_ms, self.now_ms))
        for one in ones:
            amounts = [int(held * factor) for _, _, held in one.reservation.entries]
            operations.append(one.operation(amounts))
            expected += [(counter.rule.scope, share) for counter, share in one.reservation.settle(amounts)]
        used = list({entry.counter.window.key: entry.counter for one in operations for entry in one.entries}.values())
        answer = self.server.settle(used, operations, self.batches, self.now_ms)
        found = [(counter.rule.scope, share) for counter, first, end in crossed(answer[1], used)
                 for share in counter.rule.warn[first:end]]  # fmt: skip
        assert found == expected
        assert uses(answer[2]) == [Use(one.window._slot, one.window.used, one.window.held) for one in used]
        again = self.server.settle(used, operations, self.batches, self.now_ms)
        assert again == [self.now_ms, answer[1], []]

    @rule(seconds=st.one_of(st.floats(0, 0.5), st.floats(0, 40), st.sampled_from([3600.0, 86_400.0, 33 * 86_400.0])))
    def wait(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    @rule(seconds=st.one_of(st.floats(0, 5), st.floats(0, 90), st.sampled_from([86_400.0, 40 * 86_400.0])))
    def set_clock_back(self, seconds: float) -> None:
        self.now_ms -= int(seconds * 1000)

    @invariant()
    def amounts_by_slot_are_the_same(self) -> None:
        for one in self.counters:
            assert self.server.saved(one) == (nonzero(one.window._slots), nonzero(one.window._held)), one.rule


def test_the_scripts_decide_as_the_ledger_does_for_every_history(connection: RedisConnection) -> None:
    Histories.connection = connection
    run_state_machine_as_test(Histories, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


@given(st.integers(0, 60_000 * DAY_MS), st.sampled_from([Span("month"), Span("day"), Span.sliding(1), Span.sliding(0.007)]))
@settings(max_examples=200, deadline=None)
def test_slots_and_their_ends_are_the_same_at_every_time(connection: RedisConnection, now_ms: int, span: Span) -> None:
    server = Server(connection)
    counter = Ledger().counter(Rule("x", REQUESTS, 1, span))
    assert server.reserve([(counter, 1)], 1, now_ms)[2] == span.slot(now_ms)
    assert server.reserve([(counter, 1)], 2, now_ms)[3] == span.freed_ms(span.slot(now_ms))


def test_large_amounts_are_exact(connection: RedisConnection) -> None:
    server, one = Server(connection), counters()[3]
    limit = 9_000_000_000_000_000
    large = Ledger().counter(Rule("x", COST, limit, Span("total")))
    assert server.reserve([(large, limit - 1)], 1, START_MS) == [1, START_MS, 0, limit - 1, limit - 1]
    answer = server.settle([large], [Operation(1, [Entry(large, 0, limit - 3)])], 1, START_MS)
    assert answer[2] == [0, limit - 3, 0]
    assert server.reserve([(large, 4)], 2, START_MS)[0] == 0
    assert server.reserve([(large, 3)], 3, START_MS)[0] == 1
    assert server.saved(one) == ({}, {})


def test_a_reservation_that_comes_too_late_has_no_effect(connection: RedisConnection) -> None:
    server, one = Server(connection), counters()[0]
    assert server.reserve([(one, 1)], 1, START_MS, expires_ms=START_MS - 1) == [2, START_MS]
    assert server.redis("DBSIZE") == 0


def test_the_real_amounts_of_a_lost_reservation_are_counted_once(connection: RedisConnection) -> None:
    server, (one, *_) = Server(connection), counters()
    slot = server.reserve([(one, 1)], 1, START_MS)[2]
    server.redis("FLUSHALL")
    batch = [Operation(1, [Entry(one, slot, 2)]), Operation(0, [Entry(one, slot, 1)]), Operation(2, [Entry(one, slot, 0)])]
    assert server.settle([one], batch, 5, START_MS)[2] == [slot, 3, 0]
    assert server.settle([one], batch, 5, START_MS)[2] == []
    assert server.settle([one], batch, 4, START_MS)[2] == [], "an earlier batch that comes late"
    assert server.saved(one) == ({slot: 3}, {})


def test_what_an_instance_held_that_is_gone_is_taken_back_once(connection: RedisConnection) -> None:
    server, (one, two, *_) = Server(connection), counters()
    server.run(SYNC, [INSTANCES, OPEN], ["", "a", 7])
    for number in range(1, 151):
        server.reserve([(two, 0), (counters()[5], 0)] if number > 1 else [(one, 1), (two, 5)], number, START_MS)
    server.settle([one], [Operation(0, [Entry(one, one.rule.span.slot(START_MS), 1)])], 1, START_MS)
    assert server.run(LEAVE, [INSTANCES, OPEN, MASTER], ["a", 6]) is None, "it runs"
    while found := held(server.run(LEAVE, [INSTANCES, OPEN, MASTER], ["a", 7])):
        keys, args = release_args(found, START_MS)
        for _ in range(2):
            server.run(SETTLE, [OPEN, *keys], args)
    assert sum(server.saved(one)[0].values()) == 1
    assert server.saved(one)[1] == server.saved(two)[1] == server.saved(two)[0] == {}
    assert server.redis("HGETALL", INSTANCES) == []
    assert server.run(LEAVE, [INSTANCES, OPEN, MASTER], ["a", 7]) is None


def test_keys_of_windows_expire_after_their_span_but_not_those_of_a_total(connection: RedisConnection) -> None:
    server, some = Server(connection), counters()
    server.reserve([(one, 1) for one in some], 1, START_MS)
    left_ms = [server.redis("PTTL", key(one)) for one in some]
    assert 62_000 < left_ms[0] <= 122_000
    assert DAY_MS < left_ms[2] <= 2 * DAY_MS
    assert 31 * DAY_MS < left_ms[3] <= 33 * DAY_MS
    assert left_ms[4] == -1
    assert 366 * DAY_MS < left_ms[5] < 380 * DAY_MS


def test_the_time_is_that_of_the_server(connection: RedisConnection) -> None:
    server, one = Server(connection), counters()[2]
    keys = [OPEN, key(one)]
    answer = server.run(RESERVE, keys, reserve_args([(one, 1)], 1, FAR_MS))
    seconds, _ = server.redis("TIME")
    assert abs(answer[1] / 1000 - int(seconds)) < 5
    assert answer[2] == (datetime.datetime.fromtimestamp(answer[1] / 1000, datetime.UTC).date() - datetime.date(1970, 1, 1)).days
    assert server.run(SYNC, [INSTANCES, OPEN, key(one)], ["", "a", 1])[1] == [b"a", b"1"]


def test_a_server_without_memory_refuses_a_reservation_as_a_whole_and_takes_settlements(connection: RedisConnection) -> None:
    server, (one, two, *_) = Server(connection), counters()
    slot = server.reserve([(one, 1), (two, 5)], 1, START_MS)[2]
    before = [server.saved(counter) for counter in (one, two)]
    server.redis("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(Exception, match="OOM"):
            server.reserve([(one, 1), (two, 5)], 2, START_MS)
        assert [server.saved(counter) for counter in (one, two)] == before
        server.settle([one, two], [Operation(1, [Entry(one, slot, 1), Entry(two, slot, 2)])], 1, START_MS)
    finally:
        server.redis("CONFIG", "SET", "maxmemory", 0)
    assert [sum(server.saved(counter)[0].values()) for counter in (one, two)] == [1, 2]
    assert [server.saved(counter)[1] for counter in (one, two)] == [{}, {}]


@pytest.mark.parametrize("name", ["consumer a requests/60000ms", "each é\n{x}", "\udcff \r\t"])
def test_names_are_readable_and_have_no_braces_or_line_ends(name: str) -> None:
    made = name_of(name)
    assert made.isascii() and made.isprintable() and "{" not in made
    assert name_of("consumer a requests/60000ms model=gpt-*") == "consumer a requests/60000ms model=gpt-*"
