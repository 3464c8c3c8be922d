"""An endpoint: its address in bytes, a pool only while it is open, and what decides whether it may be asked."""

from __future__ import annotations

from relayd.upstream.breaker import FOREVER
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import EndpointSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.pool import pool_of
from tests.unit.upstream.scripted import Upstream, ask, spec_of

SPEC = EndpointSpec("https://api.test:8443", "/v1", "api.test")


def test_an_endpoint_is_made_without_side_effects() -> None:
    endpoint = Endpoint(SPEC)
    assert endpoint.pool is None and endpoint.in_flight == 0
    assert (endpoint.authority, endpoint.base_path, endpoint.label) == (b"api.test:8443", b"/v1", "api.test")
    endpoint.close()


async def test_opening_twice_keeps_the_pool_and_its_connections(client: StreamClient) -> None:
    async with Upstream() as upstream:
        endpoint, spec = Endpoint(upstream.endpoint), spec_of(upstream.endpoint)
        endpoint.open(spec, client.connect)
        pool = pool_of(endpoint)
        assert (await ask(pool)).status == 200
        endpoint.open(spec, client.connect)
        assert endpoint.pool is pool and (await ask(pool)).status == 200
        assert upstream.connections == 1


async def test_an_endpoint_opened_again_works_with_a_new_pool(client: StreamClient) -> None:
    async with Upstream() as upstream:
        endpoint, spec = Endpoint(upstream.endpoint), spec_of(upstream.endpoint)
        endpoint.open(spec, client.connect)
        first = endpoint.pool
        endpoint.close()
        assert endpoint.pool is None
        endpoint.open(spec, client.connect)
        assert endpoint.pool is not first
        assert (await ask(pool_of(endpoint))).status == 200


def test_the_smaller_of_two_limits_counts_and_nought_is_none() -> None:
    limits = [
        Endpoint(EndpointSpec("http://a", "", "a", limit=own), spec_of(max_connections=all_)).limit
        for own, all_ in ((0, 0), (3, 0), (0, 4), (3, 4), (5, 4))
    ]
    assert limits == [0, 3, 4, 3, 4]


def test_a_limit_leaves_room_up_to_the_last_place() -> None:
    endpoint = Endpoint(EndpointSpec("http://a", "", "a", limit=2))
    endpoint.load.in_flight = 1
    assert endpoint.below_limit() and endpoint.has_capacity()
    endpoint.load.in_flight = 2
    assert not endpoint.below_limit() and not endpoint.has_capacity()


def test_endpoints_of_one_address_in_successive_upstreams_share_its_load_and_nothing_else() -> None:
    first, second, third = (Endpoint(EndpointSpec("http://a", "", "a", limit=3)) for _ in range(3))
    second.inherit_state(first)
    third.inherit_state(second)
    first.load.in_flight += 1
    second.load.in_flight += 1
    assert third.load.in_flight == 2 and third.below_limit()
    third.load.in_flight += 1
    assert not any(one.below_limit() for one in (first, second, third))
    first.state = "disabled"
    assert third.state == "enabled"


def test_weight_grows_from_a_tenth_to_the_whole_while_an_endpoint_returns() -> None:
    endpoint = Endpoint(EndpointSpec("http://a", "", "a", weight=10))
    endpoint.state = "disabled"
    assert endpoint.refresh(0.0, 100.0) == FOREVER and not endpoint.available
    endpoint.state = "enabled"
    weights, next_change_s = [], []
    for now_s in (50.0, 55.0, 75.0, 100.0, 149.0, 150.0, 400.0):
        next_change_s.append(endpoint.refresh(now_s, 100.0))
        weights.append(round(endpoint.weight, 6))
    assert weights == [1.0, 1.0, 2.5, 5.0, 9.9, 10.0, 10.0]
    assert next_change_s[0] == 52.0 and next_change_s[-1] == FOREVER


def test_the_next_moment_that_changes_something_is_told() -> None:
    endpoint = Endpoint(EndpointSpec("http://a", "", "a"), spec_of())
    assert endpoint.breaker is not None
    for _ in range(5):
        endpoint.breaker.failed(0.0)
    endpoint.cooldown_until_s = 3.0
    assert endpoint.refresh(0.0, 0.0) == 3.0 and not endpoint.available
    assert endpoint.refresh(3.0, 0.0) == endpoint.breaker.until_s and not endpoint.available
    assert endpoint.refresh(endpoint.breaker.until_s, 0.0) == FOREVER and endpoint.available
