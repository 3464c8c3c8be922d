"""One process takes over from another: no stream ends, no newcomer is refused, and a failure changes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client, connect
from tests.functional.harness.faults import until
from tests.functional.harness.message import Closed, Message, chunk, request
from tests.functional.harness.relay import ROOT, Relay, get
from tests.functional.harness.upstream import Peer, Upstream

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Held:
    """A script that begins a stream and goes on when it is let; other requests are answered at once."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, peer: Peer, message: Message) -> None:
        peer.whole(message)
        if b"stream" not in message.target:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        peer.send(SSE + chunk(b"data: one\n\n"))
        self.began.set()
        if self.go.wait(60):
            peer.send(chunk(b"data: two\n\n") + chunk(b""))


@pytest.fixture
def kept(upstream: Upstream, folder: Path) -> Iterator[Relay]:
    relay = Relay(folder, upstream.url, {"daemon": {"handover_timeout": "20s"}}, verb="keep")
    with relay:
        yield relay


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_an_upgrade_loses_no_stream_and_no_newcomer(kept: Relay, upstream: Upstream) -> None:
    upstream.script = held = Held()
    faults: list[str] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            try:
                with kept.client() as one:
                    for _ in range(3):
                        if one.ask(request(b"/quick")).status != 200:
                            faults.append("status")
            except (OSError, Closed, AssertionError) as fault:
                if "close" not in repr(fault).lower():
                    faults.append(repr(fault))

    with kept.client() as streaming, kept.client() as idle:
        streaming.send(request(b"/stream"))
        message = streaming.head_of_answer()
        assert held.began.wait(60)
        assert idle.ask(request(b"/quick")).status == 200
        (old,) = children(kept.pid)
        thread = threading.Thread(target=load)
        thread.start()
        upgraded = cli("upgrade", "-c", str(kept.file))
        assert upgraded.returncode == 0, upgraded.stderr
        kept.wait_replaced(old)
        new = kept.status()["pid"]
        assert sorted(children(kept.pid)) == sorted([old, new])
        late = idle.ask(request(b"/quick"))  # a connection of the old process is still answered, once
        assert late.status == 200
        assert late.get("connection") == b"close"
        done.set()
        thread.join(60)
        held.go.set()
        streaming.body(message, until_close=False)
        assert message.body == b"data: one\n\ndata: two\n\n"
        assert message.complete
    assert not faults, faults[:3]
    until(lambda: children(kept.pid) == [new])


def test_sigusr2_is_the_same_as_relayd_upgrade(kept: Relay) -> None:
    (old,) = children(kept.pid)
    os.kill(kept.pid, signal.SIGUSR2)
    until(lambda: len(children(kept.pid)) == 1 and children(kept.pid) != [old])
    assert kept.status()["phase"] == "serving"


def test_a_new_process_that_cannot_start_leaves_the_old_one_serving(kept: Relay) -> None:
    good = kept.file.read_text()
    (old,) = children(kept.pid)
    kept.file.write_text(good.replace('"routes"', '"rutes"'))
    refused = cli("upgrade", "-c", str(kept.file))
    assert refused.returncode == 1
    assert "exit status 78" in refused.stderr
    assert b"rutes" in kept.error_file.read_bytes()
    assert children(kept.pid) == [old]
    assert kept.status()["phase"] == "serving"
    kept.file.write_text(good)
    assert cli("upgrade", "-c", str(kept.file)).returncode == 0
    assert children(kept.pid) != [old]


def test_relayd_without_a_keeper_says_that_it_cannot(upstream: Upstream, folder: Path) -> None:
    with Relay(folder, upstream.url) as alone:
        told = cli("upgrade", "-c", str(alone.file))
        assert told.returncode == 1
        assert "without a keeper" in told.stderr


def test_a_stop_waits_for_streams_and_ends_everything(kept: Relay, upstream: Upstream) -> None:
    upstream.script = held = Held()
    with kept.client() as streaming:
        streaming.send(request(b"/stream"))
        message = streaming.head_of_answer()
        assert held.began.wait(60)
        (worker,) = children(kept.pid)
        os.kill(kept.pid, signal.SIGTERM)
        until(lambda: kept.admin("/ready")[0] == 503)
        until(lambda: get(kept.address) == 0)
        with pytest.raises(OSError):  # the keeper has let go of the socket too: nobody waits for an answer in vain
            connect(kept.address, timeout_s=1)
        held.go.set()
        streaming.body(message, until_close=False)
        assert message.complete
    assert kept.process is not None
    assert kept.process.wait(60) == 0
    assert gone(worker)
    assert not os.path.exists(kept.admin_path)
    kept.process = None


