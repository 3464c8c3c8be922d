"""Addresses of a living upstream change: what stays keeps its state, what goes drains, what returns is the same."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.registry import kinds
from relayd.upstream.balancing import FOLDER
from relayd.upstream.classify import GOOD, Blame, Classification, classify
from relayd.upstream.discovered import Discovered
from relayd.upstream.endpoint import Connections, Endpoint
from relayd.upstream.health import CheckResult
from relayd.upstream.lease import Lease
from relayd.upstream.removed_endpoints import MOST_ENDPOINTS, MOST_STATES, REMEMBERED_S
from relayd.upstream.spec import BalanceSpec, BreakerSpec, DiscoverySpec, EndpointSpec, HealthSpec, UpstreamSpec
from tests.unit.upstream.virtual import (
    FAULT,
    STRICT,
    Clock,
    addresses,
    ask,
    counted,
    heard,
    leased,
    picked,
    trip,
    upstream,
)

E = addresses(6)


class Wire:
    """Connections that only know whether they are open."""

    made: list[Wire]

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec, self.open = spec, True

    def close(self) -> None:
        self.open = False

    def describe(self, now_s: float) -> dict[str, object]:
        return {}


class Wires:
    """What a transport hands in: every connection that was ever made."""

    def __init__(self) -> None:
        self.made: list[Wire] = []

    def __call__(self, upstream: UpstreamSpec, endpoint: EndpointSpec, keys: object) -> Connections:
        self.made.append(Wire(endpoint))
        return self.made[-1]

    def open(self) -> list[str]:
        return sorted(one.spec.label for one in self.made if one.open)


def shown(group: Any) -> dict[str, str]:
    return {str(one["address"]): str(one["state"]) for one in group.describe()["endpoints"]}


def test_an_address_that_stays_keeps_breaker_health_counters_and_connections(now: Clock) -> None:
    wires, group = Wires(), upstream(2, breaker=STRICT, health=HealthSpec(unhealthy=1))
    group.open(wires)
    trip(group, "e0")
    group.record_check(group.checkers[1], CheckResult(False, "status 500"))
    kept, checkers = group.endpoints, group.checkers
    group.set_endpoints([E[2], E[1], E[0]])
    assert group.endpoints[1:] == kept[::-1] and group.checkers[1:] == checkers[::-1]
    assert group.endpoint("e0").breaker.state == "open" and group.endpoint("e0").failures == 2  # type: ignore[union-attr]
    assert group.endpoint("e1").health == "failing" and wires.open() == ["e0", "e1", "e2"] and len(wires.made) == 3
    assert set(counted(group, 5)) == {"e2"}


def test_an_address_that_goes_drains_is_shown_as_leaving_and_closes_with_its_last_exchange() -> None:
    wires, group = Wires(), upstream(2)
    group.open(wires)
    first, second, third = leased(group), leased(group), leased(group)
    gone = first.endpoint
    assert gone is third.endpoint and gone.label == "e0"
    group.set_endpoints([E[1]])
    assert set(counted(group, 9)) == {"e1"} and group.in_flight == 3
    assert shown(group) == {"e1": "enabled", "e0": "leaving"} and wires.open() == ["e0", "e1"]
    first.release(GOOD)
    assert wires.open() == ["e0", "e1"]
    third.release(None)
    assert shown(group) == {"e1": "enabled"} and wires.open() == ["e1"] and group.in_flight == 1
    second.release(None)
    with pytest.raises(KeyError):
        group.endpoint("e0")


def test_an_address_that_goes_without_an_exchange_is_closed_at_once() -> None:
    wires, group = Wires(), upstream(2)
    group.open(wires)
    group.set_endpoints([E[1]])
    assert wires.open() == ["e1"] and shown(group) == {"e1": "enabled"}


def test_an_address_that_returns_while_it_drains_is_the_same_endpoint_again() -> None:
    wires, group = Wires(), upstream(1)
    group.open(wires)
    lease = leased(group)
    group.set_endpoints([E[1]])
    group.set_endpoints([E[0], E[1]])
    assert group.endpoints[0] is lease.endpoint and not lease.endpoint.leaving and not group.leaving
    lease.release(None)
    assert wires.open() == ["e0", "e1"] and group.in_flight == 0


def test_the_same_addresses_change_nothing_and_tell_nothing() -> None:
    group = upstream(3)
    before, changes = group.describe(), heard(group)
    group.set_endpoints(E[:3])
    assert group.describe() == before and not changes


def test_what_changed_is_told() -> None:
    group = upstream(2)
    changes = heard(group)
    group.set_endpoints(E[1:4])
    group.set_endpoints([dataclasses.replace(one, weight=2) for one in E[1:4]])
    assert [(one.event, one.address, one.why) for one in changes] == [
        ("endpoints_changed", "", "added e2, e3; removed e0"),
        ("endpoints_changed", "", "weights, priorities or limits"),
    ]


def test_weights_priorities_and_limits_of_an_address_change_in_place() -> None:
    group = upstream(2)
    first = group.endpoints[0]
    group.set_endpoints([dataclasses.replace(E[0], weight=3, limit=4), E[1]])
    assert group.endpoints[0] is first and (first.weight, first.limit) == (3.0, 4)
    assert counted(group, 8) == {"e0": 6, "e1": 2}
    group.set_endpoints([E[0], dataclasses.replace(E[1], priority=1)])
    assert set(counted(group, 8)) == {"e0"}


def test_a_new_address_starts_slowly(now: Clock) -> None:
    group = upstream(2, balance=BalanceSpec(slow_start_s=100.0))
    group.set_endpoints(E[:3])
    assert counted(group, 210)["e2"] <= 12


@pytest.mark.parametrize("kind", kinds(FOLDER))
def test_every_balancer_is_told(kind: str) -> None:
    group = upstream(3, balance=BalanceSpec(kind))
    counted(group, 20, lambda number: number * 7919)
    group.set_endpoints([dataclasses.replace(one, priority=0) for one in E[2:6]])
    assert set(counted(group, 400, lambda number: number * 7919 << 40)) == {"e2", "e3", "e4", "e5"}


def test_addresses_that_come_and_go_do_not_spoil_the_turns() -> None:
    group = upstream(3)
    for _ in range(500):
        group.set_endpoints(E[:2])
        assert picked(group) in ("e0", "e1")
        group.set_endpoints(E[:3])
        picked(group)
    assert counted(group, 30) == {"e0": 10, "e1": 10, "e2": 10}


def test_what_an_operator_said_of_an_address_waits_for_its_return(now: Clock) -> None:
    group = upstream(2)
    group.set_state("e0", "disabled")
    group.set_endpoints([E[1]])
    group.set_endpoints(E[:2])
    assert set(counted(group, 4)) == {"e1"} and group.endpoint("e0").state == "disabled"
    group.set_state("e0", "enabled")
    group.set_endpoints([E[1]])
    group.set_endpoints(E[:2])
    assert group.endpoint("e0").state == "enabled"


def test_an_address_that_returns_after_its_last_exchange_keeps_its_open_breaker(now: Clock) -> None:
    wires, group = Wires(), upstream(2, breaker=STRICT)
    group.open(wires)
    trip(group, "e0")
    until_s = group.endpoint("e0").breaker.until_s  # type: ignore[union-attr]
    group.set_endpoints([E[1]])
    assert wires.open() == ["e1"]
    now.move(1.0)
    group.set_endpoints(E[:2])
    returned = group.endpoint("e0").breaker
    assert returned is not None and returned.state == "open" and returned.until_s == until_s
    assert set(counted(group, 4)) == {"e1"} and wires.open() == ["e0", "e1"]
    now.move(STRICT.open_s)
    assert "e0" in counted(group, 4), "it is tried as if it had stayed"


def test_a_breaker_that_opens_by_the_last_exchange_of_a_removed_address_is_open_when_it_returns(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    leases = [leased(group) for _ in range(2)]
    group.set_endpoints([E[1]])
    for lease in leases:
        lease.release(FAULT)
    group.set_endpoints(E[:2])
    assert set(counted(group, 4)) == {"e1"}


def test_a_cool_down_and_a_failed_check_of_an_address_wait_for_its_return(now: Clock) -> None:
    group = upstream(3, breaker=STRICT, health=HealthSpec(unhealthy=1))
    group.record_check(group.checkers[0], CheckResult(False, "status 500"))
    while group.endpoint("e1").cooldown_until_s == 0.0:
        lease = leased(group)
        lease.release(classify("", 429, retry_after_s=30.0) if lease.endpoint.label == "e1" else GOOD)
    group.set_endpoints([E[2]])
    group.set_endpoints(E[:3])
    assert set(counted(group, 6)) == {"e2"} and group.endpoint("e0").health == "failing"
    now.move(31.0)
    assert set(counted(group, 6)) == {"e1", "e2"}


def test_what_is_remembered_of_removed_addresses_is_bounded_in_number_and_time(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    for number in range(MOST_ENDPOINTS + 5):
        group.set_endpoints([EndpointSpec(f"http://10.1.0.{number}", "", f"n{number}")])
        trip(group, f"n{number}")
    assert len(group._removed) == MOST_ENDPOINTS
    for number in range(MOST_STATES + 5):
        group.set_endpoints([EndpointSpec(f"http://10.2.0.{number}", "", f"m{number}")])
        group.set_state(f"m{number}", "disabled")
    group.set_endpoints([])
    assert len(group._removed) == MOST_ENDPOINTS + MOST_STATES
    now.move(REMEMBERED_S)
    group.set_endpoints(E[:1])
    assert len(group._removed) == MOST_STATES


def test_a_reload_remembers_the_breakers_of_removed_addresses_for_its_own_upstream(now: Clock) -> None:
    old = upstream(3, breaker=STRICT)
    trip(old, "e0")
    trip(old, "e1")
    old.set_endpoints(E[1:3])
    new = upstream(0, breaker=STRICT, max_connections=7)
    new.inherit_state(old)
    old.set_endpoints(E[:3])
    new.set_endpoints(E[:3])
    for group in (old, new):
        assert {one.label for one in group.endpoints if one.breaker and one.breaker.state == "open"} == {"e0", "e1"}
    assert not {*map(id, old.endpoints)} & {*map(id, new.endpoints)}
    new.set_breaker("e0", "closed")
    assert old.endpoint("e0").breaker.state == "open"  # type: ignore[union-attr]


def test_another_container_at_the_same_address_is_a_new_endpoint(now: Clock) -> None:
    first, second = (dataclasses.replace(E[0], instance=name) for name in ("aaa", "bbb"))
    wires, group = Wires(), upstream(0, breaker=STRICT)
    group.open(wires)
    changes = heard(group)
    group.set_endpoints([first])
    leases = [leased(group) for _ in range(3)]
    trip(group, "e0")
    group.set_state("e0", "disabled")
    group.set_endpoints([second])
    assert changes[-1].why == "replaced e0"
    assert set(counted(group, 3)) == {"e0"} and group.endpoint("e0").failures == 0
    assert len(wires.made) == 2, "connections to the old container are not used for the new one"
    described = group.describe()["endpoints"]
    assert isinstance(described, list)
    assert [(one["address"], one["instance"], one["state"]) for one in described] == [
        ("e0", "bbb", "enabled"), ("e0 (leaving 1)", "aaa", "leaving")
    ]
    for lease in leases:
        lease.release(FAULT)
    assert group.endpoint("e0").breaker.state == "closed"  # type: ignore[union-attr]
    group.set_endpoints([first])
    assert group.endpoint("e0").state == "disabled" and group.endpoint("e0").breaker.state == "open"  # type: ignore[union-attr]


def test_a_container_that_starts_again_forgets_its_failures_and_stays_disabled(now: Clock) -> None:
    first, again = (dataclasses.replace(E[0], instance="aaa", run=run) for run in ("", "1"))
    group = upstream(0, breaker=STRICT)
    group.set_endpoints([first])
    trip(group, "e0")
    group.set_endpoints([again])
    assert picked(group) == "e0"
    group.set_state("e0", "disabled")
    group.set_endpoints([])
    group.set_endpoints([dataclasses.replace(again, run="2")])
    assert group.endpoint("e0").state == "disabled"


def test_an_operator_who_sets_the_address_of_a_container_keeps_its_endpoint(now: Clock) -> None:
    first = dataclasses.replace(E[0], instance="aaa", run="3")
    group = upstream(0, breaker=STRICT)
    group.set_endpoints([first, E[1]])
    trip(group, "e0")
    group.override_endpoints([E[0]])
    assert group.endpoint("e0").breaker.state == "open"  # type: ignore[union-attr]
    group.override_endpoints(None)
    assert group.endpoint("e0").breaker.state == "open"  # type: ignore[union-attr]


def test_the_same_host_below_another_path_is_another_address() -> None:
    one, other = (EndpointSpec("http://10.0.0.1", path, "10.0.0.1:80") for path in ("/v1", "/v2"))
    group = upstream(0)
    group.set_endpoints([one])
    first = group.endpoints[0]
    group.set_endpoints([other, one])
    assert group.endpoints[1] is first and group.endpoints[0].base_path == b"/v2"


def test_an_upstream_without_addresses_says_so_until_it_has_some() -> None:
    group = upstream(1)
    group.set_endpoints([])
    assert group.acquire() is None and group.unavailable() == ("the upstream has no endpoint", 1.0)
    group.set_endpoints([E[3]])
    assert picked(group) == "e3"


def test_a_leaving_endpoint_still_learns_from_its_exchanges(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    leases = [leased(group) for _ in range(2)]
    group.set_endpoints([E[1]])
    for lease in leases:
        lease.release(FAULT)
    assert leases[0].endpoint.breaker.state == "open"  # type: ignore[union-attr]
    assert picked(group) == "e1"


def test_a_check_that_ends_after_its_address_has_gone_tells_nothing() -> None:
    group = upstream(2, health=HealthSpec(unhealthy=1))
    checker, changes = group.checkers[0], heard(group)
    group.set_endpoints([E[1]])
    group.record_check(checker, CheckResult(False, "status 500"))
    assert [one.event for one in changes] == ["endpoints_changed"] and len(group.checkers) == 1


def living() -> int:
    gc.collect()
    return sum(isinstance(one, Endpoint) for one in gc.get_objects())


def test_ten_flaps_a_second_leave_nothing_behind(now: Clock) -> None:
    wires, group = Wires(), upstream(2, breaker=STRICT, health=HealthSpec())
    group.open(wires)
    forced_open, before = leased(group), living()
    for turn in range(1000):
        group.set_endpoints([E[1], EndpointSpec(f"http://10.1.0.{turn}", "", f"n{turn}")])
        ask(group, GOOD)
        ask(group, GOOD)
        group.set_endpoints(E[:2] if turn % 2 else [E[1]])
        now.move(0.1)
    assert living() == before
    assert group.leaving == () or group.leaving == (forced_open.endpoint,)
    assert len(group.checkers) == 2 and not len(group._removed) and group.in_flight == 1
    forced_open.release(None)
    group.set_endpoints([E[1]])
    assert shown(group) == {"e1": "enabled"}


class Changes(RuleBasedStateMachine):
    """Any order of new addresses, leases, outcomes, hands and waits keeps every count right."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock(self.patch)
        self.wires = Wires()
        self.specs: list[EndpointSpec] = [E[0], E[1]]
        self.group = upstream(2, breaker=BreakerSpec(failures=2, open_s=5.0, max_open_s=20.0, probes=2, successes=2))
        self.group.open(self.wires)
        self.leases: list[Lease] = []

    @rule(places=st.lists(st.integers(0, 5), unique=True), weight=st.integers(1, 3), limit=st.integers(0, 3))
    def change(self, places: list[int], weight: int, limit: int) -> None:
        self.specs = [dataclasses.replace(E[place], weight=weight, limit=limit) for place in places]
        self.group.set_endpoints(self.specs)

    @rule()
    def begin(self) -> None:
        lease = self.group.acquire(None, [one.endpoint for one in self.leases[-1:]])
        if lease is not None:
            assert lease.endpoint in self.group.endpoints and not lease.endpoint.leaving
            assert not lease.endpoint.limit or lease.endpoint.in_flight <= lease.endpoint.limit
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 50))
    def a_head_comes(self, place: int) -> None:
        self.leases[place % len(self.leases)].answered()

    @precondition(lambda self: self.leases)
    @rule(place=st.integers(0, 50), status=st.sampled_from((0, 200, 404, 429, 500)), known=st.booleans())
    def it_ends(self, place: int, status: int, known: bool) -> None:
        outcome = classify("" if status else "connect_failed", status, retry_after_s=3.0)
        self.leases.pop(place % len(self.leases)).release(outcome if known else None)

    @precondition(lambda self: self.specs)
    @rule(place=st.integers(0, 5), state=st.sampled_from(("enabled", "disabled")), breaker=st.sampled_from(("open", "closed")))
    def by_hand(self, place: int, state: str, breaker: str) -> None:
        label = self.specs[place % len(self.specs)].label
        self.group.set_state(label, state)
        self.group.set_breaker(label, breaker)

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)

    @invariant()
    def counts_are_right(self) -> None:
        group = self.group
        assert [one.spec for one in group.endpoints] == self.specs
        assert {one.endpoint for one in self.leases} <= {*group.endpoints, *group.leaving}
        assert all(one.leaving and one.in_flight for one in group.leaving)
        assert not any(one.leaving for one in group.endpoints)
        assert group.in_flight == len(self.leases)
        labels = [one.label for one in (*group.endpoints, *group.leaving)]
        assert sorted(labels) == sorted(set(labels)) == self.wires.open()
        for endpoint in (*group.endpoints, *group.leaving):
            mine = [lease for lease in self.leases if lease.endpoint is endpoint]
            assert endpoint.in_flight == endpoint.load.in_flight == len(mine)
            breaker = endpoint.breaker
            assert breaker is not None
            if breaker.state == "half_open":
                assert breaker.has_permit() == (sum(one.permit == breaker._round for one in mine) < 2)

    def teardown(self) -> None:
        for lease in self.leases:
            lease.release(None)
        assert self.group.in_flight == 0 and not self.group.leaving
        self.group.close()
        assert not self.wires.open()
        self.patch.undo()


