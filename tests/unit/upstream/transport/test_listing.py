"""Lists of models over real sockets: what is asked, page by page, and what becomes of bad answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from relayd.schema import Secret
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import AuthSpec, EndpointSpec, UpstreamSpec
from relayd.upstream.transport import listing
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.listing import ModelListFetcher
from relayd.upstream.upstream import Upstream as Group
from tests.aids.turns import turned
from tests.functional.harness.message import Message, answer
from tests.unit.upstream.scripted import Peer, Upstream, saying, wait_for


def group_of(*endpoints: EndpointSpec, protocol: str = "openai_chat", **more: Any) -> Group:
    return Group(UpstreamSpec("up", endpoints, protocol=protocol, list_models=True, **more), lambda: 0.0)


def path_of(spec: UpstreamSpec, endpoint: Endpoint, path: str) -> bytes:
    return endpoint.base_path + path.encode()


@asynccontextmanager
async def listing_of(client: StreamClient, *groups: Group) -> AsyncIterator[ModelListFetcher]:
    """Ticks as the daemon gives them."""
    listings = ModelListFetcher(client, lambda: groups, path_of)

    async def ticks() -> None:
        while True:
            listings.tick()
            await asyncio.sleep(0.005)

    task = asyncio.get_running_loop().create_task(ticks())
    try:
        yield listings
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        listings.close()
        assert not any(group.model_list.running for group in groups if group.model_list is not None)


async def ticked(listings: ModelListFetcher) -> None:
    """More ticks, with time for what may follow from each."""
    for _ in range(6):
        listings.tick()
        await turned()


def told(value: Any) -> bytes:
    return answer(json.dumps(value).encode())


async def test_a_list_is_asked_for_once_with_the_key_and_told(client: StreamClient) -> None:
    key = AuthSpec("bearer", "Authorization", Secret("sesame", "here"))
    async with Upstream(saying(told({"data": [{"id": "a"}, {"id": "b"}]}))) as upstream:
        group = group_of(replace(upstream.endpoint, base_path="/api/v1"), auth=key)
        models = group.model_list
        assert models is not None
        async with listing_of(client, group) as listings:
            await wait_for(lambda: models.names == ("a", "b"))
            await ticked(listings)
        (message,) = upstream.requests
        assert message.start == b"GET /api/v1/models HTTP/1.1" and message.get("authorization") == b"Bearer sesame"
        assert message.get("host") == upstream.endpoint.authority.encode()
        assert group.describe()["models"] == {"count": 2, "age_s": pytest.approx(0.0, abs=2.0), "fault": ""}


async def test_pages_are_followed_and_joined(client: StreamClient) -> None:
    async def script(peer: Peer, message: Message) -> None:
        first = b"after_id" not in message.target
        names = ["c1", "c2"] if first else ["c2", "c3"]
        await peer.send(told({"data": [{"id": name} for name in names], "has_more": first, "last_id": names[-1]}))

    async with Upstream(script) as upstream:
        group = group_of(upstream.endpoint, protocol="anthropic_messages")
        models = group.model_list
        assert models is not None
        async with listing_of(client, group):
            await wait_for(lambda: models.names == ("c1", "c2", "c3"))
        targets = [message.target for message in upstream.requests]
        assert targets == [b"/models?limit=1000", b"/models?limit=1000&after_id=c2"]
        assert all(message.get("anthropic-version") == b"2023-06-01" for message in upstream.requests)


async def test_pages_without_an_end_are_given_up(client: StreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_PAGES", 3)
    async with Upstream(saying(told({"models": [{"name": "models/g"}], "nextPageToken": "again"}))) as upstream:
        group = group_of(upstream.endpoint, protocol="gemini")
        models = group.model_list
        assert models is not None
        async with listing_of(client, group):
            await wait_for(lambda: models.names == ("g",))
        assert len(upstream.requests) == 3


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}", "status 401"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "the response is not a list of models"),
        (b"nonsense\r\n\r\n", ""),
    ],
)
async def test_a_bad_answer_is_a_reason_and_keeps_the_list(client: StreamClient, sent: bytes, why: str) -> None:
    async with Upstream(saying(sent, close=True)) as upstream:
        group = group_of(upstream.endpoint)
        models = group.model_list
        assert models is not None
        models.names = ("kept",)
        async with listing_of(client, group):
            await wait_for(lambda: bool(models.why))
        assert models.names == ("kept",) and models.why.startswith(why)
        endpoint = group.endpoints[0]
        assert endpoint.available and endpoint.failures == 0 and endpoint.in_flight == 0


async def test_after_a_failure_the_next_endpoint_and_the_next_key_are_asked(
    client: StreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relayd.upstream.model_list.RETRY_DELAY_S", 0.01)
    keys = [AuthSpec("header", "x-api-key", Secret(word, "here")) for word in ("one", "two")]
    bad = saying(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
    async with Upstream(bad) as first, Upstream(saying(told({"models": [{"name": "m"}]}))) as second:
        ends = (replace(first.endpoint, label="1"), replace(second.endpoint, label="2"))
        group = group_of(*ends, protocol="ollama", auth=keys[0], spare_keys=(keys[1],))
        models = group.model_list
        assert models is not None
        async with listing_of(client, group):
            await wait_for(lambda: models.names == ("m",))
        assert [message.get("x-api-key") for message in first.requests + second.requests] == [b"one", b"two"]
        assert second.requests[0].target == b"/api/tags"


async def test_a_silent_endpoint_is_given_up_in_time(client: StreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TIMEOUT_S", 0.1)

    async def silent(peer: Peer, message: Message) -> None:
        await peer.gone()

    async with Upstream(silent) as upstream:
        group = group_of(upstream.endpoint)
        models = group.model_list
        assert models is not None
        async with listing_of(client, group):
            await wait_for(lambda: models.why == "timed out")


async def test_a_list_that_is_too_large_is_given_up(client: StreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_BYTES", 1000)
    async with Upstream(saying(answer(b"x" * 5000))) as upstream:
        group = group_of(upstream.endpoint)
        models = group.model_list
        assert models is not None
        async with listing_of(client, group):
            await wait_for(lambda: models.why == "the list is too large")


async def test_an_upstream_that_does_not_ask_is_not_asked(client: StreamClient) -> None:
    async with Upstream() as upstream:
        async with listing_of(client, Group(UpstreamSpec("up", (upstream.endpoint,)))) as listings:
            await ticked(listings)
        assert not upstream.requests


async def test_a_stop_ends_what_is_under_way(client: StreamClient) -> None:
    async def silent(peer: Peer, message: Message) -> None:
        await peer.gone()

    async with Upstream(silent) as upstream:
        group = group_of(upstream.endpoint)
        async with listing_of(client, group):
            await wait_for(lambda: bool(upstream.requests))
        assert group.model_list is not None and not group.model_list.running and group.model_list.why == ""
