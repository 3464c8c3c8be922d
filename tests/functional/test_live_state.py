"""Commands that show live state and change it, against a running relayd: real processes, real exchanges."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def command(relay: Relay, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", *words, "--socket", relay.admin_path], cwd=relay.folder, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def shown(relay: Relay, verb: str) -> dict[str, Any]:
    code, out, err = command(relay, verb, "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.fixture
def pair(upstream: Upstream, folder: Path) -> Iterator[tuple[Relay, Upstream, Upstream]]:
    """A relayd before two endpoints, each of which says which it is."""
    with Upstream() as second:
        change = {"upstreams": {"up": {"endpoints": [upstream.url, second.url], "breaker": {"failures": 3, "open_for": "1h"}}}}
        with Relay(folder, upstream.url, change) as relay:
            yield relay, upstream, second


def says(name: bytes) -> Callable[[Peer, Message], None]:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(name))

    return script


def asked(relay: Relay, path: bytes, times: int = 6) -> set[bytes]:
    with relay.client() as client:
        return {client.ask(request(path)).body for _ in range(times)}


def both(pair: tuple[Relay, Upstream, Upstream]) -> tuple[Relay, str, str]:
    """Let both say who they are; their addresses."""
    relay, first, second = pair
    first.script, second.script = says(b"first"), says(b"second")
    one, two = (end["address"] for end in shown(relay, "upstreams")["upstreams"][0]["endpoints"])
    return relay, one, two


def test_an_endpoint_is_drained_over_a_reload_and_brought_back(pair: tuple[Relay, Upstream, Upstream]) -> None:
    relay, one, _ = both(pair)
    assert asked(relay, b"/drained") == {b"first", b"second"}
    code, out, err = command(relay, "endpoint", "drain", "up", one)
    assert (code, err) == (0, "")
    assert out.startswith(f"up {one}: draining")
    assert asked(relay, b"/drained") == {b"second"}
    relay.write({"upstreams": {"up": {"timeouts": {"idle": "77s"}}}})
    assert command(relay, "reload")[0] == 0
    assert asked(relay, b"/drained") == {b"second"}
    assert shown(relay, "upstreams")["upstreams"][0]["endpoints"][0]["state"] == "draining"
    assert command(relay, "endpoint", "enable", "up", one)[0] == 0
    assert asked(relay, b"/drained") == {b"first", b"second"}


def test_a_breaker_is_opened_and_reset_by_hand(pair: tuple[Relay, Upstream, Upstream]) -> None:
    relay, one, two = both(pair)
    assert command(relay, "breaker", "open", "up", two)[0] == 0
    assert asked(relay, b"/broken") == {b"first"}
    _, out, _ = command(relay, "upstreams")
    line = next(line for line in out.splitlines() if f" {two} " in line)
    assert "open" in line.split()
    assert "opened by hand" in line
    assert command(relay, "breaker", "open", "up", one)[0] == 0
    with relay.client() as client:
        assert client.ask(request(b"/broken")).status == 503
    code, body = relay.admin("/health")
    assert (code, json.loads(body)["status"], json.loads(body)["circuit_breaker"]["is_open"]) == (503, "unhealthy", True)
    assert relay.admin("/live")[0] == 200
    for address in (one, two):
        assert command(relay, "breaker", "reset", "up", address)[0] == 0
    assert asked(relay, b"/broken") == {b"first", b"second"}


def test_what_cannot_be_done_fails_and_says_what_there_is(pair: tuple[Relay, Upstream, Upstream]) -> None:
    relay, one, two = both(pair)
    code, out, err = command(relay, "endpoint", "disable", "up", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert one in err
    assert two in err
    code, _, err = command(relay, "breaker", "open", "down", one)
    assert code == 1
    assert "'down'" in err


def test_a_stream_is_shown_while_it_lasts(upstream: Upstream, relay: Relay) -> None:
    began, go = threading.Event(), threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: one\n\n"))
        began.set()
        go.wait(60)
        peer.send(chunk(b""))

    upstream.script = script
    with Client(relay.address) as client:
        client.send(request(b"/live?key=sk-not-shown", b"X-Request-ID: live-1"))
        assert began.wait(60)

        def mine() -> list[dict[str, Any]]:
            return [one for one in shown(relay, "streams")["streams"] if one["path"] == "/live"]

        until(lambda: bool(mine()) and mine()[0]["room"] == "transfer")
        found = mine()[0]
        assert (found["route"], found["upstream"], found["attempts"], found["sent_bytes"]) == ("all", "up", 1, 11)
        assert found["age_s"] > 0
        _, out, _ = command(relay, "streams")
        assert "GET /live" in out
        assert "sk-not-shown" not in out
        go.set()
        until(lambda: not mine())


def test_on_a_terminal_watching_draws_over_and_ends_well_by_an_interrupt(relay: Relay) -> None:
    terminal, inner = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "relayd", "status", "--watch", "100ms", "--socket", relay.admin_path], stdin=inner,
            stdout=inner, stderr=inner, cwd=relay.folder, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
        os.close(inner)
        seen = b""
        end = time.monotonic() + 60
        while seen.count(b"\033[H") < 3:
            assert time.monotonic() < end, seen
            if select.select([terminal], [], [], 0.5)[0]:
                seen += os.read(terminal, 65536)
        assert b"serving" in seen
        process.send_signal(signal.SIGINT)
        while process.poll() is None:  # a terminal reads to the end; who waits to write to it cannot leave
            assert time.monotonic() < end + 60
            if select.select([terminal], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):  # EIO: the other side is closed
                    os.read(terminal, 65536)
        assert process.returncode == 0
    finally:
        os.close(terminal)


def test_without_a_terminal_watching_repeats(relay: Relay) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "relayd", "streams", "--json", "--watch", "100ms", "--socket", relay.admin_path],
        stdout=subprocess.PIPE, cwd=relay.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        pages = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert all("in_flight" in page for page in pages)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_where_nothing_is_limited_queue_says_so(relay: Relay) -> None:
    assert command(relay, "queue")[:2] == (0, "nothing is limited\n")


def test_the_gauges_of_what_a_reload_removes_disappear(upstream: Upstream, tmp_path: Path) -> None:
    """A series that is not set any more shows its last value for ever: a dashboard would show streams that have ended."""
    change = {"upstreams": {"gone": {"endpoints": [upstream.url], "limits": {"requests": 3}}},
              "listeners": {"gone": {"address": f"127.0.0.1:{free_port()}"}},
              "routes": [{"name": "gone", "match": {"prefix": "/gone/"}, "upstream": "gone", "limits": {"requests": 2}},
                         {"name": "all", "match": {"prefix": "/"}, "upstream": "up"}]}

    def gauges(relay: Relay) -> set[str]:
        text = relay.admin("/metrics")[1].decode()
        kinds = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
        series = [line.split("{") for line in text.splitlines() if "{" in line]
        return {name for name, labels in series if "gone" in labels and kinds.get(name) == "gauge"}

    with Relay(tmp_path / "one", upstream.url, change) as relay:
        with relay.client() as client:
            assert client.ask(request(b"/gone/x")).status == 200
            assert {"relayd_upstream_exchanges", "relayd_listener_connections"} <= gauges(relay)
        relay.write({"upstreams": {"gone": None}, "listeners": {"gone": None}, "routes": relay.config["routes"][1:]})
        assert relay.admin("/reload", "POST")[0] == 200
        assert gauges(relay) == set()
