"""In the order of the list."""

from __future__ import annotations

from relayd.config.upstream import Endpoint, Upstream
from relayd.plan.specs import upstream_spec
from relayd.upstream.upstream import Upstream as Group
from tests.unit.upstream.balancers.contract import Contract
from tests.unit.upstream.virtual import Clock, counted


class TestPriority(Contract):
    kind = "priority"
    exact = True


def listed(*priorities: int | None) -> Group:
    endpoints = tuple(
        Endpoint(url=f"http://e{number}", priority=priority) for number, priority in enumerate(priorities)
    )
    return Group(upstream_spec("up", Upstream(endpoints=endpoints, balance="priority")))


def test_the_first_in_the_list_is_asked_as_long_as_it_may_be(now: Clock) -> None:
    group = listed(None, None, None)
    assert set(counted(group, 20)) == {"e0:80"}
    group.set_state("e0:80", "draining")
    assert set(counted(group, 20)) == {"e1:80"}
    group.set_state("e1:80", "disabled")
    assert set(counted(group, 20)) == {"e2:80"}
    group.set_state("e0:80", "enabled")
    assert set(counted(group, 20)) == {"e0:80"}


def test_what_is_written_is_taken_and_equals_take_turns() -> None:
    assert counted(listed(1, 0, 0), 20) == {"e1:80": 10, "e2:80": 10}
