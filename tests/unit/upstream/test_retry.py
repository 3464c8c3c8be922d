"""Retries: what is repeated, after what wait, and on whose budget."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from relayd.upstream.classify import classify
from relayd.upstream.retry import DEFAULT_FAULTS, FAULT_NAMES, IDEMPOTENT, SLICES, Budget, FailedAttempt, RetryPolicy
from relayd.upstream.spec import RetrySpec

SPEC = RetrySpec(attempts=3, backoff_s=0.5, max_backoff_s=4.0, on=frozenset(DEFAULT_FAULTS))
REFUSED = FailedAttempt(1, b"GET", classify("connect_failed", 0), sent=False)
BUSY = FailedAttempt(1, b"GET", classify("", 500))


def policy(spec: RetrySpec = SPEC, chance: float = 0.5, minimum: int = 100) -> RetryPolicy:
    return RetryPolicy(spec, Budget(spec.share, minimum, spec.window_s), lambda: chance)


def test_a_fault_that_is_named_is_tried_again_and_another_is_not() -> None:
    assert policy().decide(BUSY, 0.0) is not None
    assert policy(replace(SPEC, on=frozenset(("connect",)))).decide(BUSY, 0.0) is None


@pytest.mark.parametrize("status", [500, 502, 504, 404])
def test_a_status_can_be_named_by_its_number(status: int) -> None:
    case = FailedAttempt(1, b"GET", classify("", status))
    made = policy(replace(SPEC, on=frozenset(("502", "504", "404"))))
    assert (made.decide(case, 0.0) is not None) == (status != 500)


def test_after_the_commit_point_nothing_is_repeated() -> None:
    assert policy().decide(replace(REFUSED, committed=True), 0.0) is None


def test_the_first_attempt_counts_as_one() -> None:
    assert policy().decide(replace(BUSY, attempt=2), 0.0) is not None
    assert policy().decide(replace(BUSY, attempt=3), 0.0) is None
    assert policy(RetrySpec()).decide(REFUSED, 0.0) is None


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"BREW"])
def test_a_post_is_repeated_only_if_no_byte_was_sent_or_the_operator_says_so(method: bytes) -> None:
    case = replace(BUSY, method=method)
    assert policy().decide(case, 0.0) is None
    assert policy().decide(replace(case, sent=False), 0.0) is not None
    assert policy(replace(SPEC, idempotent=True)).decide(case, 0.0) is not None


@pytest.mark.parametrize("refusal", [
    classify("", 429), classify("", 429, retry_after_s=60.0), classify("", 529), classify("", 503, retry_after_s=1.0),
    classify("", 401, own_key=True), classify("", 429, client_key=True),
])
def test_a_post_that_was_refused_before_any_work_goes_to_another_endpoint_and_waits_for_none(refusal: Any) -> None:
    made = replace(SPEC, on=frozenset(DEFAULT_FAULTS))
    case = FailedAttempt(1, b"POST", refusal)
    assert policy(made).decide(replace(case, another=True), 0.0) == 0.0
    assert policy(made).decide(case, 0.0) is None, "without another one the client gets it at once"
    assert policy(replace(made, on=frozenset(("connect",)))).decide(replace(case, another=True), 0.0) is None


def test_a_post_that_may_have_been_worked_on_goes_nowhere_else() -> None:
    for outcome in (classify("", 500), classify("", 503), classify("upstream_closed", 0)):
        assert policy().decide(FailedAttempt(1, b"POST", outcome, another=True), 0.0) is None


def test_a_body_that_is_gone_cannot_be_sent_again() -> None:
    assert policy().decide(replace(REFUSED, replayable=False), 0.0) is None


def test_another_endpoint_is_asked_at_once() -> None:
    assert policy().decide(replace(BUSY, another=True), 0.0) == 0.0


def test_the_wait_is_any_time_up_to_a_bound_that_doubles_to_a_ceiling() -> None:
    spec = replace(SPEC, attempts=20)
    longest = [policy(spec, chance=1.0).wait_s(replace(BUSY, attempt=number)) for number in range(1, 7)]
    assert longest == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert policy(spec, chance=0.0).wait_s(BUSY) == 0.0


def test_waits_are_spread_evenly() -> None:
    made = RetryPolicy(SPEC, Budget(1.0, 10**6, 10.0), random.Random(5).random)
    waits = sorted(made.decide(BUSY, 0.0) or 0.0 for _ in range(2000))
    assert all(abs(waits[place] - place / 4000) < 0.02 for place in range(0, 2000, 100))


def test_patience_that_was_asked_for_is_waited_in_addition_or_too_much() -> None:
    case = replace(BUSY, classification=classify("", 429, retry_after_s=2.0))
    assert policy().decide(case, 0.0) == 2.25
    assert policy().decide(replace(case, classification=classify("", 429, retry_after_s=60.0)), 0.0) is None
    assert policy().decide(replace(case, classification=classify("", 429, retry_after_s=60.0), another=True), 0.0) == 0.0


def test_what_cannot_be_answered_before_the_deadline_is_not_begun_and_costs_nothing() -> None:
    made = policy(minimum=5)
    assert made.decide(replace(BUSY, remaining_s=0.2), 0.0) is None and made.budget.left(0.0) == 5
    assert made.decide(replace(BUSY, remaining_s=0.3), 0.0) == 0.25 and made.budget.left(0.0) == 4


def test_the_budget_bounds_all_retries_together() -> None:
    made = RetryPolicy(SPEC, Budget(0.2, 3, 10.0))
    for _ in range(10):
        made.budget.request(1.0)
    granted = [made.decide(BUSY, 1.0) is not None for _ in range(8)]
    assert granted == [True] * 5 + [False] * 3


def test_a_storm_makes_a_share_more_and_not_a_multiple() -> None:
    made = RetryPolicy(replace(SPEC, attempts=10), Budget(0.2, 3, 10.0))
    sent = 0
    for number in range(3000):  # 100 requests per second for 30 s, every one of which fails
        now_s = number / 100
        made.budget.request(now_s)
        sent += 1
        attempt = 1
        while made.decide(replace(BUSY, attempt=attempt), now_s) is not None:
            attempt += 1
            sent += 1
    assert sent <= 3000 * 1.2 + 3 * 4


def test_requests_and_retries_leave_the_window_together() -> None:
    budget = Budget(0.5, 0, 10.0)
    for _ in range(10):
        budget.request(0.5)
    assert [budget.withdraw(1.5) for _ in range(6)] == [True] * 5 + [False]
    assert budget.left(10.2) == 0  # the requests are too old, the retries are not
    assert budget.left(30.0) == 0


def test_a_budget_goes_on_in_the_next_plan_where_its_window_is_the_same() -> None:
    old, new, other = Budget(0.5, 1, 10.0), Budget(0.5, 1, 10.0), Budget(0.5, 1, 20.0)
    old.withdraw(5.0)
    new.inherit_state(old)
    other.inherit_state(old)
    assert not new.withdraw(5.0) and other.withdraw(5.0)
    old.request(5.0)
    assert sum(new._requests) == 0, "the two share nothing"


@given(
    attempt=st.integers(1, 6), method=st.sampled_from((b"GET", b"POST", b"PUT")), committed=st.booleans(),
    sent=st.booleans(), replayable=st.booleans(), another=st.booleans(), idempotent=st.booleans(),
    remaining_s=st.none() | st.floats(0.0, 10.0), status=st.sampled_from((0, 400, 401, 429, 500, 502, 503)),
    retry_after_s=st.none() | st.floats(0.0, 20.0), attempts=st.integers(1, 5), minimum=st.integers(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_nothing_is_ever_granted_against_a_law(
    attempt: int, method: bytes, committed: bool, sent: bool, replayable: bool, another: bool, idempotent: bool,
    remaining_s: float | None, status: int, retry_after_s: float | None, attempts: int, minimum: int,
) -> None:
    outcome = classify("" if status else "connect_failed", status, own_key=True, retry_after_s=retry_after_s)
    case = FailedAttempt(attempt, method, outcome, committed, sent, replayable, another, remaining_s)
    made = policy(replace(SPEC, attempts=attempts, idempotent=idempotent), minimum=minimum)
    before = made.budget.left(0.0)
    wait_s = made.decide(case, 0.0)
    assert made.budget.left(0.0) == before - (wait_s is not None)
    if wait_s is not None:
        assert not committed and replayable and attempt < attempts and minimum
        assert method in IDEMPOTENT or idempotent or not sent or (outcome.refused and another)
        assert wait_s >= 0.0 and (remaining_s is None or wait_s < remaining_s)
        assert another or retry_after_s is None or status not in (429, 503) or wait_s >= retry_after_s


class Spending(RuleBasedStateMachine):
    """The budget against a model that remembers every moment, at the grain of a slice."""

    @initialize(share=st.sampled_from((0.0, 0.2, 1.0)), minimum=st.integers(0, 4))
    def begin(self, share: float, minimum: int) -> None:
        self.budget = Budget(share, minimum, 10.0)
        self.now_s, self.requests, self.retries = 0.0, [], []  # type: ignore[var-annotated]

    def seen(self, moments: list[float]) -> int:
        oldest = int(self.now_s * SLICES / 10.0) - SLICES + 1
        return sum(int(one * SLICES / 10.0) >= oldest for one in moments)

    def allowed(self) -> int:
        return max(0, self.budget.minimum + int(self.budget.share * self.seen(self.requests)) - self.seen(self.retries))

    @rule(seconds=st.floats(0.0, 12.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(count=st.integers(1, 20))
    def requests_come(self, count: int) -> None:
        for _ in range(count):
            self.budget.request(self.now_s)
            self.requests.append(self.now_s)

    @rule()
    def withdraw(self) -> None:
        allowed = self.allowed()
        assert self.budget.withdraw(self.now_s) == (allowed > 0)
        if allowed:
            self.retries.append(self.now_s)

    @invariant()
    def what_is_left_is_what_the_window_says(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.left(self.now_s) == self.allowed()


Spending.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_the_budget_is_the_sliding_window_it_says = Spending.TestCase


def test_the_usual_words_are_words() -> None:
    assert set(DEFAULT_FAULTS) <= set(FAULT_NAMES)
