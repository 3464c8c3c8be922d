"""Notifications to systemd, and that a missing or slow receiver has no effect."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.daemon.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager_socket:
        manager_socket.bind(str(tmp_path / "notify"))
        manager_socket.settimeout(60)
        yield manager_socket


def notifier_to(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_ready_comes_with_a_status(manager: socket.socket) -> None:
    notifier = notifier_to(manager)
    notifier.ready("generation 1")
    assert manager.recv(999) == b"READY=1\nSTATUS=generation 1"
    notifier.close()


def test_reloading_carries_the_monotonic_stamp_that_notify_reload_demands(manager: socket.socket) -> None:
    notifier = notifier_to(manager)
    notifier.reloading()
    assignments = dict(line.split(b"=", 1) for line in manager.recv(999).split(b"\n"))
    assert assignments[b"RELOADING"] == b"1"
    assert int(assignments[b"MONOTONIC_USEC"]) > 0
    notifier.close()


def test_a_line_break_in_a_status_cannot_forge_an_assignment(manager: socket.socket) -> None:
    notifier = notifier_to(manager)
    notifier.status("calm\nSTOPPING=1")
    assert manager.recv(999) == b"STATUS=calm STOPPING=1"
    notifier.close()


def test_more_time_is_asked_for_in_microseconds(manager: socket.socket) -> None:
    notifier = notifier_to(manager)
    notifier.extend(5.0, "draining")
    assert manager.recv(999) == b"EXTEND_TIMEOUT_USEC=5000000\nSTATUS=draining"
    notifier.close()


def test_an_abstract_socket_is_reached() -> None:
    name = f"relayd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager_socket:
        manager_socket.bind("\0" + name)
        manager_socket.settimeout(60)
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
        notifier.stopping("draining")
        assert manager_socket.recv(999).startswith(b"STOPPING=1\n")
        notifier.close()


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}, {"NOTIFY_SOCKET": "vsock:1:2"}):
        notifier = Notifier(environment)
        assert not notifier.connected
        notifier.ready("x")
        notifier.watchdog()


def test_a_manager_that_does_not_read_does_not_hold_relayd_back(manager: socket.socket) -> None:
    notifier = notifier_to(manager)
    for _ in range(10_000):
        notifier.watchdog()
    notifier.close()


def test_a_manager_that_leaves_is_no_fault(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager_socket:
        manager_socket.bind(str(tmp_path / "gone"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready("x")
    notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "wanted"),
    [("3000000", "", 1.5), ("3000000", "our own", 1.5), ("3000000", "1", 0.0), ("", "", 0.0), ("soon", "", 0.0)],
)
def test_a_sign_of_life_is_due_at_half_the_watchdog_time(usec: str, pid: str, wanted: float) -> None:
    pid = str(os.getpid()) if pid == "our own" else pid
    assert Notifier({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}).watchdog_interval_s == wanted


def test_children_do_not_inherit_the_right_to_speak() -> None:
    environment = {"NOTIFY_SOCKET": "@nobody-is-there", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier(environment).close()
    assert environment == {"HOME": "/"}
