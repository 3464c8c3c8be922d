"""Several machines behind HAProxy, as relayd-scaling(7) describes it: with the configurations that relayd ships."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import TracebackType

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.examples import example
from tests.functional.harness.faults import until
from tests.functional.harness.haproxy import HaProxy, haproxy
from tests.functional.harness.message import Closed, Message, Wire, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, hello

CLIENT = "127.0.0.5"  # clients have another address than the balancer
KEY = b"Authorization: Bearer key-of-team"
BODY = b"data: one\n\ndata: two\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class FromClient(Client):
    """A connection from the address of a client."""

    def __init__(self, address: tuple[str, int]) -> None:
        Wire.__init__(self, socket.create_connection(address, 60, (CLIENT, 0)))

    def __enter__(self) -> FromClient:
        return self

    def begin_stream(self) -> Message:
        """Send a request; the head of its response."""
        self.send(chat())
        head = self.head_of_answer()
        assert head.status == 200
        return head

    def rest_of(self, head: Message) -> Message:
        """The response with what came of its body."""
        self.body(head, until_close=False)
        return head


def chat(number: int = 0) -> bytes:
    body = b'{"model":"m","messages":[{"role":"user","content":"%d"}]}' % number
    return request(b"/v1/chat/completions", KEY, method=b"POST", body=body)


class Load:
    """Clients that send requests one after the other, each on a new connection, until the end of the block."""

    def __init__(self, address: tuple[str, int], clients: int = 2) -> None:
        self.address, self.stopped = address, threading.Event()
        self.answered, self.faults = 0, list[str]()
        self.threads = [threading.Thread(target=self.ask) for _ in range(clients)]

    def ask(self) -> None:
        while not self.stopped.is_set():
            try:
                with FromClient(self.address) as client:
                    status = client.ask(chat()).status
                if status != 200:
                    self.faults.append(str(status))
            except (OSError, Closed) as fault:
                self.faults.append(repr(fault))
            self.answered += 1

    def more(self, count: int = 10) -> None:
        """Wait until so many further requests are answered."""
        wanted = self.answered + count
        until(lambda: self.answered >= wanted, what="the load")

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)


class Streaming:
    """An endpoint whose response to the first request stays open until `end` is set; it answers all others at once."""

    def __init__(self) -> None:
        self.end, self.began = threading.Event(), threading.Event()

    def __enter__(self) -> Streaming:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.end.set()

    def __call__(self, peer: Peer, message: Message) -> None:
        if self.began.is_set():
            hello(peer, message)
            return
        self.began.set()
        peer.whole(message)
        peer.send(STREAM + chunk(b"data: one\n\n"))
        self.end.wait(60)
        peer.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")


@pytest.fixture(scope="module")
def relays(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Relay]]:
    """Two machines: relayd with the shipped example, which trusts the balancer's address."""
    folder = tmp_path_factory.mktemp("machines")
    found = []
    for name in ("one", "two"):
        change = example("scale-out", folder / name, module_upstream.url)
        change["store"] = "memory"  # test_shared_state.py has a Redis
        change["listeners"] = {"public": {"trusted_proxies": ["127.0.0.1"]}}
        change["consumers"]["balancer"]["addresses"] = ["127.0.0.1"]
        found.append(Relay(folder / name, module_upstream.url, change))
    with found[0], found[1]:
        yield found


@pytest.fixture(scope="module")
def module_balancer(relays: list[Relay], tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaProxy]:
    with haproxy(relays, tmp_path_factory.mktemp("haproxy")) as running:
        yield running


@pytest.fixture
def balancer(module_balancer: HaProxy, relays: list[Relay], upstream: Upstream) -> HaProxy:
    """HAProxy before two machines in service, whatever a test that failed has left of them."""
    for name, relay in zip(("one", "two"), relays, strict=True):
        relay.restore()
        module_balancer.command(f"set server relayd/{name} state ready")
    until(lambda: module_balancer.is_up("one") and module_balancer.is_up("two"), what="both machines")
    return module_balancer


def holder(relays: list[Relay]) -> int:
    """The place of the relay that has an open exchange."""
    return int(until(lambda: [str(place) for place, relay in enumerate(relays) if relay.exchanges()], what="the stream")[0])


def test_clients_are_distributed_and_keep_their_addresses(balancer: HaProxy, relays: list[Relay]) -> None:
    for number in range(8):
        with FromClient(balancer.address) as client:
            spoofed = chat(number).replace(KEY, KEY + b"\r\nX-Forwarded-For: 203.0.113.7")
            assert client.ask(spoofed).status == 200
    for relay in relays:
        record = relay.record(route="llm")
        assert (record["peer"], record["client"], record["consumer"]) == ("127.0.0.1", CLIENT, "team")


def test_the_health_check_is_for_the_balancer_alone(balancer: HaProxy, relays: list[Relay]) -> None:
    with FromClient(balancer.address) as client:
        assert client.ask(request(b"/ready", b"X-Forwarded-For: 127.0.0.1")).status == 401
    assert relays[0].record(route="ready", status=200)["consumer"] == "balancer"


def test_a_rolling_restart_with_drained_machines_loses_nothing(
    balancer: HaProxy, relays: list[Relay], upstream: Upstream
) -> None:
    upstream.script = streaming = Streaming()
    with streaming, FromClient(balancer.address) as client:
        head = client.begin_stream()
        first = holder(relays)
        with Load(balancer.address) as load:
            for place in (first, 1 - first):
                name, relay = ("one", "two")[place], relays[place]
                load.more()
                balancer.command(f"set server relayd/{name} state drain")
                load.more()
                assert relay.exchanges() == (1 if place == first else 0), "new requests go to the other machine"
                if place == first:
                    streaming.end.set()
                    assert client.rest_of(head).complete and head.body == BODY
                    relay.wait_quiet()
                assert relay.stop() == 0
                relay.start()
                balancer.command(f"set server relayd/{name} state ready")
                until(lambda name=name: balancer.is_up(name), what=name)  # type: ignore[misc]
                load.more()
        assert load.faults == []


def test_a_machine_that_is_stopped_without_notice_finishes_its_streams(
    balancer: HaProxy, relays: list[Relay], upstream: Upstream
) -> None:
    upstream.script = streaming = Streaming()
    with streaming, FromClient(balancer.address) as client:
        head = client.begin_stream()
        place = holder(relays)
        os.kill(relays[place].pid, signal.SIGTERM)
        until(lambda: balancer.state(("one", "two")[place]) == "DOWN", what="the health check")
        with Load(balancer.address) as load:
            load.more(20)
        assert load.faults == []
        streaming.end.set()
        assert client.rest_of(head).complete and head.body == BODY
    assert relays[place].ended() == 0
    relays[place].start()


def test_a_machine_that_dies_loses_only_its_requests_in_flight(
    balancer: HaProxy, relays: list[Relay], upstream: Upstream
) -> None:
    upstream.script = streaming = Streaming()
    with streaming, FromClient(balancer.address) as client:
        head = client.begin_stream()
        place = holder(relays)
        with Load(balancer.address, clients=3) as load:
            load.more()
            os.kill(relays[place].pid, signal.SIGKILL)
            load.more(20)
        assert len(load.faults) <= 3, "at most one request of each client was in flight"
        assert not client.rest_of(head).complete, "a cut stream is seen to be cut"
        streaming.end.set()
    assert relays[place].ended() == -signal.SIGKILL
    relays[place].start()
