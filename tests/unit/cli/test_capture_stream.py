"""The stream of a capture: what is sent, how it ends, and what is said of a relayd that refuses, leaves or is not there."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.admin_client import Unreachable
from relayd.cli.capture_stream import NotStarted, events, reason_of

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
STARTED: dict[str, Any] = {"event": "capture_started", "for_s": 300.0}
SETTINGS: dict[str, Any] = {"for_s": 300.0, "route": ["chat"]}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def line(event: dict[str, Any]) -> bytes:
    return chunk(json.dumps(event).encode() + b"\n")


class Peer:
    """An admin socket: one connection, which gets one request, and what the test sends."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "admin.sock")
        self.arguments = argparse.Namespace(socket=self.path, instance=None)
        self.got = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(60)
        self._listener.bind(self.path)
        self._listener.listen()

    def answers(self, data: bytes, *, stays: bool = False) -> None:
        """Answer the next request with this; then close, or with `stays` wait until the client closes."""
        def serve() -> None:
            client, _ = self._listener.accept()
            with client:
                client.settimeout(60)
                while b"}" not in self.got:
                    self.got += client.recv(65536)
                client.sendall(data)
                if stays:
                    assert client.recv(1) == b""

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def ended(self) -> None:
        """The connection was closed, by the side that had to."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.close()


def test_the_settings_are_sent_and_every_event_is_read(peer: Peer) -> None:
    told: list[dict[str, Any]] = [STARTED, {"event": "captured", "id": "ä"}, {"event": "capture_ended", "why": "its time is over"}]
    peer.answers(HEAD + b"".join(line(one) for one in told) + b"0\r\n\r\n")
    assert list(events(peer.arguments, SETTINGS)) == told
    peer.ended()
    head, _, body = peer.got.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /captures/start HTTP/1.1\r\n") and json.loads(body) == SETTINGS


def test_a_line_may_arrive_in_several_pieces(peer: Peer) -> None:
    whole = json.dumps(STARTED).encode() + b"\n"
    peer.answers(HEAD + chunk(whole[:5]) + chunk(whole[5:]) + b"0\r\n\r\n")
    assert list(events(peer.arguments, {})) == [STARTED]
    peer.ended()


def test_who_leaves_closes_the_connection_which_ends_the_capture(peer: Peer) -> None:
    peer.answers(HEAD + line(STARTED), stays=True)
    stream = events(peer.arguments, {})
    assert next(stream) == STARTED and isinstance(stream, Generator)
    stream.close()
    peer.ended()


@pytest.mark.parametrize("rest", [b"", b"20\r\n", b'20\r\n{"event": "capt', chunk(b'{"event": "capt'), chunk(b"no json\n")])
def test_a_relayd_that_is_killed_ends_the_stream_wherever_it_is(peer: Peer, rest: bytes) -> None:
    peer.answers(HEAD + line(STARTED) + rest)
    assert list(events(peer.arguments, {})) == [STARTED]
    peer.ended()


def test_a_refusal_has_the_reason_of_relayd(peer: Peer) -> None:
    body = b'{"error":{"message":"A capture is on already."}}'
    peer.answers(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    with pytest.raises(NotStarted, match=r"^A capture is on already\.$"):
        next(events(peer.arguments, {}))
    peer.ended()


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"error": "text"}', b"{}"])
def test_a_refusal_without_a_reason_may_be_that_of_an_older_relayd(body: bytes) -> None:
    assert reason_of(404, body) == "it answers 404; it may be an older one"


@pytest.mark.parametrize("answer", [b"", b"no http\r\n\r\n"])
def test_a_relayd_that_leaves_before_it_has_answered_is_unreachable(peer: Peer, answer: bytes) -> None:
    peer.answers(answer)
    with pytest.raises(Unreachable, match=peer.path):
        next(events(peer.arguments, {}))
    peer.ended()


def test_without_a_relayd_the_socket_and_the_fault_are_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as raised:
        next(events(argparse.Namespace(socket=f"{tmp_path}/none", instance=None), {}))
    assert str(raised.value).startswith(f"{tmp_path}/none: No such file or directory (is relayd running")
