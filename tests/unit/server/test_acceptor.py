"""Accepting is bounded in each turn, pauses at a limit or without descriptors, and resumes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from relayd.server.acceptor import PER_TURN, Acceptor
from tests.aids.turns import turned
from tests.unit.proxy.harness import until


class Failing:
    """A listening socket whose `accept` raises these errors before it accepts."""

    def __init__(self, sock: socket.socket, *faults: int) -> None:
        self._sock, self._faults = sock, list(faults)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def accept(self) -> tuple[socket.socket, object]:
        if self._faults:
            raise OSError(self._faults.pop(0), "fault")
        return self._sock.accept()


class Scene:
    def __init__(self, tmp_path: Path, *faults: int) -> None:
        self.path = str(tmp_path / "s")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.bind(self.path)
        self.sock.listen(200)
        self.accepted: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.paused: list[str] = []
        self.limit = 1000
        self.listening = Failing(self.sock, *faults)
        self.acceptor = Acceptor(
            [self.listening],  # type: ignore[list-item]
            lambda sock, address: self.accepted.append(sock), self.paused.append,
            lambda: len(self.accepted) >= self.limit,
        )
        self.acceptor.start()

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.path)
            self.clients.append(client)

    def close(self) -> None:
        self.acceptor.pause()
        for sock in (*self.clients, *self.accepted, self.sock):
            sock.close()


@pytest.fixture
def scenes() -> Iterator[list[Scene]]:
    made: list[Scene] = []
    yield made
    for scene in made:
        scene.close()


async def test_one_turn_accepts_a_bounded_number(tmp_path: Path, scenes: list[Scene]) -> None:
    scene = Scene(tmp_path)
    scenes.append(scene)
    scene.connect(PER_TURN + 5)
    scene.acceptor.accept_waiting(scene.listening, IOLoop.READ)  # type: ignore[arg-type]
    assert len(scene.accepted) == PER_TURN
    await until(lambda: len(scene.accepted) == PER_TURN + 5)


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_descriptors_it_pauses_and_accepts_later(tmp_path: Path, scenes: list[Scene], fault: int) -> None:
    scene = Scene(tmp_path, fault)
    scenes.append(scene)
    scene.connect()
    await until(lambda: scene.paused)
    assert scene.paused == ["descriptors"] and not scene.acceptor.active
    scene.acceptor.resume_if_limited()  # the end of a connection need not free a descriptor
    assert not scene.acceptor.active
    await until(lambda: scene.accepted)
    assert scene.paused == ["descriptors"]


async def test_a_connection_that_has_failed_already_is_skipped(tmp_path: Path, scenes: list[Scene]) -> None:
    scene = Scene(tmp_path, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN)
    scenes.append(scene)
    scene.connect()
    await until(lambda: scene.accepted)
    assert not scene.paused


async def test_at_a_limit_it_resumes_as_soon_as_it_may(tmp_path: Path, scenes: list[Scene]) -> None:
    scene = Scene(tmp_path)
    scenes.append(scene)
    scene.limit = 1
    scene.connect(2)
    await until(lambda: scene.paused)
    assert scene.paused == ["limit"] and len(scene.accepted) == 1
    scene.limit = 2
    scene.acceptor.resume_if_limited()
    await turned()
    assert len(scene.accepted) == 2


async def test_after_a_pause_it_stays_paused(tmp_path: Path, scenes: list[Scene]) -> None:
    scene = Scene(tmp_path)
    scenes.append(scene)
    scene.limit = 0
    scene.connect()
    await until(lambda: scene.paused)
    scene.acceptor.pause()
    scene.limit = 1
    scene.acceptor.resume_if_limited()
    await turned()
    assert not scene.accepted and not scene.acceptor.active
    scene.acceptor.start()
    await until(lambda: scene.accepted)
