"""Admission over real sockets: permits, the queue, its refusals, and that nothing is lost when clients leave."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

KEYS = {"greedy": "sk-greedy-0123456789", "modest": "sk-modest-0123456789", "vip": "sk-vip-0123456789"}


class Desk:
    """A script that holds every request until it is let go, and remembers who came in which order."""

    def __init__(self, upstream: Upstream) -> None:
        self.came: list[str] = []
        self.go = threading.Semaphore(0)
        self.inside = self.most = 0
        self._lock = threading.Lock()
        upstream.script = self

    def __call__(self, peer: Peer, message: Message) -> None:
        peer.whole(message)
        with self._lock:
            self.came.append(message.target.decode())
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.go.acquire(timeout=60)
        with self._lock:
            self.inside -= 1
        peer.send(answer(b"done"))


def gate(relay: Relay, name: str) -> dict[str, Any]:
    found = [one for one in json.loads(relay.admin("/queue")[1])["gates"] if one["name"] == name]
    return found[0] if found else {"in_flight": 0, "depth": 0}


def ask(relay: Relay, path: str, who: str = "") -> Client:
    client = Client(relay.address)
    fields = [f"Authorization: Bearer {KEYS[who]}".encode()] if who else []
    client.send(request(path.encode(), *fields))
    return client


@pytest.fixture
def limited(upstream: Upstream, folder: Path) -> Iterator[Callable[..., Relay]]:
    """A relayd with these limits at its upstream; further changes merged in."""
    with ExitStack() as stack:

        def start(change: dict[str, Any] | None = None, **limits: Any) -> Relay:
            consumers = {}
            for name, key in KEYS.items():
                file = folder / name
                file.write_text(key)
                file.chmod(0o600)
                consumers[name] = {"bearer": {"file": str(file)}, "priority": 5 if name == "vip" else 0}
            whole: dict[str, Any] = {"upstreams": {"up": {"limits": limits}}, "consumers": consumers, **(change or {})}
            return stack.enter_context(Relay(folder, upstream.url, whole))

        yield start


def test_who_waits_is_served_by_priority_then_by_turns_of_the_consumers(
    upstream: Upstream, limited: Callable[..., Relay]
) -> None:
    relay, desk = limited(requests=1, queue=10), Desk(upstream)
    with ExitStack() as stack:
        clients = []
        names = [("/g0", "greedy"), ("/g1", "greedy"), ("/g2", "greedy"), ("/m1", "modest"), ("/v1", "vip")]
        for number, (path, who) in enumerate(names):
            clients.append(stack.enter_context(ask(relay, path, who)))
            until(lambda number=number: gate(relay, "upstream up")["depth"] + len(desk.came) == number + 1)  # type: ignore[misc]
        for _ in names:
            desk.go.release()
        assert [client.answer().status for client in clients] == [200] * 5
    assert desk.came == ["/g0", "/v1", "/g1", "/m1", "/g2"]
    assert desk.most == 1


def test_a_full_queue_answers_at_once_and_says_when_to_come_back(upstream: Upstream, limited: Callable[..., Relay]) -> None:
    relay, desk = limited(requests=1, queue=1), Desk(upstream)
    with ask(relay, "/a") as first, ask(relay, "/b") as second:
        until(lambda: gate(relay, "upstream up")["depth"] == 1)
        with ask(relay, "/c") as third:
            refused = third.answer()
        assert refused.status in (429, 503)
        assert int(refused.get("retry-after") or b"0") >= 1
        desk.go.release(2)
        assert (first.answer().status, second.answer().status) == (200, 200)
    assert sorted(desk.came) == ["/a", "/b"]


def test_who_waits_too_long_is_refused_and_never_reaches_the_endpoint(
    upstream: Upstream, limited: Callable[..., Relay]
) -> None:
    relay, desk = limited(requests=1, queue=4, queue_timeout="300ms"), Desk(upstream)
    with ask(relay, "/a") as first, ask(relay, "/b") as second:
        refused = second.answer()
        assert refused.status in (429, 503)
        assert refused.get("retry-after")
        desk.go.release()
        assert first.answer().status == 200
    assert desk.came == ["/a"]


def test_a_client_that_leaves_the_queue_frees_its_place_at_once(upstream: Upstream, limited: Callable[..., Relay]) -> None:
    relay, desk = limited(requests=1, queue=1), Desk(upstream)
    with ask(relay, "/a") as first:
        leaver = ask(relay, "/gone")
        until(lambda: gate(relay, "upstream up")["depth"] == 1)
        leaver.close()
        until(lambda: gate(relay, "upstream up")["depth"] == 0)
        with ask(relay, "/b") as second:
            until(lambda: gate(relay, "upstream up")["depth"] == 1)
            desk.go.release(2)
            assert (first.answer().status, second.answer().status) == (200, 200)
    assert desk.came == ["/a", "/b"]
    assert relay.record(path="/gone")["code"] == "client_gone"


def test_a_client_that_leaves_while_served_lets_the_next_one_in(upstream: Upstream, limited: Callable[..., Relay]) -> None:
    relay, desk = limited(requests=1, queue=1), Desk(upstream)
    leaver = ask(relay, "/a")
    until(lambda: desk.came == ["/a"])
    with ask(relay, "/b") as second:
        until(lambda: gate(relay, "upstream up")["depth"] == 1)
        leaver.close()
        until(lambda: desk.came == ["/a", "/b"])
        desk.go.release(2)
        assert second.answer().status == 200


def test_a_reload_that_raises_the_limit_lets_those_in_who_wait(upstream: Upstream, limited: Callable[..., Relay]) -> None:
    relay, desk = limited(requests=1, queue=4), Desk(upstream)
    with ask(relay, "/a") as first, ask(relay, "/b") as second, ask(relay, "/c") as third:
        until(lambda: gate(relay, "upstream up")["depth"] == 2)
        relay.write({"upstreams": {"up": {"limits": {"requests": 2}}}})
        done = subprocess.run(
            [sys.executable, "-m", "relayd", "reload", "--socket", relay.admin_path], cwd=ROOT, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        until(lambda: len(desk.came) == 2)
        assert (gate(relay, "upstream up")["in_flight"], gate(relay, "upstream up")["depth"]) == (2, 1)
        desk.go.release(3)
        assert [client.answer().status for client in (first, second, third)] == [200] * 3


def test_a_queue_before_a_limited_endpoint_waits_for_room_there(upstream: Upstream, limited: Callable[..., Relay]) -> None:
    change = {"upstreams": {"up": {"endpoints": [{"url": upstream.url, "limits": 1}], "limits": {"queue": 4}}}}
    relay, desk = limited(change), Desk(upstream)
    with ask(relay, "/a") as first, ask(relay, "/b") as second:
        until(lambda: gate(relay, "upstream up")["depth"] == 1)
        desk.go.release(2)
        assert (first.answer().status, second.answer().status) == (200, 200)
    assert desk.most == 1


@pytest.mark.parametrize("place", ["routes", "consumers"])
def test_routes_and_consumers_have_limits_of_their_own(place: str, upstream: Upstream, limited: Callable[..., Relay]) -> None:
    route = {"name": "all", "match": {"prefix": "/"}, "upstream": "up"}
    relay, desk = limited({"routes": [{**route, "limits": 1}]} if place == "routes" else None), Desk(upstream)
    if place == "consumers":
        relay.write({"consumers": {"greedy": {"limits": 1}}})
        subprocess.run([sys.executable, "-m", "relayd", "reload", "--socket", relay.admin_path], cwd=ROOT, check=True, timeout=60)
    with ask(relay, "/a", "greedy") as first:
        until(lambda: desk.came == ["/a"])
        with ask(relay, "/b", "greedy") as second:
            assert second.answer().status == 429
        desk.go.release()
        assert first.answer().status == 200


async def visit(address: Any, chance: random.Random, statuses: list[int]) -> None:
    """One client: it asks, and goes away after a random patience, or when it is answered."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"GET /crowd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            async with asyncio.timeout(chance.choice([0.0, 0.05, 0.2, 1.0, 20.0])):
                line = await reader.readline()
                await reader.read()
                statuses.append(int(line.split(b" ")[1]))
        except TimeoutError:
            statuses.append(0)
    finally:
        writer.close()


