"""An upstream: what every outcome does to endpoints and keys, hands, reloads, and an end with its last exchange."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.schema import Secret
from relayd.upstream.classify import GOOD, Classification, classify
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.health import CheckResult
from relayd.upstream.lease import Lease
from relayd.upstream.spec import AuthSpec, BalanceSpec, BreakerSpec, EndpointSpec, HealthSpec, RetrySpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.pool import pool_of
from relayd.upstream.upstream import Upstream as Group
from tests.unit.upstream.scripted import Upstream, ask, begin, spec_of
from tests.unit.upstream.virtual import (
    FAULT,
    STRICT,
    Clock,
    addresses,
    counted,
    heard,
    leased,
    picked,
    report,
    trip,
    upstream,
)

THREE = tuple(EndpointSpec(f"http://10.0.0.{number}", "", f"e{number}") for number in (1, 2, 3))


def test_endpoints_are_picked_in_turn() -> None:
    group = Group(spec_of(*THREE))
    assert [picked(group) for _ in range(7)] == ["e1", "e2", "e3", "e1", "e2", "e3", "e1"]
    assert group.in_flight == 7


def test_a_full_endpoint_is_passed_over_and_all_full_is_none() -> None:
    group = Group(spec_of(*THREE, max_connections=1))
    leases = [leased(group) for _ in range(3)]
    assert {one.endpoint.label for one in leases} == {"e1", "e2", "e3"} and group.acquire() is None
    leases[1].release(None)
    assert [picked(group), picked(group)] == [leases[1].endpoint.label, "none"]


def test_places_that_become_free_are_given_again_each_once() -> None:
    group = Group(spec_of(*THREE, max_connections=2))
    leases = [leased(group) for _ in range(5)]
    assert picked(group) == "e3"
    leases[0].release(None)
    leases[1].release(None)
    assert sorted(picked(group) for _ in range(3)) == ["e1", "e2", "none"]


def test_an_upstream_is_made_without_side_effects() -> None:
    group = Group(spec_of(*THREE))
    assert not group.opened and all(endpoint.pool is None for endpoint in group.endpoints)


async def test_a_retired_upstream_closes_after_its_last_exchange(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = Group(spec_of(upstream.endpoint))
        group.open(client.connect)
        lease = leased(group)
        keeper = begin(pool_of(lease.endpoint))
        group.retire()
        assert group.opened
        assert (await keeper.done()).status == 200
        lease.release(None)
        assert not group.opened and group.in_flight == 0


async def test_a_retired_upstream_that_nobody_uses_closes_at_once(client: StreamClient) -> None:
    group = Group(spec_of(*THREE))
    group.open(client.connect)
    group.retire()
    assert not group.opened


async def test_an_upstream_opened_again_before_its_end_lives_on(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = Group(spec_of(upstream.endpoint))
        group.open(client.connect)
        lease = leased(group)
        group.retire()
        group.open(client.connect)
        lease.release(None)
        assert group.opened and (await ask(pool_of(lease.endpoint))).status == 200


# Verdicts, keys, hands, status, reload.


KEYS = [AuthSpec("bearer", "Authorization", Secret(f"sk-{name}", f"file /k/{name}")) for name in "ab"]


def ask_endpoint(group: Group, outcome: Classification) -> None:
    """One whole attempt."""
    leased(group).release(outcome)


def test_faults_open_the_breaker_and_a_good_head_of_a_probe_closes_it(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    changes = heard(group)
    ask_endpoint(group, FAULT)
    ask_endpoint(group, FAULT)
    assert group.acquire() is None
    now.move(10.0)
    lease = leased(group)
    assert lease.permit
    lease.answered()  # its stream goes on for hours, others need not wait for its end
    breaker = lease.endpoint.breaker
    assert breaker is not None and breaker.state == "closed"
    lease.release(GOOD)
    assert [one.event for one in changes] == ["breaker_opened", "breaker_half_opened", "breaker_closed"]


def test_a_good_head_does_not_hide_that_every_stream_is_cut(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    for _ in range(2):
        lease = leased(group)
        lease.answered()
        lease.release(classify("upstream_cut", 200, in_stream=True))
    assert group.endpoints[0].breaker is not None and group.endpoints[0].breaker.state == "open"


def test_clients_mistakes_and_departures_change_nothing(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    for verdict in (classify("", 400), classify("client_gone", 0), classify("stopped", 0), classify("", 404)) * 5:
        ask_endpoint(group, verdict)
    assert group.describe()["endpoints"][0]["failures"] == 0  # type: ignore[index]
    assert group.acquire() is not None


def test_a_plain_upstreams_429_is_between_it_and_the_client(now: Clock) -> None:
    group = upstream(2, breaker=STRICT)
    lease = leased(group)
    lease.release(lease.classify("", 429, retry_after_s=60.0))
    assert set(counted(group, 4)) == {"e0", "e1"}
    lease = leased(group)
    lease.release(lease.classify("", 503, retry_after_s=60.0))
    assert len(set(counted(group, 4))) == 1, "503 is about the endpoint"


def test_what_began_before_the_breaker_opened_neither_closes_it_nor_frees_a_probe(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    breaker = group.endpoints[0].breaker
    assert breaker is not None
    old = leased(group)
    trip(group, "e0")
    now.move(10.0)
    assert breaker.state == "open", "nobody was let through yet"
    probe = leased(group)
    assert group.acquire() is None
    old.release(GOOD)
    assert breaker.state == "half_open" and group.acquire() is None, "the old attempt is not the probe"
    probe.release(GOOD)
    assert breaker.state == "closed"


def test_keys_are_rotated_by_fault(now: Clock) -> None:
    group = upstream(1, auth=KEYS[0], spare_keys=(KEYS[1],))
    changes = heard(group)
    first, second = leased(group), leased(group)
    assert [first.key, second.key] == KEYS
    refused = classify("", 401, own_key=True)
    first.release(refused)
    assert group.has_another([first.endpoint], refused), "another key is as good as another endpoint"
    assert {leased(group).key for _ in range(2)} == {KEYS[1]}
    second.release(classify("", 429, retry_after_s=5.0))
    assert first.endpoint.cooldown_until_s == 0.0, "the key cools down, not the endpoint"
    assert [(one.event, one.why) for one in changes] == [
        ("key_set_aside", "file /k/a"), ("key_rested", "file /k/b")]
    assert first.endpoint.failures == 0


def test_a_single_key_that_is_refused_is_told_and_goes_on(now: Clock) -> None:
    group = upstream(1, auth=KEYS[0], breaker=STRICT)
    for _ in range(9):
        ask_endpoint(group, classify("", 401, own_key=True))
    assert leased(group).key is KEYS[0], "one bad key opens no breaker"
    told = group.describe()["keys"]
    assert [(one["refused"], one["why"]) for one in told] == [(9, "401 from e0")]  # type: ignore[attr-defined]


def test_with_one_key_429_rests_the_endpoint(now: Clock) -> None:
    group = upstream(2, auth=KEYS[0], breaker=STRICT)
    report(group, "e0", classify("", 429, retry_after_s=5.0), KEYS[0])
    assert picked(group) == "e1"


@pytest.mark.parametrize("status", [503, 529])
def test_an_overloaded_endpoint_cools_down_and_no_key_does(now: Clock, status: int) -> None:
    group = upstream(2, auth=KEYS[0], spare_keys=(KEYS[1],), breaker=STRICT)
    lease, outcome = leased(group), classify("", status, retry_after_s=5.0)
    lease.release(outcome)
    assert lease.endpoint.cooldown_until_s and {leased(group).key for _ in range(4)} == set(KEYS)
    assert group.has_another([lease.endpoint], outcome) and not group.has_another(group.endpoints, outcome)


def test_all_keys_at_rest_refuse_with_an_honest_time(now: Clock) -> None:
    group = upstream(2, auth=KEYS[0], spare_keys=(KEYS[1],), breaker=STRICT)
    for key, retry_after_s in zip(KEYS, (9.0, 4.0), strict=True):
        report(group, "e0", classify("", 429, retry_after_s=retry_after_s), key)
    assert group.acquire() is None and group.unavailable() == ("all keys are cooling down", 4.0)
    now.move(4.0)
    assert leased(group).key is KEYS[1]


def test_states_are_set_by_hand_and_told(now: Clock) -> None:
    group = upstream(2)
    changes = heard(group)
    group.set_state("e0", "draining")
    group.set_state("e0", "draining")
    group.set_state("e0", "enabled")
    assert [(one.event, one.why) for one in changes] == [("endpoint_draining", "by hand"), ("endpoint_enabled", "by hand")]
    with pytest.raises(ValueError, match="none of"):
        group.set_state("e0", "asleep")
    with pytest.raises(KeyError):
        group.set_state("e9", "enabled")


def test_what_is_open_finishes_on_a_drained_endpoint() -> None:
    group = upstream(1)
    lease = leased(group)
    group.set_state("e0", "draining")
    assert group.acquire() is None and group.in_flight == 1
    lease.release(None)
    assert group.in_flight == 0


def test_a_breaker_is_set_and_reset_by_hand(now: Clock) -> None:
    group = upstream(2, breaker=STRICT)
    group.set_breaker("e0", "open")
    now.move(1e6)
    assert picked(group) == "e1"
    report(group, "e0", classify("", 429, retry_after_s=100.0))
    group.set_breaker("e0", "closed")
    assert {picked(group), picked(group)} == {"e0", "e1"}
    with pytest.raises(ValueError, match="half"):
        group.set_breaker("e0", "half_open")
    with pytest.raises(ValueError, match="off"):
        upstream(1, breaker=None).set_breaker("e0", "open")


def test_without_a_breaker_nothing_is_counted() -> None:
    group = upstream(1, breaker=None)
    for _ in range(99):
        ask_endpoint(group, FAULT)
    assert group.acquire() is not None and group.describe()["endpoints"][0]["breaker"] == "off"  # type: ignore[index]


def test_health_checks_take_an_endpoint_out_and_bring_it_back(now: Clock) -> None:
    group = upstream(2, health=HealthSpec(healthy=1, unhealthy=1))
    changes = heard(group)
    group.record_check(group.checkers[0], CheckResult(False, "status 500"))
    assert set(counted(group, 4)) == {"e1"}
    group.record_check(group.checkers[0], CheckResult(True))
    assert set(counted(group, 4)) == {"e0", "e1"}
    assert [(one.event, one.why) for one in changes] == [("endpoint_failing", "status 500"), ("endpoint_passing", "")]


def test_status_shows_everything_and_no_key(now: Clock) -> None:
    group = upstream(2, auth=KEYS[0], breaker=STRICT, each={"weight": [1, 3], "priority": [0, 1]})
    trip(group, "e0")
    group.set_state("e1", "draining")
    told = group.describe()
    assert json.loads(json.dumps(told)) == told and "sk-" not in json.dumps(told)
    endpoints = told["endpoints"]
    assert isinstance(endpoints, list)
    first, second = endpoints
    assert (told["name"], told["protocol"], told["balance"], told["available"]) == ("up", "plain", "round_robin", False)
    assert (first["address"], first["state"], first["breaker"], first["failures"]) == ("e0", "enabled", "open", 2)
    assert 8.0 <= first["retry_in_s"] <= 10.0 and first["last_fault"] == "connect"
    assert (second["state"], second["weight"], second["priority"], second["breaker"]) == ("draining", 3, 1, "closed")


def test_the_shape_of_health_is_what_it_always_was(now: Clock) -> None:
    group = upstream(2, breaker=STRICT)
    assert group.circuit_breaker() == {"enabled": True, "is_open": False, "consecutive_failures": 0}
    report(group, "e0", FAULT)
    assert group.circuit_breaker() == {"enabled": True, "is_open": False, "consecutive_failures": 1}
    trip(group, "e0")
    assert not group.circuit_breaker()["is_open"], "the other one is closed"
    trip(group, "e1")
    assert group.circuit_breaker() == {"enabled": True, "is_open": True, "consecutive_failures": 2}
    assert upstream(1).circuit_breaker() == {"enabled": False, "is_open": False, "consecutive_failures": 0}


def renewed(group: Group, *addresses_: EndpointSpec, **spec: Any) -> Group:
    made = Group(dataclasses.replace(group.spec, endpoints=addresses_ or group.spec.endpoints, **spec), lambda: 0.5)
    made.inherit_state(group)
    return made


def test_live_state_goes_on_in_an_upstream_whose_spec_changed(now: Clock) -> None:
    group = upstream(4, breaker=STRICT, protocol="openai_chat")
    changes = heard(group)
    trip(group, "e0")
    group.set_state("e1", "disabled")
    report(group, "e2", classify("", 429, retry_after_s=50.0))
    made = renewed(group, http2=True)
    assert set(counted(made, 9)) == {"e3"}
    assert [one["state"] for one in made.describe()["endpoints"]] == ["enabled", "disabled", "enabled", "enabled"]  # type: ignore[attr-defined]
    told = len(changes)
    now.move(10.0)
    assert set(counted(made, 9)) == {"e0", "e3"} and changes[told].event == "breaker_half_opened"


def test_nothing_in_the_plan_before_changes_when_the_new_one_is_thrown_away(now: Clock) -> None:
    group = upstream(2, breaker=STRICT, auth=KEYS[0], spare_keys=(KEYS[1],))
    trip(group, "e0")
    before = group.describe()
    made = renewed(group)
    trip(made, "e1")
    made.set_state("e0", "disabled")
    report(made, "e1", classify("", 401, own_key=True), KEYS[1])
    assert group.describe() == before


def test_what_an_operator_said_of_an_address_is_kept_while_it_is_away(now: Clock) -> None:
    group = upstream(2)
    group.set_state("e0", "disabled")
    without = renewed(group, addresses(2)[1])
    assert set(counted(without, 3)) == {"e1"}
    again = renewed(renewed(without), *addresses(2))
    assert set(counted(again, 3)) == {"e1"} and again.endpoint("e0").state == "disabled"
    again.set_state("e0", "enabled")
    assert renewed(again).endpoint("e0").state == "enabled"


def test_a_new_address_in_a_running_group_starts_slowly(now: Clock) -> None:
    group = upstream(2, balance=BalanceSpec(slow_start_s=100.0))
    made = renewed(group, *addresses(3))
    assert counted(made, 210)["e2"] <= 12


def test_a_limit_counts_what_still_runs_on_the_plan_before(now: Clock) -> None:
    group = upstream(1, each={"limit": 2})
    old = leased(group)
    made = renewed(group, max_connections=2)
    third = renewed(made, max_connections=2, http2=True)
    assert made.acquire() is not None and third.acquire() is None
    old.release(None)
    assert third.acquire() is not None


def test_without_checks_an_endpoint_is_not_held_to_what_checks_had_found(now: Clock) -> None:
    group = upstream(1, health=HealthSpec(unhealthy=1))
    group.record_check(group.checkers[0], CheckResult(False, "status 500"))
    assert group.acquire() is None and renewed(group, health=None).acquire() is not None


def test_requests_are_counted_for_the_budget_and_retries_are_not(now: Clock) -> None:
    group = upstream(3, retries=RetrySpec(attempts=3, share=0.5, minimum=0))
    for _ in range(4):
        tried: list[Endpoint] = []
        for _ in range(3):
            lease = leased(group, tried=tried)
            tried.append(lease.endpoint)
            lease.release(None)
    assert group.budget.left(now.now_s) == 2


class Orders(RuleBasedStateMachine):
    """Any order of picks, answers, verdicts, departures, retries, hands and waits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock(self.patch)
        spec = BreakerSpec(failures=2, open_s=5.0, max_open_s=20.0, probes=2, successes=2)
        self.group = upstream(
            3, each={"limit": [0, 3, 2], "priority": [0, 0, 1]}, breaker=spec, auth=KEYS[0], spare_keys=(KEYS[1],),
        )
        self.open: list[Lease] = []

    def teardown(self) -> None:
        for lease in self.open:
            lease.release(None)
        assert self.group.in_flight == 0
        for endpoint in self.group.endpoints:
            breaker = endpoint.breaker
            assert breaker is not None and (breaker.state != "half_open" or breaker.has_permit())
            self.group.set_state(endpoint.label, "enabled")
            self.group.set_breaker(endpoint.label, "closed")
        self.clock.move(10_000.0)
        assert counted(self.group, 20).keys() == {"e0", "e1"}, "everybody comes back"
        self.patch.undo()

    def take(self, tried: list[Endpoint]) -> None:
        lease = self.group.acquire(None, tried)
        if lease is None:
            assert self.group.unavailable()[1] >= 1.0
        else:
            self.open.append(lease)

    @rule()
    def begin(self) -> None:
        self.take([])

    @precondition(lambda self: self.open)
    @rule(place=st.integers(0, 50))
    def a_head_comes(self, place: int) -> None:
        self.open[place % len(self.open)].answered()

    @precondition(lambda self: self.open)
    @rule(place=st.integers(0, 50), status=st.sampled_from((0, 200, 401, 404, 429, 500, 503)), known=st.booleans(),
          again=st.booleans())
    def it_ends(self, place: int, status: int, known: bool, again: bool) -> None:
        lease = self.open.pop(place % len(self.open))
        outcome = classify("" if status else "connect_failed", status, own_key=True, retry_after_s=3.0)
        lease.release(outcome if known else None)
        if again:
            self.take([lease.endpoint])

    @rule(place=st.integers(0, 2), state=st.sampled_from(("enabled", "draining", "disabled")))
    def by_hand(self, place: int, state: str) -> None:
        self.group.set_state(f"e{place}", state)

    @rule(place=st.integers(0, 2), state=st.sampled_from(("open", "closed")))
    def breaker_by_hand(self, place: int, state: str) -> None:
        self.group.set_breaker(f"e{place}", state)

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)

    @invariant()
    def everything_that_is_open_is_counted_and_nothing_else(self) -> None:
        for endpoint in self.group.endpoints:
            mine = [lease for lease in self.open if lease.endpoint is endpoint]
            assert endpoint.in_flight == len(mine)
            assert not endpoint.limit or len(mine) <= endpoint.limit
            breaker = endpoint.breaker
            assert breaker is not None
            if breaker.state == "half_open":
                live = sum(lease.permit == breaker._round for lease in mine)
                assert breaker.has_permit() == (live < 2)


Orders.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_no_order_of_events_leaks_a_place_or_a_permit = Orders.TestCase