Changes.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_no_order_of_changes_leaks_anything = Changes.TestCase


def test_addresses_of_an_operator_stay_until_the_configuration_changes_or_they_are_reset() -> None:
    group = upstream(2)
    changes = heard(group)
    group.override_endpoints([E[3]])
    assert shown(group) == {"e3": "enabled"} and group.overridden and changes[-1].details["source"] == "operator"
    group.set_endpoints(E[:2])
    assert shown(group) == {"e3": "enabled"}, "the configuration is as before"
    group.override_endpoints(None)
    assert shown(group) == {"e0": "enabled", "e1": "enabled"} and not group.overridden
    group.override_endpoints([E[3]])
    group.set_endpoints(E[:1])
    assert shown(group) == {"e0": "enabled"} and not group.overridden


def test_a_discovery_goes_on_beside_the_addresses_of_an_operator() -> None:
    group = upstream(1)
    group.discovered = Discovered("file x")
    group.override_endpoints([E[3]])
    group.set_endpoints(E[1:3], "file x")
    assert shown(group) == {"e3": "enabled"} and group.describe()["overridden"]
    group.override_endpoints(None)
    assert shown(group) == {"e1": "enabled", "e2": "enabled"}


def test_a_change_names_old_new_and_source_for_the_log() -> None:
    group = upstream(1)
    changes = heard(group)
    group.set_endpoints([], "file x")
    assert changes[-1].details == {"old": "e0", "new": "none", "source": "file x"}


