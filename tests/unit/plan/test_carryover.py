"""Which upstreams live on over a reload."""

from __future__ import annotations

import dataclasses

from relayd.config.model import Config
from relayd.config.upstream import Endpoint, Upstream
from relayd.plan.carryover import carryover
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan


def plan(previous: Plan | None = None, **ports: int | Upstream) -> Plan:
    upstreams = {
        name: port if isinstance(port, Upstream) else Upstream(endpoints=(Endpoint(url=f"http://127.0.0.1:{port}"),))
        for name, port in ports.items()
    }
    return compile_plan(Config(upstreams=upstreams), 1, previous)


def test_the_first_plan_makes_everything() -> None:
    new = plan(a=1, b=2)
    found = carryover(None, new)
    assert found.created == tuple(new.upstreams.values()) and not found.retained and not found.retired


def test_what_is_unchanged_is_kept_and_what_changed_is_one_retired_and_one_made() -> None:
    old = plan(same=1, changed=2, gone=3)
    new = plan(old, same=1, fresh=5, changed=dataclasses.replace(old.config.upstreams["changed"], http="2"))
    found = carryover(old, new)
    assert [one.name for one in found.retained] == ["same"]
    assert {one.name for one in found.created} == {"changed", "fresh"}
    assert {one.name for one in found.retired} == {"changed", "gone"}
    assert old.upstreams["changed"] in found.retired and new.upstreams["changed"] in found.created


def test_an_upstream_with_other_endpoints_is_kept_and_a_plan_that_is_thrown_away_changes_nothing() -> None:
    old = plan(moved=1)
    before = old.upstreams["moved"].describe()
    new = plan(old, moved=2)
    assert carryover(old, new).retained == (old.upstreams["moved"],)
    assert old.upstreams["moved"].describe() == before
    assert [one.label for one in new.endpoints["moved"]] == ["127.0.0.1:2"], "the commit sets them"


def test_an_upstream_that_changed_can_go_on_where_the_old_one_stands() -> None:
    old = plan(same=1, changed=2)
    for name in ("same", "changed"):
        old.upstreams[name].set_state(f"127.0.0.1:{old.upstreams[name].endpoints[0].spec.address[1]}", "disabled")
    upstreams = dict(old.config.upstreams)
    upstreams["changed"] = dataclasses.replace(upstreams["changed"], http="2")
    new = compile_plan(Config(upstreams=upstreams), 2, old)
    assert carryover(old, new).replaced == {"changed": old.upstreams["changed"]}
    new.upstreams["changed"].inherit_state(old.upstreams["changed"])
    assert new.upstreams["same"] is old.upstreams["same"] and new.upstreams["changed"] is not old.upstreams["changed"]
    assert [one.endpoints[0].state for one in new.upstreams.values()] == ["disabled", "disabled"]


def test_plans_that_share_nothing_keep_nothing_even_when_they_are_equal() -> None:
    assert not carryover(plan(a=1), plan(a=1)).retained