def test_a_worker_that_is_killed_ends_the_keeper_in_the_same_way(upstream: Upstream, folder: Path) -> None:
    relay = Relay(folder, upstream.url, verb="keep").start()
    (worker,) = children(relay.pid)
    os.kill(worker, signal.SIGKILL)
    assert relay.process is not None
    assert relay.process.wait(60) == -signal.SIGKILL


def test_faults_of_the_configuration_are_the_keepers_exit_status(folder: Path) -> None:
    file = folder / "relayd.yaml"
    file.write_text("listeners: 3\n")
    assert cli("keep", "-c", str(file)).returncode == 78


def test_a_keeper_that_is_killed_breaks_no_stream(upstream: Upstream, folder: Path) -> None:
    upstream.script = held = Held()
    relay = Relay(folder, upstream.url, verb="keep").start()
    with relay.client() as streaming:
        streaming.send(request(b"/stream"))
        message = streaming.head_of_answer()
        assert held.began.wait(60)
        (worker,) = children(relay.pid)
        assert relay.process is not None
        relay.process.kill()
        relay.process.wait()
        held.go.set()
        streaming.body(message, until_close=False)
        assert message.complete
    until(lambda: gone(worker))


class Manager:
    """As much of a service manager as a restart needs: a notify socket and a store of descriptors."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "manager")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(60)
        self.store: dict[str, list[int]] = {}
        self.said: list[bytes] = []

    def hear(self, word: bytes) -> None:
        """Take messages until one has this word; FDSTORE fills the store."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 64)
            self.said.append(message)
            words = dict(line.split(b"=", 1) for line in message.split(b"\n"))
            name = words.get(b"FDNAME", b"").decode()
            if words.get(b"FDSTORE") and name not in self.store:
                self.store[name] = descriptors
                descriptors = []
            for number in descriptors:
                os.close(number)
            if word in message:
                return

    def start(self, relay: Relay) -> subprocess.Popen[bytes]:
        numbers = [number for held in self.store.values() for number in held]
        names = [name for name, held in self.store.items() for _ in held]
        program = (
            "import os, sys; numbers = [int(n) for n in sys.argv[2].split()];"
            "high = [os.dup2(n, 100 + i) for i, n in enumerate(numbers)];"
            "[os.dup2(n, 3 + i) for i, n in enumerate(high)];"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES=sys.argv[3]);"
            "os.execv(sys.executable, [sys.executable, '-m', 'relayd', 'keep', '-c', sys.argv[1]])"
        )
        with open(relay.error_file, "ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", program, str(relay.file), " ".join(map(str, numbers)), ":".join(names)],
                pass_fds=numbers, stderr=errors, cwd=ROOT, env={**os.environ, "NOTIFY_SOCKET": self.path},
            )


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    made = Manager(folder)
    yield made
    made.socket.close()
    for numbers in made.store.values():
        for number in numbers:
            os.close(number)


def test_a_restart_keeps_newcomers_waiting_and_streams_going(
    upstream: Upstream, folder: Path, manager: Manager
) -> None:
    upstream.script = held = Held()
    relay = Relay(folder, upstream.url, {"daemon": {"handover_timeout": "20s"}}, verb="keep")
    relay.write()
    relay.process = manager.start(relay)
    manager.hear(b"READY=1")
    assert len(manager.store) == 2, "the listener's socket and the admin socket"
    with relay.client() as streaming:
        streaming.send(request(b"/stream"))
        message = streaming.head_of_answer()
        assert held.began.wait(60)
        (old,) = children(relay.pid)
        os.kill(relay.pid, signal.SIGUSR1)
        os.kill(relay.pid, signal.SIGTERM)
        assert relay.process.wait(60) == 0, "the keeper is gone at once"
        assert not gone(old)
        with Client(relay.address) as waiting:
            waiting.send(request(b"/quick"))  # nobody accepts: it waits in the socket
            relay.process = manager.start(relay)
            manager.hear(b"READY=1")
            answer = waiting.head_of_answer()
            assert answer.status == 200
        assert relay.status()["pid"] != old
        held.go.set()
        streaming.body(message, until_close=False)
        assert message.body == b"data: one\n\ndata: two\n\n"
        assert message.complete
    until(lambda: gone(old))
    assert relay.status()["phase"] == "serving"
    told: Any = json.dumps([one.decode() for one in manager.said])
    assert "FDSTOREREMOVE" not in told
    assert relay.stop() == 0
    manager.hear(b"FDSTOREREMOVE")
