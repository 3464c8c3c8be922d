"""Active checks: when they are due, and what they mean."""

from __future__ import annotations

import random

import pytest

from relayd.upstream.endpoint import Endpoint
from relayd.upstream.health import FIRST_WITHIN_S, TIMED_OUT, Checker, CheckResult, evaluate
from relayd.upstream.spec import HealthSpec
from tests.unit.upstream.virtual import addresses

SPEC = HealthSpec(interval_s=10.0, healthy=2, unhealthy=3)
GOOD, BAD = CheckResult(True), CheckResult(False, "status 500")


def checker(spec: HealthSpec = SPEC, chance: float = 0.5) -> Checker:
    return Checker(spec, Endpoint(addresses(1)[0]), lambda: chance)


def run(one: Checker, *findings: CheckResult) -> str:
    """Checks one after the other, as the upstream carries them out."""
    for finding in findings:
        one.begin(0.0)
        one.endpoint.health = one.record(finding)
    return one.endpoint.health


def test_the_first_check_comes_soon_and_the_next_an_interval_later() -> None:
    one = checker()
    assert not one.due(100.0) and not one.due(100.9) and one.due(101.0)
    one.begin(101.0)
    assert not one.due(200.0), "one at a time"
    one.record(GOOD)
    assert not one.due(110.9) and one.due(111.0)


def test_chance_spreads_the_checks_of_many_endpoints() -> None:
    chance = random.Random(1)
    firsts, seconds = [], []
    for _ in range(200):
        one = Checker(SPEC, Endpoint(addresses(1)[0]), chance.random)
        one.due(0.0)
        assert one._due_s is not None
        firsts.append(one._due_s)
        one.begin(0.0)
        seconds.append(one._due_s)
    assert min(firsts) < 0.1 and FIRST_WITHIN_S - 0.1 < max(firsts) <= FIRST_WITHIN_S
    assert 8.0 <= min(seconds) < 8.2 and 11.8 < max(seconds) <= 12.0


def test_one_good_check_makes_an_unknown_endpoint_healthy() -> None:
    assert run(checker(), GOOD) == "passing"


def test_it_takes_several_failures_to_take_an_endpoint_out_and_several_successes_to_bring_it_back() -> None:
    one = checker()
    assert run(one, GOOD, BAD, BAD) == "passing"
    assert run(one, BAD) == "failing"
    assert run(one, GOOD) == "failing"
    assert run(one, GOOD) == "passing"


def test_a_failure_in_between_starts_again() -> None:
    one = checker()
    assert run(one, BAD, BAD, GOOD, BAD, BAD) == "passing"
    assert run(one, BAD, GOOD, BAD, GOOD) == "failing"


def test_an_unknown_endpoint_that_fails_is_taken_out_too() -> None:
    assert run(checker(), BAD, BAD) == "unknown"
    assert run(checker(), BAD, BAD, BAD) == "failing"


def test_a_busy_endpoint_is_not_a_sick_one() -> None:
    one = checker()
    run(one, GOOD)
    for _ in range(10):
        one.begin(0.0)
        one.endpoint.answers += 1  # it is slow, but it serves
        one.endpoint.health = one.record(TIMED_OUT)
    assert one.endpoint.health == "passing"


def test_an_answer_since_the_check_before_is_a_sign_of_life_too() -> None:
    one = checker()
    run(one, GOOD)
    one.endpoint.answers += 1
    assert run(one, TIMED_OUT, TIMED_OUT, TIMED_OUT) == "passing"
    assert run(one, TIMED_OUT) == "failing"


def test_an_endpoint_that_serves_but_answers_its_check_badly_is_out() -> None:
    one = checker()
    for _ in range(3):
        one.begin(0.0)
        one.endpoint.answers += 1
        one.endpoint.health = one.record(BAD)
    assert one.endpoint.health == "failing"


def test_a_silent_endpoint_that_times_out_is_out() -> None:
    assert run(checker(), TIMED_OUT, TIMED_OUT, TIMED_OUT) == "failing"


def test_a_disabled_endpoint_is_left_alone_and_a_drained_one_is_watched() -> None:
    one = checker()
    one.due(0.0)
    one.endpoint.state = "disabled"
    assert not one.due(100.0)
    one.endpoint.state = "draining"
    assert one.due(100.0)


def test_a_check_that_was_given_up_can_be_begun_again() -> None:
    one = checker()
    one.begin(0.0)
    one.give_up()
    assert one.endpoint.health == "unknown" and one.due(10.0)


@pytest.mark.parametrize(("status", "body", "good"), [
    (200, b"ok", True), (204, b"so ok it is", True), (301, b"ok", False), (404, b"ok", False), (200, b"starting", False),
])
def test_an_answer_is_judged_by_status_and_body(status: int, body: bytes, good: bool) -> None:
    finding = evaluate(HealthSpec(statuses=((200, 200), (204, 204)), body=b"ok"), status, body)
    assert finding.good is good and bool(finding.why) is not good and not finding.timed_out
