"""The bound on buffered request bodies: which fit, which wait, which are refused."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.limits.request_buffers import (
    FREE_BYTES,
    NEVER_FITS,
    PREEMPTED,
    READING,
    RELEASED,
    RETAINED,
    STEP_BYTES,
    TIMED_OUT,
    TOO_SLOW,
    WAITING,
    Claim,
    NeverFits,
    RequestBuffers,
)
from tests.unit.limits.gate_rig import Hand

MIB = 1024 * 1024
LIMIT = 10 * MIB
TIMEOUT_S = 10.0


class Rig:
    def __init__(self, limit: int = LIMIT) -> None:
        self.clock = Hand()
        self.buffers = RequestBuffers(limit, TIMEOUT_S, self.clock)
        self.granted: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.retry_after_s: list[float] = []

    def open(self, name: str, length: int | None) -> Claim:
        def refused(reason: str, retry_after_s: float) -> None:
            self.refused.append((name, reason))
            self.retry_after_s.append(retry_after_s)

        return self.buffers.open(length, lambda: self.granted.append(name), refused)

    def sweep(self, later_s: float = 0.0) -> None:
        self.clock.now_s += later_s
        self.buffers.sweep(self.clock.now_s)


def test_small_bodies_cost_nothing_and_never_wait() -> None:
    rig = Rig()
    full = rig.open("full", LIMIT + FREE_BYTES)
    assert full.state == READING and rig.buffers.used == LIMIT
    small = rig.open("small", FREE_BYTES)
    assert small.state == READING and rig.buffers.grow(small, FREE_BYTES) and rig.buffers.used == LIMIT
    assert rig.open("next", FREE_BYTES + 1).state == WAITING


def test_a_body_that_can_never_fit_is_refused_immediately() -> None:
    rig = Rig()
    with pytest.raises(NeverFits):
        rig.open("large", LIMIT + FREE_BYTES + 1)
    grown = rig.open("grown", None)
    assert rig.buffers.grow(grown, LIMIT + FREE_BYTES)
    assert not rig.buffers.grow(grown, LIMIT + FREE_BYTES + 1)
    assert rig.refused == [("grown", NEVER_FITS)] and rig.buffers.used == 0


def test_waiting_bodies_are_granted_in_order_of_arrival() -> None:
    rig = Rig()
    first = rig.open("first", 9 * MIB)
    names = ["large", "small", "smaller"]
    claims = [rig.open(name, size) for name, size in zip(names, (8 * MIB, 2 * MIB, MIB), strict=True)]
    assert [one.state for one in claims] == [WAITING] * 3, "a smaller body does not overtake"
    rig.buffers.settle(first, 9 * MIB)
    assert not rig.granted
    rig.buffers.release(first)
    assert rig.granted == ["large", "small"] and rig.buffers.waiting == 1
    rig.buffers.release(claims[0])
    assert rig.granted == names


def test_a_wait_is_bounded_and_gives_retry_after() -> None:
    rig = Rig()
    first = rig.open("first", 10 * MIB)
    rig.buffers.grow(first, 10 * MIB - 1)
    rig.buffers.settle(first, 10 * MIB)
    second = rig.open("second", MIB)
    rig.sweep(TIMEOUT_S - 0.1)
    assert second.state == WAITING
    rig.sweep(0.2)
    assert rig.refused == [("second", TIMED_OUT)] and rig.retry_after_s[0] > 0 and second.state == RELEASED
    rig.buffers.release(second)  # as its exchange does
    assert rig.buffers.describe()["refused"] == {TIMED_OUT: 1, PREEMPTED: 0, TOO_SLOW: 0, NEVER_FITS: 0}


def test_incomplete_bodies_that_hold_all_memory_are_refused_until_the_oldest_continues() -> None:
    rig = Rig(100 * MIB)
    claims = [rig.open(str(number), None) for number in range(100)]
    while all(one.state == READING for one in claims):
        for one in claims:
            rig.buffers.grow(one, one.arrived + 300_000)
    for one in claims:
        while one.state == READING:
            rig.buffers.grow(one, one.arrived + 300_000)
    assert all(one.state == WAITING for one in claims)
    rig.sweep()
    assert rig.granted[0] == "0" and {reason for _, reason in rig.refused} == {PREEMPTED}
    assert [name for name, _ in rig.refused] == [str(number) for number in range(99, 99 - len(rig.refused), -1)]
    assert len(rig.refused) < 5, "no more than it takes"


def test_an_announced_length_alone_keeps_no_other_body_waiting() -> None:
    rig = Rig()
    idle = [rig.open(f"idle {number}", 5 * MIB + FREE_BYTES) for number in range(2)]
    honest = rig.open("honest", 4 * MIB)
    assert honest.state == WAITING
    rig.sweep(2.0)
    assert rig.granted == ["honest"] and [one.state for one in idle] == [READING, READING]
    assert rig.buffers.used == 4 * MIB - FREE_BYTES
    assert rig.buffers.grow(idle[0], 300_000), "it may still arrive, as memory allows"


def test_a_body_that_arrives_in_time_keeps_its_reservation() -> None:
    rig = Rig()
    fast = rig.open("fast", 10 * MIB)
    rig.open("second", 4 * MIB)
    for second in range(1, 6):
        rig.buffers.grow(fast, second * 2 * MIB - 1)
        rig.sweep(1.0)
    assert not rig.granted and fast.held == 10 * MIB - FREE_BYTES


def test_a_slow_body_is_refused_before_a_waiting_one() -> None:
    rig = Rig()
    slow = rig.open("slow", 9 * MIB)
    rig.buffers.grow(slow, 8 * MIB)
    rig.clock.now_s += 1.0
    other = rig.open("other", 9 * MIB)
    for _ in range(9):
        rig.buffers.grow(slow, slow.arrived + 1000)
        rig.sweep(1.0)
    assert other.state == WAITING and not rig.refused
    rig.sweep(1.5)
    assert rig.refused == [("slow", TOO_SLOW)] and rig.granted == ["other"]


def test_a_body_that_waits_for_memory_is_not_slow() -> None:
    rig = Rig()
    growing = rig.open("growing", None)
    rig.buffers.grow(growing, 5 * MIB)
    kept = rig.open("kept", 5 * MIB)
    rig.buffers.settle(kept, 5 * MIB)
    rig.open("other", 5 * MIB)
    assert not rig.buffers.grow(growing, 7 * MIB)
    rig.sweep(TIMEOUT_S - 0.5)
    rig.buffers.release(kept)
    assert growing.state == READING and rig.granted[0] == "growing", "the older body is first"
    rig.sweep(1.0)
    assert growing.state == READING and "growing" not in dict(rig.refused)


def test_bytes_in_memory_count_even_if_they_do_not_fit() -> None:
    rig = Rig()
    claim = rig.open("answer", None)
    rig.buffers.settle(claim, 2 * LIMIT)
    assert rig.buffers.used > LIMIT and rig.buffers.peak == rig.buffers.used
    assert rig.open("body", MIB).state == WAITING and not rig.buffers.has_capacity(MIB)
    rig.buffers.settle(claim, 0)
    assert rig.granted == ["body"] and rig.buffers.has_capacity(MIB)


def test_retained_bytes_are_released() -> None:
    rig = Rig()
    give_back = rig.buffers.retain(MIB + FREE_BYTES)
    assert rig.buffers.used == MIB
    give_back()
    assert rig.buffers.used == 0


def test_without_a_bound_everything_fits_and_is_counted() -> None:
    rig = Rig(0)
    assert [rig.open(str(number), 1 << 40).state for number in range(3)] == [READING] * 3
    assert rig.buffers.used > 1 << 41


def test_a_new_bound_applies_immediately_and_releases_nothing() -> None:
    rig = Rig()
    held = rig.open("held", 8 * MIB)
    waits = rig.open("waits", 8 * MIB)
    rig.buffers.configure(6 * MIB, TIMEOUT_S)
    assert rig.refused == [("waits", NEVER_FITS)] and held.held and waits.state == RELEASED
    more = rig.open("more", 5 * MIB)
    assert more.state == WAITING
    rig.buffers.configure(20 * MIB, TIMEOUT_S)
    assert more.state == READING


def test_a_finished_wait_holds_no_reference() -> None:
    rig = Rig()
    rig.open("first", 10 * MIB)
    second = rig.open("second", MIB)
    rig.buffers.release(second)
    rig.buffers.release(second)
    assert rig.buffers.waiting == 0 and second.on_granted.__name__ == "_ignore_granted"


class Model(RuleBasedStateMachine):
    """Bodies are opened, grow, settle and are released in any order; refused ones are released too, as by their exchanges."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Hand()
        self.buffers = RequestBuffers(4 * MIB, TIMEOUT_S, self.clock)
        self.claims: list[Claim] = []
        self.settled: set[int] = set()
        self.reported: dict[int, list[str]] = {}

    def pick(self, number: int) -> Claim:
        return self.claims[number % len(self.claims)]

    @rule(length=st.one_of(st.none(), st.integers(0, 5 * MIB)))
    def comes(self, length: int | None) -> None:
        number = len(self.reported)
        reported = self.reported[number] = []
        try:
            claim = self.buffers.open(length, lambda: reported.append("granted"), lambda reason, _: reported.append(reason))
        except NeverFits:
            assert length is not None and length - FREE_BYTES > self.buffers.limit
            return
        self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 99), more=st.integers(1, STEP_BYTES * 8))
    def grows(self, number: int, more: int) -> None:
        claim = self.pick(number)
        if claim.state == READING:
            self.buffers.grow(claim, claim.arrived + more)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 99))
    def is_read(self, number: int) -> None:
        claim = self.pick(number)
        if claim.state == READING:
            self.buffers.settle(claim, claim.arrived)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 99))
    def leaves(self, number: int) -> None:
        claim = self.pick(number)
        self.claims.remove(claim)
        self.buffers.release(claim)

    @rule(later_s=st.floats(0, 15))
    def time_passes(self, later_s: float) -> None:
        self.clock.now_s += later_s
        self.buffers.sweep(self.clock.now_s)

    @invariant()
    def the_sums_are_right(self) -> None:
        buffers = self.buffers
        assert buffers.used == sum(one.held for one in self.claims)
        assert buffers.waiting == sum(one.state == WAITING for one in self.claims)
        # What is in memory beyond what is counted: the free bytes of each body, and the piece that it waits with.
        assert all(one.held <= buffers.limit for one in self.claims)
        assert buffers.used <= buffers.limit + 8 * STEP_BYTES * sum(one.state == RETAINED for one in self.claims)

    @invariant()
    def nobody_is_called_twice_for_one_wait(self) -> None:
        for reported in self.reported.values():
            assert sum(word != "granted" for word in reported) <= 1

    @invariant()
    def nobody_waits_beside_free_memory(self) -> None:
        waiting = sorted((one for one in self.claims if one.state == WAITING), key=lambda one: one.number)
        if waiting:
            assert self.buffers.used + waiting[0].wanted > self.buffers.limit

    def teardown(self) -> None:
        """However it stands: with time alone, and nobody moving, every wait ends."""
        for _ in range(3 + len(self.claims)):
            self.clock.now_s += TIMEOUT_S + 1
            self.buffers.sweep(self.clock.now_s)
            self.buffers.sweep(self.clock.now_s)
        assert not self.buffers.waiting
        for claim in self.claims:
            self.buffers.release(claim)
        assert self.buffers.used == 0 and not self.buffers.describe()["bodies"]


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
