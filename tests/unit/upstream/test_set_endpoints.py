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
from relayd.upstream.classify import GOOD, classify
from relayd.upstream.endpoint import Connections, Endpoint
from relayd.upstream.health import CheckResult
from relayd.upstream.lease import Lease
from relayd.upstream.spec import BalanceSpec, BreakerSpec, EndpointSpec, HealthSpec, UpstreamSpec
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
    assert len(group.checkers) == 2 and not group._removed_states and group.in_flight == 1
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
