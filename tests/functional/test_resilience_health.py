"""Where a sick endpoint is seen, active checks over real sockets, hands on endpoints, and relayd's own health under load."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import (
    Process,
    asked,
    came,
    endpoints,
    get,
    label,
    metric,
    reload,
    run,
    says,
    settled,
    silent,
    until,
)
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, hello

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ILL = says(b"ill", status=b"500 Internal Server Error")
OFTEN = {"path": "/health", "interval": "100ms", "timeout": "30s", "healthy": 1, "unhealthy": 2}


@pytest.fixture
def second() -> Iterator[Upstream]:
    with Upstream() as other:
        other.script = says(b"second")
        yield other
        assert not other.faults


def of(urls: list[Any], **words: Any) -> dict[str, Any]:
    return {"upstreams": {"up": {"endpoints": urls, **words}}}


class Checked:
    """A script that answers checks as it is told, and everything else with its name."""

    def __init__(self, upstream: Upstream, name: bytes) -> None:
        self.name, self.checks, self.well = name, 0, True
        self.body, self.hang = b"ok", False
        upstream.script = self

    def __call__(self, peer: Peer, message: Message) -> None:
        if message.target != b"/health":
            says(self.name)(peer, message)
            return
        self.checks += 1
        if self.hang:
            silent(peer, message)
        elif self.well:
            says(self.body)(peer, message)
        else:
            ILL(peer, message)


# ---- seen


def test_an_open_breaker_is_seen_in_status_metrics_log_and_health(upstream: Upstream, folder: Path) -> None:
    upstream.script = ILL
    address = label(upstream.url)
    with Relay(folder, upstream.url, of([upstream.url], breaker={"failures": 2, "open_for": "1h"})) as relay:
        code, told = relay.admin("/health")
        assert (code, json.loads(told)["status"]) == (200, "healthy")
        assert json.loads(told)["circuit_breaker"] == {"enabled": True, "is_open": False, "consecutive_failures": 0}
        assert metric(relay, "relayd_upstream_available", upstream="up", endpoint=address) == 1
        for _ in range(2):
            get(relay, b"/x")
        code, told = relay.admin("/health")
        assert (code, json.loads(told)["status"]) == (503, "unhealthy")
        assert json.loads(told)["circuit_breaker"] == {"enabled": True, "is_open": True, "consecutive_failures": 2}
        assert (relay.admin("/live")[0], relay.admin("/ready")[0]) == (200, 200)
        assert metric(relay, "relayd_upstream_available", upstream="up", endpoint=address) == 0
        (end,) = relay.status()["upstreams"][0]["endpoints"]
        assert (end["endpoint"], end["breaker"], end["available"]) == (address, "open", False)
        line = next(line for line in relay.error_file.read_text().splitlines() if "breaker_opened" in line)
        assert address in line
        assert "5xx 500" in line
        out = run(relay, "upstreams")[1]
        assert "open" in next(line for line in out.splitlines() if address in line)
        upstream.script = hello
        assert run(relay, "breaker", "reset", "up", address)[0] == 0
        assert relay.admin("/health")[0] == 200
        assert get(relay, b"/x").status == 200


def test_what_no_operator_asked_for_never_makes_relayd_unhealthy(upstream: Upstream, folder: Path) -> None:
    """Without a `breaker:` failing endpoints are passed over, but the last one is asked all the same."""
    upstream.script = ILL
    with Relay(folder, upstream.url) as relay:
        assert [get(relay, b"/x").body for _ in range(8)] == [b"ill"] * 8
        assert relay.admin("/health")[0] == 200
        upstream.script = says(b"well")
        assert get(relay, b"/x").body == b"well"


def test_a_probe_that_is_a_long_stream_closes_the_breaker_with_its_head(upstream: Upstream, folder: Path) -> None:
    """On a route without retries or fallbacks: nobody waits for hours until the probe has ended."""
    upstream.script = ILL
    go = threading.Event()

    def stream(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        go.wait(60)
        peer.send(b"0\r\n\r\n")

    with Relay(folder, upstream.url, of([upstream.url], breaker={"failures": 1, "open_for": "200ms"})) as relay:
        get(relay, b"/x")
        until(lambda: next(iter(endpoints(relay).values()))["breaker"] == "half_open")
        upstream.script = stream
        with Client(relay.address) as probe:
            probe.send(request(b"/stream"))
            assert probe.head_of_answer().status == 200
            upstream.script = says(b"well")
            assert get(relay, b"/beside").body == b"well"
            go.set()


def test_a_breaker_goes_on_over_a_reload(upstream: Upstream, folder: Path) -> None:
    upstream.script = ILL
    with Relay(folder, upstream.url, of([upstream.url], breaker={"failures": 1, "open_for": "1h"})) as relay:
        get(relay, b"/x")
        before = next(iter(endpoints(relay).values()))
        reload(relay, {"upstreams": {"up": {"timeouts": {"idle": "77s"}}}})
        after = next(iter(endpoints(relay).values()))
        assert (after["breaker"], after["opened"], after["last_fault"]) == ("open", 1, "5xx 500")
        assert 0 <= before["retry_in_s"] - after["retry_in_s"] < 30
        assert get(relay, b"/x").status == 503
        assert len(upstream.heads) == 1


# ---- by hand


def test_a_drained_endpoint_finishes_what_is_open_and_stays_drained_over_a_reload(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    go = threading.Event()

    def stream(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: 1\n\n"))
        go.wait(60)
        peer.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    upstream.script = stream
    urls = [{"url": upstream.url, "priority": 0}, {"url": second.url, "priority": 1}]
    with Relay(folder, upstream.url, of(urls)) as relay, Client(relay.address) as client:
        client.send(request(b"/stream"))
        head = client.head_of_answer()
        assert run(relay, "endpoint", "drain", "up", label(upstream.url))[0] == 0
        assert set(asked(relay, b"/x")) == {b"second"}
        reload(relay, {"upstreams": {"up": {"timeouts": {"idle": "77s"}}}})
        end = endpoints(relay)[label(upstream.url)]
        assert end["state"] == "draining"
        go.set()
        client.body(head, until_close=False)
        assert (head.complete, head.body) == (True, b"data: 1\n\ndata: 2\n\n")
        # Taken out of the file and put in again: what the operator said is still true.
        reload(relay, {"upstreams": {"up": {"endpoints": [second.url]}}})
        reload(relay, {"upstreams": {"up": {"endpoints": urls}}})
        assert endpoints(relay)[label(upstream.url)]["state"] == "draining"
        assert run(relay, "endpoint", "enable", "up", label(upstream.url))[0] == 0
        upstream.script = says(b"first")
        assert set(asked(relay, b"/x")) == {b"first"}
        settled(relay)


def test_a_reload_that_changes_addresses_keeps_those_that_stay_and_lets_the_gone_ones_finish(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    go = threading.Event()

    def stream(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if message.target != b"/stream":
            peer.send(answer(b"first"))
            return
        peer.send(SSE + chunk(b"data: 1\n\n"))
        go.wait(60)
        peer.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    upstream.script = stream
    urls = [{"url": upstream.url, "priority": 0}, {"url": second.url, "priority": 1}]
    with Relay(folder, upstream.url, of(urls)) as relay, Client(relay.address) as client:
        assert set(asked(relay, b"/x")) == {b"first"}
        client.send(request(b"/stream"))
        head = client.head_of_answer()
        reload(relay, {"upstreams": {"up": {"endpoints": [second.url]}}})
        assert set(asked(relay, b"/x")) == {b"second"}
        gone = endpoints(relay)[label(upstream.url)]
        assert (gone["state"], gone["available"], gone["in_flight"]) == ("leaving", False, 1)
        assert "leaving" in run(relay, "upstreams")[1]
        connections = second.connections
        reload(relay, {"upstreams": {"up": {"endpoints": [{"url": second.url, "weight": 7}]}}})
        assert set(asked(relay, b"/x")) == {b"second"} and second.connections == connections, "what stays stays connected"
        go.set()
        client.body(head, until_close=False)
        assert (head.complete, head.body) == (True, b"data: 1\n\ndata: 2\n\n")
        until(lambda: label(upstream.url) not in endpoints(relay))
        assert b"endpoints_changed" in relay.output()
        settled(relay)


# ---- checked


def test_an_endpoint_that_fails_its_checks_is_out_until_it_passes_them(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    first = Checked(upstream, b"first")
    Checked(second, b"second")
    with Relay(folder, upstream.url, of([upstream.url, second.url], health=OFTEN)) as relay:
        until(lambda: {end["health"] for end in endpoints(relay).values()} == {"passing"})
        assert set(asked(relay, b"/x")) == {b"first", b"second"}
        first.well = False
        until(lambda: endpoints(relay)[label(upstream.url)]["health"] == "failing")
        assert endpoints(relay)[label(upstream.url)]["health_why"] == "status 500"
        assert set(asked(relay, b"/x")) == {b"second"}
        assert metric(relay, "relayd_upstream_changes_total", upstream="up", event="endpoint_failing") == 1
        reload(relay, {"upstreams": {"up": {"timeouts": {"idle": "77s"}}}})
        assert endpoints(relay)[label(upstream.url)]["health"] == "failing"
        assert set(asked(relay, b"/x")) == {b"second"}
        seen = first.checks
        until(lambda: first.checks > seen)  # checks go on in the new generation
        first.well = True
        until(lambda: set(asked(relay, b"/x")) == {b"first", b"second"})
        assert "endpoint_passing" in relay.error_file.read_text()


def test_a_check_can_want_a_status_and_a_text_and_sends_no_key(upstream: Upstream, folder: Path) -> None:
    script = Checked(upstream, b"first")
    key = folder / "key"
    key.write_text("sk-up-0123456789")
    key.chmod(0o600)
    words = {"health": {**OFTEN, "status": ["2xx", "401"], "body": "fine"}, "auth": {"bearer": {"file": str(key)}}}
    with Relay(folder, upstream.url, of([upstream.url], **words)) as relay:
        until(lambda: next(iter(endpoints(relay).values()))["health"] == "failing")
        assert "text" in next(iter(endpoints(relay).values()))["health_why"]
        script.body = b"all is fine"
        until(lambda: next(iter(endpoints(relay).values()))["health"] == "passing")
        checks = [head for head in upstream.heads if head.target == b"/health"]
        assert not any(head.get("authorization") for head in checks)
        assert {head.get("user-agent") for head in checks} == {b"relayd-health"}


def test_tcp_checks_only_connect_and_find_who_is_gone(folder: Path) -> None:
    with Upstream() as staying, Process() as dying:
        staying.script = says(b"staying")
        words = {"health": {**OFTEN, "kind": "tcp"}}
        with Relay(folder, staying.url, of([staying.url, dying.url], **words)) as relay:
            until(lambda: {end["health"] for end in endpoints(relay).values()} == {"passing"})
            assert not staying.heads
            dying.kill()
            until(lambda: endpoints(relay)[label(dying.url)]["health"] == "failing")
            assert set(asked(relay, b"/x")) == {b"staying"}


def is_passing(relay: Relay) -> bool:
    """Whether its only endpoint is healthy."""
    return bool(next(iter(endpoints(relay).values()))["health"] == "passing")


def test_an_endpoint_behind_a_unix_socket_is_checked_there(folder: Path) -> None:
    with Upstream(unix=str(folder / "up.sock")) as upstream:
        script = Checked(upstream, b"unix")
        for kind in ("http", "tcp"):
            with Relay(folder / kind, upstream.url, of([upstream.url], health={**OFTEN, "kind": kind})) as relay:
                until(partial(is_passing, relay))
                assert get(relay, b"/x").body == b"unix"
        assert script.checks


def test_a_busy_endpoint_is_not_a_sick_one(upstream: Upstream, folder: Path) -> None:
    """Its checks run out of time while it answers others: it stays. When it answers nobody any more, it goes."""
    script = Checked(upstream, b"busy")
    with Relay(folder, upstream.url, of([upstream.url], health={**OFTEN, "timeout": "300ms"})) as relay:
        until(lambda: next(iter(endpoints(relay).values()))["health"] == "passing")
        script.hang = True
        seen = script.checks

        def busy_for_three_checks() -> bool:
            assert get(relay, b"/x").body == b"busy"
            return script.checks > seen + 3

        until(busy_for_three_checks)
        assert next(iter(endpoints(relay).values()))["health"] == "passing"
        until(lambda: next(iter(endpoints(relay).values()))["health"] == "failing")
        assert "timed out" in next(iter(endpoints(relay).values()))["health_why"]


def test_checks_go_past_limits_and_queues(upstream: Upstream, folder: Path) -> None:
    script = Checked(upstream, b"x")
    held = threading.Event()

    def both(peer: Peer, message: Message) -> None:
        if message.target == b"/hold":
            peer.whole(message)
            held.wait(60)
            peer.send(answer())
        else:
            script(peer, message)

    upstream.script = both
    with Relay(folder, upstream.url, of([upstream.url], health=OFTEN, limits={"requests": 1, "queue": 4})) as relay, \
            Client(relay.address) as holder, Client(relay.address) as waiter:
        holder.send(request(b"/hold"))
        until(lambda: came(upstream, b"GET") > script.checks)
        waiter.send(request(b"/wait"))
        seen = script.checks
        until(lambda: script.checks > seen + 3)
        held.set()
        assert (holder.answer().status, waiter.answer().status) == (200, 200)


# ---- relayd's own


async def stream_reader(address: Any, opened: list[int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"POST /stream?n=100000&gap_ms=2000&size=64 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert b" 200 " in await reader.readline()
        opened[0] += 1
        while await reader.read(65536):
            pass
    finally:
        writer.close()


PROBE = """
import json, os, socket, sys, time

