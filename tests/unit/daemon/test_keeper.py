"""The parts of the keeper. Tests with real processes: tests/functional/test_handover.py."""

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
    """A keeper that starts no process, and the other ends of the control sockets of two workers."""

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
        """Send these messages from the current process."""
        for message in messages:
            self.current.send(message)
        assert self.keeper.current is not None
        self.keeper.receive(self.keeper.current)

    def orders(self) -> list[bytes]:
        """The commands sent to the current process since the last call."""
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


def test_messages_of_the_current_process_reach_the_service_manager(scene: Scene, manager: socket.socket) -> None:
    scene.current.send(b"WATCHDOG=1")
    assert scene.keeper.current is not None
    scene.keeper.receive(scene.keeper.current)
    assert manager.recv(999) == b"WATCHDOG=1"


def test_messages_of_a_successor_are_deferred_until_it_is_ready(scene: Scene, manager: socket.socket) -> None:
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
    received = [manager.recv(999) for _ in range(4)]
    assert received[0].startswith(b"FDSTORE=1") and received[2].startswith(b"READY=1")
    assert received[3] == b"WATCHDOG=1"  # a quick series of upgrades is no hang


def test_a_failed_successor_is_reported_to_the_current_process(scene: Scene) -> None:
    new, old = scene.keeper.successor, scene.keeper.current
    assert new is not None
    scene.keeper.successor_failed(new, 78 << 8)
    assert scene.keeper.current is old and scene.keeper.successor is None
    assert scene.current.recv(99) == b"refused exit status 78"


def test_a_socket_is_stored_once_and_removed_by_its_name(scene: Scene) -> None:
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
    """The sockets that the keeper held at each start of a process."""
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


def test_a_requested_reload_precedes_an_upgrade_even_before_it_has_started(
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


@contextlib.contextmanager
def draining_successor(scene: Scene) -> Iterator[subprocess.Popen[bytes]]:
    """A successor that is a process; it ends with status 7 at a second SIGTERM, with 0 when its input ends after one."""
    program = (
        "import os, signal, sys\nseen = []\n"
        "signal.signal(15, lambda *_: os._exit(7) if seen else (seen.append(1), print('draining', flush=True)))\n"
        "print('there', flush=True)\nsys.stdin.read()\nos._exit(0 if seen else 8)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        scene.keeper.successor, scene.successor = scene.worker(process.pid)
        yield process
        assert process.stdin is not None
        assert process.stdout.readline() == b"draining\n"
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("restart", [False, True])
def test_at_a_stop_a_successor_drains_even_if_it_becomes_ready_meanwhile(scene: Scene, restart: bool) -> None:
    """It may serve clients already. Killed, and then made the current process by its READY=1, it ended the service."""
    old = scene.keeper.current
    with draining_successor(scene) as process:
        scene.successor.send(b"READY=1")
        if restart:
            scene.keeper.on_signal(signal.SIGUSR1)
        scene.keeper.on_signal(signal.SIGTERM)
        assert scene.keeper.successor is None and scene.keeper.current is old
        assert scene.orders() == ([] if restart else [b"stop"]) + [b"refused the service stops"]
        assert scene.keeper.other_pids() == [process.pid], "it is waited for"


def test_a_successor_that_is_ready_just_as_it_is_killed_does_not_take_over(scene: Scene) -> None:
    old, new = scene.keeper.current, scene.keeper.successor
    assert new is not None
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as slow:
        new.pid = slow.pid
        scene.keeper.step()  # it has not been ready in time
        assert slow.wait(60) == -signal.SIGKILL
    scene.successor.send(b"READY=1")
    scene.keeper.receive(new)
    assert scene.keeper.current is old


def test_at_a_restart_the_process_leaves_and_the_keeper_exits(scene: Scene) -> None:
    scene.keeper.successor = None
    scene.keeper.on_signal(signal.SIGUSR1)
    scene.keeper.on_signal(signal.SIGTERM)
    assert scene.keeper.exit_for_restart() == 0
    assert scene.current.recv(99) == b"leave"


def test_of_pending_signals_the_restart_announcement_precedes_the_stop(scene: Scene) -> None:
    scene.keeper._wakeup[1].send(bytes([signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD]))
    assert scene.keeper.signals() == [signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM]
    assert scene.keeper.signals() == []


def test_the_reported_drain_timeout_is_not_forwarded(scene: Scene, manager: socket.socket) -> None:
    current = scene.keeper.current
    assert current is not None
    scene.current.send(b"RELAYD_DRAIN_S=7.5")
    scene.current.send(b"STOPPING=1")
    scene.keeper.receive(current)
    assert scene.keeper.drain_s == 7.5
    assert manager.recv(99) == b"STOPPING=1"


def test_processes_that_exceed_the_drain_timeout_are_killed(scene: Scene) -> None:
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


def test_a_stored_socket_is_not_inherited_implicitly(manager: socket.socket) -> None:
    scene = Scene(manager)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(scene.current, [b"FDSTORE=1\nFDNAME=relayd-a"], [server.fileno()])
        scene.hear()
    (number,) = scene.keeper.held["relayd-a"]
    assert not os.get_inheritable(number)
    os.close(number)
    scene.close()
