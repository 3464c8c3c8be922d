"""Who may be asked now: time, tries, the last resort, and why nobody is."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.upstream.classify import classify
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import BreakerSpec
from tests.unit.upstream.virtual import (
    FAULT,
    STRICT,
    Clock,
    ask,
    counted,
    heard,
    leased,
    picked,
    report,
    trip,
    upstream,
)

LENIENT = BreakerSpec(failures=2, open_s=10.0, refuses=False)


def test_an_open_endpoint_comes_back_by_time_alone(now: Clock) -> None:
    group = upstream(2, breaker=STRICT)
    changes = heard(group)
    trip(group, "e0")
    assert set(counted(group, 10)) == {"e1"}
    now.move(10.0)
    assert set(counted(group, 10)) == {"e0", "e1"}
    assert [(one.event, one.address) for one in changes] == [("breaker_opened", "e0"), ("breaker_half_opened", "e0")]


def test_a_half_open_endpoint_gets_one_probe_at_a_time(now: Clock) -> None:
    group = upstream(2, breaker=STRICT)
    trip(group, "e0")
    now.move(10.0)
    leases = [leased(group) for _ in range(6)]
    (probe,) = [one for one in leases if one.endpoint.label == "e0"]
    probe.release(None)  # the client left: no outcome
    assert group.endpoint("e0").breaker.state == "half_open"  # type: ignore[union-attr]
    assert [picked(group) for _ in range(2)].count("e0") == 1


def test_a_single_endpoint_with_a_written_breaker_is_refused_while_it_is_open(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    trip(group, "e0")
    assert group.acquire() is None
    why, wait_s = group.unavailable()
    assert "e0 has an open breaker" in why and 8.0 <= wait_s <= 10.0


def test_a_single_endpoint_without_one_is_never_refused(now: Clock) -> None:
    group = upstream(1, breaker=LENIENT)
    trip(group, "e0")
    assert all(ask(group, FAULT) is not None for _ in range(50))
    assert not group.circuit_breaker()["is_open"]


def test_failing_endpoints_are_passed_over_while_there_is_another(now: Clock) -> None:
    group = upstream(3, breaker=LENIENT)
    trip(group, "e0")
    trip(group, "e1")
    assert set(counted(group, 30)) == {"e2"}
    trip(group, "e2")
    assert set(counted(group, 30)) == {"e0", "e1", "e2"}, "when all fail all are asked"


def test_the_last_resort_is_asked_beside_the_probe_that_is_under_way(now: Clock) -> None:
    group = upstream(1, breaker=LENIENT)
    trip(group, "e0")
    now.move(10.0)
    assert group.acquire() is not None and group.acquire() is not None


def test_the_last_resort_respects_operators_limits_and_health(now: Clock) -> None:
    group = upstream(4, each={"limit": [0, 0, 0, 1]}, breaker=LENIENT)
    for address in ("e0", "e1", "e2", "e3"):
        trip(group, address)
    group.set_state("e0", "disabled")
    group.set_breaker("e1", "open")
    group.endpoint("e2").health = "failing"
    group.set_breaker("e1", "open")
    assert picked(group) == "e3"
    assert group.acquire() is None


def test_a_full_endpoint_does_not_send_anybody_to_a_failing_one(now: Clock) -> None:
    group = upstream(2, each={"limit": [1, 0]}, breaker=LENIENT)
    trip(group, "e1")
    assert picked(group) == "e0"
    assert group.acquire() is None
    assert group.unavailable()[0] == "every available endpoint is at its limit"


def test_an_endpoint_rests_as_long_as_it_asked_to(now: Clock) -> None:
    group = upstream(2, breaker=STRICT, protocol="openai_chat")
    changes = heard(group)
    endpoint = ask(group, classify("", 429, retry_after_s=5.0))
    assert endpoint is not None
    assert endpoint.label not in counted(group, 10) and endpoint.failures == 0
    now.move(5.0)
    assert endpoint.label in counted(group, 10)
    assert [(one.event, one.why) for one in changes] == [("endpoint_rested", "5 s")]


@pytest.mark.parametrize(("asked", "rests_s"), [(None, 15.0), (7.0, 7.0), (86400.0, 300.0)])
def test_a_rest_has_a_default_and_a_bound(now: Clock, asked: float | None, rests_s: float) -> None:
    group = upstream(2, breaker=BreakerSpec(), protocol="openai_chat")
    report(group, "e0", classify("", 429, retry_after_s=asked))
    assert group.endpoint("e0").cooldown_until_s == now.now_s + rests_s


def test_when_everybody_rests_the_wait_is_told_honestly(now: Clock) -> None:
    group = upstream(2, breaker=STRICT, protocol="openai_chat")
    for address, retry_after_s in (("e0", 20.0), ("e1", 7.0)):
        report(group, address, classify("", 429, retry_after_s=retry_after_s))
    assert group.acquire() is None
    assert group.unavailable() == ("e0 is cooling down, e1 is cooling down", 7.0)


def test_untried_endpoints_of_a_lower_priority_come_before_tried_ones(now: Clock) -> None:
    group = upstream(3, each={"priority": [0, 0, 1]})
    tried: list[Endpoint] = []
    for _ in range(4):
        endpoint = ask(group, None, tried=tried)
        assert endpoint is not None
        tried.append(endpoint)
    labels = [one.label for one in tried]
    assert labels[:3] == ["e0", "e1", "e2"] and labels[3] in ("e0", "e1")


def test_priorities_are_ordered_as_numbers_whatever_they_are() -> None:
    group = upstream(4, each={"priority": [64, 8, 1000, 3]})
    order = []
    for _ in range(4):
        order.append(picked(group))
        group.set_state(order[-1], "disabled")
    assert order == ["e3", "e1", "e0", "e2"]


def test_whether_another_endpoint_is_free_is_known_beforehand() -> None:
    group = upstream(2, each={"limit": [0, 1]})
    first = leased(group).endpoint
    assert first is group.endpoint("e0") and group.has_another([first])
    group.endpoint("e1").load.in_flight = 1
    assert not group.has_another([first])


def test_without_anything_that_changes_by_time_the_clock_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    group = upstream(3, breaker=STRICT)

    def stopped() -> float:
        raise AssertionError("asked for the time")

    monkeypatch.setattr(clock, "monotonic", stopped)
    counted(group, 10)


def test_an_upstream_without_endpoints_says_so() -> None:
    group = upstream(0)
    assert group.acquire() is None and group.unavailable() == ("the upstream has no endpoint", 1.0)


def test_what_keeps_each_endpoint_out_is_named(now: Clock) -> None:
    group = upstream(4, breaker=STRICT)
    group.set_state("e0", "disabled")
    group.set_state("e1", "draining")
    trip(group, "e2")
    group.endpoint("e3").health = "failing"
    group.set_state("e0", "enabled")
    group.set_state("e0", "disabled")
    assert group.unavailable()[0] == (
        "e0 is disabled, e1 is drained, e2 has an open breaker, e3 fails its health checks"
    )