def spent_s(tasks):
    return sum(int(open(f"{tasks}/{task}/schedstat").read().split()[0]) for task in os.listdir(tasks)) / 1e9

path, count, tasks, waits = sys.argv[1], int(sys.argv[2]), f"/proc/{sys.argv[3]}/task", []
for _ in range(count):
    with socket.socket(socket.AF_UNIX) as client:
        before = spent_s(tasks)
        client.connect(path)
        client.sendall(b"GET /health HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        assert b" 200 " in client.recv(65536)
        waits.append(spent_s(tasks) - before)
    time.sleep(0.02)  # looks at a second, not at a moment
print(json.dumps(sorted(waits)))
"""


async def health_waits(relay: Relay, count: int) -> list[float]:
    """What relayd did while each of so many questions for its health was answered, in seconds of CPU, shortest first; asked
    by a process that has nothing else to do. A busy machine makes relayd slower, but not its work more."""
    words = (relay.admin_path, str(count), str(relay.pid))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROBE, *words, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    waits: list[float] = json.loads(out)
    return waits


STREAMS = 5000


def test_health_answers_while_every_permit_is_taken_and_thousands_of_streams_are_open(folder: Path) -> None:
    """5,000 streams of one event in two seconds each, every permit taken, a hundred more in the queue."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(STREAMS, (most - 500) // 2 - 200)
    with Process() as busy:
        change = {
            "listeners": {"public": {"limits": {"connections_per_peer": 0}}},
            "upstreams": {"up": {"endpoints": [busy.url], "limits": {"requests": count, "queue": 1000, "queue_timeout": "off"}}},
        }
        with Relay(folder, busy.url, change) as relay:

            async def crowd() -> tuple[list[float], list[float]]:
                opened = [0]
                idle = await health_waits(relay, 20)
                tasks = []
                for number in range(count + 100):
                    tasks.append(asyncio.create_task(stream_reader(relay.address, opened)))
                    while min(number, count) - opened[0] > 200:  # as fast as the machine opens them
                        assert not any(task.done() for task in tasks), "a stream has ended"
                        await asyncio.sleep(0.02)
                while opened[0] < count:
                    for task in tasks:
                        assert not task.done(), task.exception() or "a stream has ended"
                    await asyncio.sleep(0.1)
                waits = await health_waits(relay, 50)
                gates = json.loads(await asyncio.to_thread(lambda: relay.admin("/queue")[1]))["gates"]
                assert (gates[0]["in_flight"], gates[0]["depth"]) == (count, 100)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                return idle, waits

            idle, waits = asyncio.run(crowd())
            print(f"{count} streams: health p50 {waits[25] * 1000:.1f} ms, worst of 50 {waits[-1] * 1000:.1f} ms of CPU"
                  f" (idle {idle[10] * 1000:.1f} ms)")
            assert waits[45] < max(0.02, 20 * idle[10])  # nine of ten
            relay.wait_quiet()
            settled(relay)