async def crowd(address: Any, count: int, at_once: int) -> list[int]:
    chance = random.Random(9)
    statuses: list[int] = []
    places = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with places:
            await visit(address, chance, statuses)

    await asyncio.gather(*(one() for _ in range(count)))
    return statuses


def test_two_thousand_clients_that_leave_at_random_leave_nothing_behind(
    upstream: Upstream, limited: Callable[..., Relay]
) -> None:
    """On eight permits and 64 places; afterwards every permit, place and slot is free, and all eight work at once."""
    chance = random.Random(10)

    def work(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if not peer.ended(chance.uniform(0.001, 0.02)):  # works, or notices that relayd has left
            peer.send(answer(b"done"))

    relay = limited(requests=8, queue=64, queue_timeout="2s")
    upstream.script = work
    statuses = asyncio.run(crowd(relay.address, 2000, 300))
    assert len(statuses) == 2000
    assert set(statuses) == {0, 200, 503}  # all three happened, and nothing else
    assert statuses.count(200) > 50
    relay.wait_quiet()
    found = gate(relay, "upstream up")
    assert (found["in_flight"], found["depth"], found["in_flight_of"], found["waiting_of"]) == (0, 0, {}, {})
    endpoint = json.loads(relay.admin("/upstreams")[1])["upstreams"][0]["endpoints"][0]
    assert endpoint["in_flight"] == 0
    desk = Desk(upstream)
    with ExitStack() as stack:
        clients = [stack.enter_context(ask(relay, "/after")) for _ in range(8)]
        until(lambda: desk.inside == 8)
        desk.go.release(8)
        assert [client.answer().status for client in clients] == [200] * 8
