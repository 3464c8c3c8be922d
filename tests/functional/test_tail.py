"""`relayd tail` on a running relayd: filtered records as they are written, and a reader that reads nothing delays nobody."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream


def failing(peer: Peer, message: Message) -> None:
    peer.whole(message)
    status = b"503 Service Unavailable" if b"fail" in message.start else b"200 OK"
    peer.send(answer(b"x", status=status))


@pytest.fixture
def serving(folder: Path) -> Iterator[Relay]:
    with Upstream() as upstream:
        upstream.script = failing
        with Relay(folder / "r", upstream.url) as relay:
            yield relay


def following(relay: Relay, *arguments: str) -> subprocess.Popen[str]:
    """A `relayd tail` that is connected: relayd formats records for it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "relayd", "tail", "-c", str(relay.file), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ask(relay: Relay, path: bytes) -> int:
    with relay.client() as client:
        return int(client.ask(request(path, b"Connection: close")).status)


def test_records_are_followed_and_filtered(serving: Relay) -> None:
    with following(serving, "--status", "5xx", "--json", "--count", "2") as failed, following(serving, "--count", "1") as text:
        # Both are connected once a record has reached the one without a filter.
        shown = ""
        while text.poll() is None:
            ask(serving, b"/fine")
        shown, _ = text.communicate()
        while failed.poll() is None:
            assert ask(serving, b"/fail") == 503
            assert ask(serving, b"/fine") == 200
        told, errors = failed.communicate()
    assert "200  GET relayd.test/fine" in shown and "-> all up" in shown and "\033" not in shown
    records = [json.loads(line) for line in told.splitlines()]
    assert [(one["status"], one["path"], one["upstream"]) for one in records] == [(503, "/fail", "up")] * 2
    assert errors == "" and failed.returncode == 0
    assert serving.record(id=records[0]["id"]) == records[0], "the stream has the same members as the access log"


def test_a_reader_that_reads_nothing_delays_nobody_and_learns_what_it_missed(serving: Relay) -> None:
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(serving.admin_path)
        stuck.sendall(b"GET /records HTTP/1.1\r\nHost: x\r\n\r\n")
        begin = b""
        while b"records_follow" not in begin:
            begin += stuck.recv(4096)
        path = b"/" + b"x" * 4000
        with serving.client() as client:
            for _ in range(400):
                assert client.ask(request(path)).status == 200
        text = b""
        stuck.settimeout(60)
        while b"records_dropped" not in text:
            text += stuck.recv(65536)
        assert ask(serving, b"/fine") == 200


@contextlib.contextmanager
def asking(relay: Relay, path: bytes) -> Iterator[None]:
    """Requests, one after the other, until the context ends."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            ask(relay, path)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(60)


def test_a_tail_outlives_the_relayd_that_it_follows(serving: Relay) -> None:
    with following(serving, "--json") as followed:
        assert followed.stdout is not None and followed.stderr is not None
        lines, paths = followed.stdout, set[str]()

        def read() -> None:  # all the time: a tail whose output nobody reads waits
            paths.update(json.loads(line)["path"] for line in lines)

        reader = threading.Thread(target=read)
        reader.start()
        with asking(serving, b"/first"):
            until(lambda: "/first" in paths, what="the first record")
        assert serving.stop() == 0
        assert "waiting for it" in followed.stderr.readline()
        serving.start()
        with asking(serving, b"/second"):
            until(lambda: "/second" in paths, what="a record of the new process")
        followed.send_signal(signal.SIGINT)
        try:
            followed.wait(60)
        finally:
            followed.kill()
        reader.join(60)
    assert followed.returncode == 0
