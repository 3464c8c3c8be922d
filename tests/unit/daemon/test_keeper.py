"""The keeper's parts. Its life with real processes is in tests/functional/test_handover.py."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.daemon.descriptors import close_all
from relayd.daemon.keeper import Keeper, Worker


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(60)
        yield server


class Scene:
    """A keeper that starts nothing, and the other ends of the lines of two workers."""

    def __init__(self, manager: socket.socket) -> None:
        self.keeper = Keeper(["/nothing"], {"NOTIFY_SOCKET": manager.getsockname()})
        self.ends: list[socket.socket] = []
        self.keeper.current, self.current = self.worker(10)
        self.keeper.current.ready = True
        self.keeper.successor, self.successor = self.worker(20)

    def worker(self, pid: int) -> tuple[Worker, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.settimeout(60)
        self.ends += [ours, theirs]
        return Worker(pid, ours, 0.0), theirs

    def starting(self) -> Worker:
        """No successor, and a process that does not serve yet."""
        self.keeper.successor = None
        assert self.keeper.current is not None
        self.keeper.current.ready = False
        return self.keeper.current

    def hear(self, *messages: bytes) -> None:
        """Let the current process say these words."""
        for message in messages:
            self.current.send(message)
        assert self.keeper.current is not None
        self.keeper.receive(self.keeper.current)

    def orders(self) -> list[bytes]:
        """What the current process was ordered since the last look."""
        self.current.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.current.recv(99))
        return found

    def close(self) -> None:
        for end in [*self.ends, *self.keeper._wakeup]:
            end.close()
        if self.keeper.manager is not None:
            self.keeper.manager.close()
        for numbers in self.keeper.held.values():
            close_all(numbers)


@pytest.fixture
def scene(manager: socket.socket) -> Iterator[Scene]:
    made = Scene(manager)
    yield made
    made.close()


def test_what_the_current_process_says_reaches_the_service_manager(scene: Scene, manager: socket.socket) -> None:
    scene.current.send(b"WATCHDOG=1")
    assert scene.keeper.current is not None
    scene.keeper.receive(scene.keeper.current)
    assert manager.recv(999) == b"WATCHDOG=1"


def test_a_successor_is_not_heard_above_before_it_is_ready(scene: Scene, manager: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(scene.successor, [b"FDSTORE=1\nFDNAME=relayd-1"], [server.fileno()])
        scene.successor.send(b"STATUS=starting")
    new = scene.keeper.successor
    assert new is not None
    scene.keeper.receive(new)
    assert scene.keeper.held == {}
    scene.successor.send(b"READY=1\nSTATUS=there")
    scene.keeper.receive(new)
    assert scene.keeper.current is new and scene.keeper.successor is None
    assert scene.current.recv(99) == b"leave"
    assert list(scene.keeper.held) == ["relayd-1"]
    heard = [manager.recv(999) for _ in range(4)]
    assert heard[0].startswith(b"FDSTORE=1") and heard[2].startswith(b"READY=1")
    assert heard[3] == b"WATCHDOG=1"  # processes that follow each other quickly are no hanging one


def test_a_successor_that_fails_changes_nothing_and_the_current_one_is_told(scene: Scene) -> None:
    new, old = scene.keeper.successor, scene.keeper.current
    assert new is not None
    scene.keeper.successor_failed(new, 78 << 8)
    assert scene.keeper.current is old and scene.keeper.successor is None
    assert scene.current.recv(99) == b"refused exit status 78"


def test_a_socket_is_held_once_and_let_go_by_its_name(scene: Scene) -> None:
    current = scene.keeper.current
    assert current is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(2):
            socket.send_fds(scene.current, [b"FDSTORE=1\nFDNAME=a"], [server.fileno()])
        scene.keeper.receive(current)
        assert [len(numbers) for numbers in scene.keeper.held.values()] == [1]
    (number,) = scene.keeper.held["a"]
    scene.current.send(b"FDSTOREREMOVE=1\nFDNAME=a")
    scene.keeper.receive(current)
    assert scene.keeper.held == {}
    with pytest.raises(OSError):
        os.fstat(number)


def test_a_second_upgrade_waits_for_the_first(scene: Scene) -> None:
    before = scene.keeper.successor
    scene.keeper.on_signal(signal.SIGUSR2)
    assert scene.keeper.successor is before


@pytest.fixture
def started(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[int]]]:
    """What the keeper held whenever it started a process."""
    found: list[dict[str, list[int]]] = []

    def start(keeper: Keeper) -> Worker:
        found.append({name: list(numbers) for name, numbers in keeper.held.items()})
        return scene.worker(30)[0]

    monkeypatch.setattr(Keeper, "start", start)
    return found


def test_an_upgrade_waits_until_the_process_that_starts_has_handed_over_its_sockets(
    scene: Scene, started: list[dict[str, list[int]]]
) -> None:
    scene.starting()
    scene.keeper.on_signal(signal.SIGUSR2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(scene.current, [b"FDSTORE=1\nFDNAME=a"], [server.fileno()])
        scene.hear()
    assert started == []
    scene.hear(b"READY=1\nSTATUS=there")
    assert [list(held) for held in started] == [["a"]]
    assert scene.keeper.successor is not None


@pytest.mark.parametrize("message", [b"UPGRADE=1", b""], ids=["the process itself", "SIGUSR2"])
def test_an_upgrade_waits_for_a_reload_that_may_open_sockets(
    message: bytes, scene: Scene, started: list[dict[str, list[int]]]
) -> None:
    scene.keeper.successor = None
    scene.hear(b"RELOADING=1\nMONOTONIC_USEC=1")
    if message:
        scene.hear(message)
    else:
        scene.keeper.on_signal(signal.SIGUSR2)
    assert started == []
    scene.hear(b"READY=1")
    assert len(started) == 1


def test_a_reload_that_was_ordered_comes_before_an_upgrade_also_while_nobody_has_begun_it(
    scene: Scene, started: list[dict[str, list[int]]]
) -> None:
    scene.keeper.successor = None
    scene.keeper.on_signal(signal.SIGHUP)
    scene.keeper.on_signal(signal.SIGUSR2)
    assert scene.orders() == [b"reload"] and started == []
    scene.hear(b"RELOADING=1", b"READY=1")
    assert len(started) == 1


def test_a_reload_before_the_process_is_ready_is_ordered_once_when_it_is(scene: Scene) -> None:
    scene.starting()
    scene.keeper.on_signal(signal.SIGHUP)
    scene.keeper.on_signal(signal.SIGHUP)
    assert scene.orders() == []
    scene.hear(b"READY=1")
    assert scene.orders() == [b"reload"]


def test_a_reload_while_a_successor_starts_is_for_the_one_that_serves_then(scene: Scene) -> None:
    scene.keeper.on_signal(signal.SIGHUP)
    assert scene.orders() == []
    scene.successor.send(b"READY=1")
    assert scene.keeper.successor is not None
    scene.keeper.receive(scene.keeper.successor)
    assert scene.successor.recv(99) == b"reload"
    assert scene.orders() == [b"leave"]


def test_a_reload_while_a_successor_fails_is_for_the_old_one(scene: Scene) -> None:
    scene.keeper.on_signal(signal.SIGHUP)
    assert scene.keeper.successor is not None
    scene.keeper.successor_failed(scene.keeper.successor, 78 << 8)
    assert scene.orders() == [b"refused exit status 78", b"reload"]


def test_a_restart_before_the_process_is_ready_waits_for_its_sockets_and_a_second_stop_does_not(scene: Scene) -> None:
    scene.starting()
    scene.keeper.on_signal(signal.SIGUSR1)
    scene.keeper.on_signal(signal.SIGTERM)
    assert not scene.keeper.may_exit_for_restart()
    scene.hear(b"READY=1")
    assert scene.keeper.may_exit_for_restart()
    scene.starting()
    scene.keeper.on_signal(signal.SIGTERM)
    assert scene.keeper.may_exit_for_restart()


def test_a_stop_is_an_order_and_a_second_one_another(scene: Scene) -> None:
    scene.keeper.successor = None
    scene.keeper.on_signal(signal.SIGTERM)
    scene.keeper.on_signal(signal.SIGTERM)
    scene.keeper.on_signal(signal.SIGHUP)
    assert [scene.current.recv(99) for _ in range(3)] == [b"stop", b"end", b"reload"]


def test_before_a_restart_the_process_is_told_to_leave_and_the_keeper_ends(scene: Scene) -> None:
    scene.keeper.successor = None
    scene.keeper.on_signal(signal.SIGUSR1)
    scene.keeper.on_signal(signal.SIGTERM)
    assert scene.keeper.exit_for_restart() == 0
    assert scene.current.recv(99) == b"leave"


def test_of_signals_that_wait_together_the_announcement_comes_before_the_stop(scene: Scene) -> None:
    scene.keeper._wakeup[1].send(bytes([signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD]))
    assert scene.keeper.signals() == [signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM]
    assert scene.keeper.signals() == []


def test_how_long_a_drain_may_take_is_heard_and_goes_no_further(scene: Scene, manager: socket.socket) -> None:
    current = scene.keeper.current
    assert current is not None
    scene.current.send(b"RELAYD_DRAIN_S=7.5")
    scene.current.send(b"STOPPING=1")
    scene.keeper.receive(current)
    assert scene.keeper.drain_s == 7.5
    assert manager.recv(99) == b"STOPPING=1"


def test_whoever_stays_beyond_a_drain_is_ended(scene: Scene) -> None:
    stays = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN);"
                              "print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
    assert stays.stdout is not None
    stays.stdout.readline()
    worker, _ = scene.worker(stays.pid)
    scene.keeper.leaving[stays.pid] = worker
    scene.keeper.successor = None
    scene.keeper.on_signal(signal.SIGTERM)
    assert stays.poll() is None
    scene.keeper.wait_status, scene.keeper.kill_at = 0, 0.0
    scene.keeper.step()
    assert stays.wait(60) == -signal.SIGKILL
    stays.stdout.close()


def test_a_socket_that_is_kept_reaches_no_process_but_by_its_name(manager: socket.socket) -> None:
    scene = Scene(manager)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(scene.current, [b"FDSTORE=1\nFDNAME=relayd-a"], [server.fileno()])
        scene.hear()
    (number,) = scene.keeper.held["relayd-a"]
    assert not os.get_inheritable(number)
    os.close(number)
    scene.close()
