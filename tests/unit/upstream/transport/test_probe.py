"""Health checks over real sockets: what is asked, what ends them, and what they never do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from relayd.schema import Secret
from relayd.upstream.lease import Lease
from relayd.upstream.spec import AuthSpec, EndpointSpec, HealthSpec, TlsSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.probe import MOST, Probes
from relayd.upstream.upstream import Upstream as Group
from tests.functional.harness.message import Message, answer
from tests.unit.upstream.scripted import Peer, Upstream, saying, wait_for

OFTEN = {"interval_s": 0.02, "timeout_s": 2.0, "healthy": 1, "unhealthy": 1}


def group_of(*endpoints: EndpointSpec, tls: TlsSpec | None = None, key: AuthSpec | None = None, **health: Any) -> Group:
    spec = HealthSpec(**(OFTEN | health))
    return Group(UpstreamSpec("up", endpoints, health=spec, tls=tls or TlsSpec(), auth=key, max_connections=1), lambda: 0.0)


@asynccontextmanager
async def probing(client: StreamClient, *groups: Group) -> AsyncIterator[Probes]:
    """Ticks as the daemon gives them."""
    probes = Probes(client, lambda: groups)

    async def ticks() -> None:
        while True:
            probes.tick()
            await asyncio.sleep(0.005)

    task = asyncio.get_running_loop().create_task(ticks())
    try:
        yield probes
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        probes.close()
        assert not any(checker.running for group in groups for checker in group.checkers)


@contextmanager
def black_hole() -> Iterator[EndpointSpec]:
    """Accepts into a backlog that nobody ever reads."""
    with socket.socket() as ear:
        ear.bind(("127.0.0.1", 0))
        ear.listen(8)
        yield EndpointSpec(f"http://127.0.0.1:{ear.getsockname()[1]}", "", "hole")


async def test_a_healthy_endpoint_passes_and_is_asked_for_what_was_written(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = group_of(upstream.endpoint, target="/health?deep=1", body=b"hello")
        async with probing(client, group):
            await wait_for(lambda: len(upstream.requests) > 2)
            assert group.endpoints[0].health == "passing"
        message = upstream.requests[0]
        assert message.start == b"GET /health?deep=1 HTTP/1.1"
        assert message.get("host") == upstream.endpoint.authority.encode()
        assert message.get("authorization") is None


async def test_a_bad_status_takes_it_out_and_a_good_one_brings_it_back(client: StreamClient) -> None:
    async with Upstream(saying(answer(b"no", status=b"500 No"))) as upstream:
        group = group_of(upstream.endpoint)
        async with probing(client, group):
            await wait_for(lambda: group.endpoints[0].health == "failing")
            assert group.endpoints[0].health_why == "status 500" and group.acquire() is None
            upstream.script = saying(answer(b"yes"))
            await wait_for(lambda: group.endpoints[0].health == "passing")
            assert group.acquire() is not None


async def test_an_endpoint_that_nobody_listens_on_fails(client: StreamClient) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = EndpointSpec(f"http://127.0.0.1:{bound.getsockname()[1]}", "", "gone")
        for kind in ("http", "tcp"):
            group = group_of(endpoint, kind=kind)
            async with probing(client, group):
                await wait_for(lambda group=group: group.endpoints[0].health == "failing")  # type: ignore[misc]
            assert group.endpoints[0].health_why


async def test_a_silent_endpoint_fails_by_its_time_and_its_connection_ends(client: StreamClient) -> None:
    gone = asyncio.Event()

    async def silent(peer: Peer, message: Message) -> None:
        await peer.gone()
        peer.close()
        gone.set()

    async with Upstream(silent) as upstream:
        group = group_of(upstream.endpoint, timeout_s=0.05)
        async with probing(client, group):
            await wait_for(lambda: group.endpoints[0].health == "failing")
            assert group.endpoints[0].health_why == "timed out"
            async with asyncio.timeout(60):
                await gone.wait()


async def test_a_busy_endpoint_that_serves_others_is_not_taken_out(client: StreamClient) -> None:
    with black_hole() as endpoint:
        group = group_of(endpoint, timeout_s=0.03)
        probes = Probes(client, lambda: [group])
        checker = group.checkers[0]

        async def one_check(answers: int) -> str:
            probes.tick()
            while not checker.running:
                await asyncio.sleep(0.001)
                probes.tick()
            for _ in range(answers):  # in the turn in which the check began, before it can end
                Lease(group, group.endpoints[0], None, 0).answered()
            await wait_for(lambda: not checker.running)
            return group.endpoints[0].health

        assert [await one_check(answers=1) for _ in range(5)] == ["unknown"] * 5
        assert [await one_check(answers=0) for _ in range(2)] == ["unknown", "failing"]
        probes.close()


async def test_a_check_takes_no_place_and_stands_in_no_queue(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = group_of(upstream.endpoint)
        taken = group.acquire()  # the only place
        assert taken is not None and group.acquire() is None
        async with probing(client, group):
            await wait_for(lambda: group.endpoints[0].health == "passing")
            assert group.in_flight == 1


async def test_an_answer_that_never_ends_is_judged_by_its_beginning(client: StreamClient) -> None:
    async def endless(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"2000\r\n" + b"x" * 8192 + b"\r\n")

    async with Upstream(endless) as upstream:
        good, bad = group_of(upstream.endpoint), group_of(upstream.endpoint, body=b"never there")
        async with probing(client, good, bad):
            await wait_for(lambda: good.endpoints[0].health == "passing" and bad.endpoints[0].health == "failing")
            assert bad.endpoints[0].health_why == "the body does not contain the text"


async def test_a_cut_answer_and_no_http_at_all_are_failures(client: StreamClient) -> None:
    for sent in (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", b"SSH-2.0-OpenSSH_9\r\n", b""):
        async with Upstream(saying(sent, close=True)) as upstream:
            group = group_of(upstream.endpoint, body=b"long")
            async with probing(client, group):
                await wait_for(lambda group=group: group.endpoints[0].health == "failing")  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_a_unix_socket_is_checked_too(client: StreamClient, tmp_path: Path, kind: str) -> None:
    async with Upstream(unix=str(tmp_path / "s")) as upstream:
        group = group_of(upstream.endpoint, kind=kind, interval_s=60.0)
        async with probing(client, group):
            await wait_for(lambda: group.endpoints[0].health == "passing" and upstream.connections == 1)


async def test_a_connection_is_enough_for_a_check_of_that_kind(client: StreamClient) -> None:
    async with Upstream() as upstream:
        group = group_of(upstream.endpoint, kind="tcp", interval_s=60.0)
        async with probing(client, group):
            await wait_for(lambda: group.endpoints[0].health == "passing" and upstream.connections == 1)
        assert not upstream.requests


def serving(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "address.pem", folder / "address.key")
    return context


async def test_a_certificate_that_is_not_trusted_fails_and_one_that_is_passes(
    client: StreamClient, certificates: Path
) -> None:
    async with Upstream(tls=serving(certificates)) as upstream:
        trusting = group_of(upstream.endpoint, tls=TlsSpec(ca=str(certificates / "ca.pem")))
        wary = group_of(upstream.endpoint)
        async with probing(client, trusting, wary):
            await wait_for(lambda: trusting.endpoints[0].health == "passing" and wary.endpoints[0].health == "failing")
            assert wary.endpoints[0].health_why == "tls_failed"


@pytest.mark.parametrize(("auth", "field", "value", "start"), [
    (AuthSpec("bearer", "Authorization", Secret("sk-1", "env K")), "authorization", b"Bearer sk-1", b"GET / HTTP/1.1"),
    (AuthSpec("header", "x-api-key", Secret("sk-1", "env K")), "x-api-key", b"sk-1", b"GET / HTTP/1.1"),
    (AuthSpec("query", "key", Secret("s k&1", "env K")), "x-api-key", None, b"GET /?key=s%20k%261 HTTP/1.1"),
])
async def test_the_key_is_sent_only_where_it_is_asked_for(
    client: StreamClient, auth: AuthSpec, field: str, value: bytes | None, start: bytes
) -> None:
    async with Upstream() as upstream:
        for wanted in (True, False):
            group = group_of(upstream.endpoint, key=auth, auth=wanted)
            count = len(upstream.requests)
            async with probing(client, group):
                await wait_for(lambda count=count: len(upstream.requests) > count)  # type: ignore[misc]
            message = upstream.requests[count]
            assert message.get(field) == (value if wanted else None)
            assert message.start == (start if wanted else b"GET / HTTP/1.1")


async def test_a_reload_that_drops_an_upstream_ends_its_checks(client: StreamClient) -> None:
    async with Upstream() as upstream:
        groups = [group_of(upstream.endpoint)]
        probes = Probes(client, lambda: groups)
        while not upstream.requests:
            probes.tick()
            await asyncio.sleep(0.005)
        groups[:] = []
        await wait_for(lambda: not probes._running)
        probes.tick()
        count = len(upstream.requests)
        for _ in range(10):
            probes.tick()
            await asyncio.sleep(0.005)
        assert len(upstream.requests) == count and not probes._pools
        probes.close()


async def test_at_most_so_many_checks_run_at_one_time(client: StreamClient) -> None:
    with black_hole() as endpoint:
        endpoints = [EndpointSpec(endpoint.origin, f"/{number}", f"e{number}") for number in range(MOST + 20)]
        group = group_of(*endpoints, kind="http")
        probes = Probes(client, lambda: [group])
        probes.tick()
        probes.tick()
        assert sum(checker.running for checker in group.checkers) == MOST
        probes.close()
        assert not any(checker.running for checker in group.checkers)
