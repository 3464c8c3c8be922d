"""An endpoint: its address in bytes, and a pool only while it is open."""

from __future__ import annotations

from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import EndpointSpec
from relayd.upstream.transport.client import StreamClient
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
        endpoint.open(client, spec)
        pool = endpoint.pool
        assert pool is not None and (await ask(pool)).status == 200
        endpoint.open(client, spec)
        assert endpoint.pool is pool and (await ask(pool)).status == 200
        assert upstream.connections == 1


async def test_an_endpoint_opened_again_works_with_a_new_pool(client: StreamClient) -> None:
    async with Upstream() as upstream:
        endpoint, spec = Endpoint(upstream.endpoint), spec_of(upstream.endpoint)
        endpoint.open(client, spec)
        first = endpoint.pool
        endpoint.close()
        assert endpoint.pool is None
        endpoint.open(client, spec)
        assert endpoint.pool is not None and endpoint.pool is not first
        assert (await ask(endpoint.pool)).status == 200
