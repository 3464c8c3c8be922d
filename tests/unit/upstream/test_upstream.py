"""An upstream: endpoints in turn, a limit for each, and an end with its last exchange."""

from __future__ import annotations

from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import EndpointSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.upstream import Upstream as Group
from tests.unit.upstream.scripted import Upstream, ask, begin, spec_of

THREE = tuple(EndpointSpec(f"http://10.0.0.{number}", "", f"e{number}") for number in (1, 2, 3))


def label(endpoint: Endpoint | None) -> str:
    return endpoint.label if endpoint is not None else "none"


def test_endpoints_are_picked_in_turn() -> None:
    group = Group(spec_of(*THREE))
    assert [label(group.pick()) for _ in range(7)] == ["e1", "e2", "e3", "e1", "e2", "e3", "e1"]
    assert group.in_flight == 7


def test_a_full_endpoint_is_passed_over_and_all_full_is_none() -> None:
    group = Group(spec_of(*THREE, max_connections=1))
    picked = [group.pick() for _ in range(3)]
    assert {label(one) for one in picked} == {"e1", "e2", "e3"} and group.pick() is None
    second = group.endpoints[1]
    group.leave(second)
    assert group.pick() is second and group.pick() is None


def test_places_that_become_free_are_given_again_each_once() -> None:
    group = Group(spec_of(*THREE, max_connections=2))
    for _ in range(5):
        group.pick()
    assert label(group.pick()) == "e3"
    group.leave(group.endpoints[0])
    group.leave(group.endpoints[1])
    assert sorted(label(group.pick()) for _ in range(3)) == ["e1", "e2", "none"]


def test_an_upstream_is_made_without_side_effects() -> None:
    group = Group(spec_of(*THREE))
    assert not group.opened and all(endpoint.pool is None for endpoint in group.endpoints)


async def test_a_retired_upstream_closes_after_its_last_exchange(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = Group(spec_of(upstream.endpoint))
        group.open(client)
        endpoint = group.pick()
        assert endpoint is not None and endpoint.pool is not None
        keeper = begin(endpoint.pool)
        group.retire()
        assert group.opened
        assert (await keeper.done()).status == 200
        group.leave(endpoint)
        assert not group.opened and group.in_flight == 0


async def test_a_retired_upstream_that_nobody_uses_closes_at_once(client: StreamClient) -> None:
    group = Group(spec_of(*THREE))
    group.open(client)
    group.retire()
    assert not group.opened


async def test_an_upstream_opened_again_before_its_end_lives_on(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = Group(spec_of(upstream.endpoint))
        group.open(client)
        endpoint = group.pick()
        assert endpoint is not None
        group.retire()
        group.open(client)
        group.leave(endpoint)
        assert group.opened and endpoint.pool is not None and (await ask(endpoint.pool)).status == 200
