"""Faults that are real: a process that dies, an address that swallows connections, one that refuses them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Script, Upstream

STREAMER = ROOT / "tests/bench/streamer.py"


def until(holds: Callable[[], Any], timeout_s: float = 60.0, what: str = "it") -> Any:
    """What `holds` says when it first is true; the wait between two looks is only politeness."""
    end = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end, f"{what} did not come to be in time"
        time.sleep(0.01)
    return found


def stuck_for(count: Callable[[], float], seconds: float) -> None:
    """Wait until a count has begun and then has stood still for so long."""
    last, since, end = 0.0, time.monotonic(), time.monotonic() + 60
    while not last or time.monotonic() - since < seconds:
        if (now := count()) != last:
            last, since = now, time.monotonic()
        assert time.monotonic() < end, f"it goes on or never began: {last}"
        time.sleep(0.02)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address where connections are neither taken nor refused: the queue of a listening socket is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            plug = stack.enter_context(socket.socket())
            plug.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                plug.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused_url() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


class Process:
    """An endpoint that is a process of its own and can be killed; its targets are in tests/bench/streamer.py."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process = subprocess.Popen([sys.executable, str(STREAMER), str(self.port)], cwd=ROOT)
        until(self.answers, what="the streamer's start")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 60):
            return True
        return False

    def kill(self) -> None:
        """As the kernel ends a process that has too much memory."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *fault: object) -> None:
        if self.process.poll() is None:
            self.kill()


# ---- scripts


def says(name: bytes, *lines: bytes, status: bytes = b"200 OK") -> Script:
    """A script that answers with these words."""

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(name, *lines, status=status))

    return script


def silent(peer: Peer, message: Message) -> None:
    """A script that reads the request and says nothing until relayd has left."""
    peer.whole(message)
    peer.wait_gone()


def once(*scripts: Script) -> Script:
    """One script for each request, the last one for all that follow."""
    left = list(scripts)

    def script(peer: Peer, message: Message) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(peer, message)

    return script


# ---- looks at relayd


def label(url: str) -> str:
    """The address as relayd shows it."""
    return url.partition("://")[2] if "://" in url else url


def endpoints(relay: Relay, upstream: str = "up") -> dict[str, dict[str, Any]]:
    """What is shown of the endpoints of an upstream, by address."""
    found = json.loads(relay.admin("/upstreams")[1])["upstreams"]
    one = next(each for each in found if each["name"] == upstream)
    return {end["address"]: end for end in one["endpoints"]}


def upstream_of(relay: Relay, name: str = "up") -> dict[str, Any]:
    found = json.loads(relay.admin("/upstreams")[1])["upstreams"]
    return next(one for one in found if one["name"] == name)


def metric(relay: Relay, name: str, **labels: str) -> float:
    """The value of a series of /metrics, the sum of those that have these labels."""
    total, wanted = 0.0, [f'{key}="{value}"' for key, value in labels.items()]
    for line in relay.admin("/metrics")[1].decode().splitlines():
        if line.startswith((name + " ", name + "{")) and all(word in line for word in wanted):
            total += float(line.rsplit(" ", 1)[1])
    return total


def run(relay: Relay, *words: str) -> tuple[int, str, str]:
    """A command of relayd's against this process."""
    done = subprocess.run(
        [sys.executable, "-m", "relayd", *words, "--socket", relay.admin_path], cwd=relay.folder, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def reload(relay: Relay, change: dict[str, Any]) -> None:
    """Another configuration, in force when this returns."""
    relay.write(change)
    code, out, err = run(relay, "reload")
    assert code == 0, out + err


def asked(relay: Relay, path: bytes = b"/", times: int = 6, *lines: bytes) -> list[bytes]:
    """The bodies of so many answers over one connection."""
    with relay.client() as client:
        return [client.ask(request(path, *lines)).body for _ in range(times)]


def post(relay: Relay, path: bytes = b"/", body: bytes = b"{}", *lines: bytes) -> Message:
    with Client(relay.address) as client:
        return client.ask(request(path, *lines, method=b"POST", body=body))


def get(relay: Relay, path: bytes = b"/", *lines: bytes) -> Message:
    with Client(relay.address) as client:
        return client.ask(request(path, *lines))


def came(upstream: Upstream, method: bytes = b"POST") -> int:
    """How many requests of this method an upstream was sent."""
    return sum(head.method == method for head in upstream.heads)


def settled(relay: Relay) -> None:
    """Nothing is under way, and nothing is held at any endpoint or gate."""
    relay.wait_quiet()
    for one in json.loads(relay.admin("/upstreams")[1])["upstreams"]:
        name: str = one["name"]

        def released(name: str = name) -> bool:
            return bool(upstream_of(relay, name)["in_flight"] == 0)

        until(released, what="an endpoint's release")
    for gate in json.loads(relay.admin("/queue")[1])["gates"]:
        assert (gate["in_flight"], gate["depth"]) == (0, 0), gate