def test_without_an_endpoint_requests_wait_only_if_the_upstream_has_a_queue() -> None:
    waiting, refusing = upstream(0, waits_for_endpoint=True), upstream(0)
    assert not waiting.has_capacity() and refusing.has_capacity()
    assert waiting.acquire() is None and refusing.acquire() is None
    for group in (waiting, refusing):
        group.discovered = Discovered("file x")
        assert group.unavailable() == ("no endpoint is known yet: file x has not answered", 1.0)
        group.discovered.fault = "is broken"
        assert group.unavailable() == ("no endpoint is known: file x: is broken", 1.0)
        group.set_endpoints(E[:1])
        assert group.has_capacity() and leased(group)


def test_an_endpoint_that_cannot_be_reached_leads_to_another_lookup() -> None:
    group = upstream(1)
    group.discovered = Discovered("dns x")
    calls: list[int] = []
    group.discovered.look_again = lambda: calls.append(1)
    leased(group).release(Classification(Blame.ENDPOINT, "5xx"))
    assert not calls
    leased(group).release(Classification(Blame.ENDPOINT, "connect"))
    assert calls == [1]


def test_a_lease_is_withdrawn_only_when_a_discovery_has_removed_its_address() -> None:
    for source, withdrawn in ((DiscoverySpec("file"), True), (None, False)):
        group = upstream(1, discovery=source)
        lease = leased(group)
        assert not lease.is_withdrawn
        group.set_endpoints(E[1:2])
        assert lease.is_withdrawn == withdrawn
        lease.release(None)
