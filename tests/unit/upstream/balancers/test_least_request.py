"""The fewest in flight."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.upstream.lease import Lease
from relayd.upstream.spec import BalanceSpec
from tests.unit.upstream.balancers.contract import Contract
from tests.unit.upstream.virtual import FAULT, STRICT, leased, picked, upstream


class TestLeastRequest(Contract):
    kind = "least_request"
    exact = True


def test_the_one_with_the_fewest_in_flight_is_chosen() -> None:
    group = upstream(3, balance=BalanceSpec("least_request"))
    for one, load in zip(group.endpoints, (4, 2, 3), strict=True):
        one.in_flight = load
    assert [picked(group) for _ in range(3)] == ["e1", "e1", "e2"]


def test_load_is_measured_by_weight() -> None:
    group = upstream(2, each={"weight": [3, 1]}, balance=BalanceSpec("least_request"))
    group.endpoints[0].in_flight, group.endpoints[1].in_flight = 5, 2
    assert picked(group) == "e0"


def test_idle_endpoints_take_turns() -> None:
    group = upstream(3, balance=BalanceSpec("least_request"))
    turn = []
    for _ in range(6):
        lease = leased(group)
        turn.append(lease.endpoint.label)
        lease.release(None)
    assert turn == ["e0", "e1", "e2", "e0", "e1", "e2"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("pick", "fail", "leave")), st.integers(0, 9)), max_size=80))
def test_an_open_endpoint_is_never_chosen_while_a_closed_one_is_free(steps: list[tuple[str, int]]) -> None:
    group = upstream(4, balance=BalanceSpec("least_request"), breaker=STRICT)
    forced_open: list[Lease] = []
    for what, number in steps:
        if what == "pick":
            closed = [one for one in group.endpoints if one.breaker is not None and one.breaker.state == "closed"]
            lease = group.acquire()
            assert lease is None if not closed else lease is not None and lease.endpoint in closed
            if lease is not None:
                chosen = lease.endpoint
                assert chosen.in_flight - 1 == min(one.in_flight - (one is chosen) for one in closed)
                forced_open.append(lease)
        elif forced_open:
            forced_open.pop(number % len(forced_open)).release(FAULT if what == "fail" else None)
