"""Descriptors passed between processes: ownership and order."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from relayd.daemon.descriptors import close_all, connect_manager, identity, inherited_descriptors


def test_sockets_of_another_process_are_not_taken() -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDNAMES": "web"}
    assert inherited_descriptors(environment) == {}
    assert environment == {}


def test_descriptors_are_put_in_order_from_three_on() -> None:
    program = (
        "import os, socket; from relayd.daemon.descriptors import renumbered;"
        "a, b = socket.socketpair(); high = os.dup2(a.fileno(), 40); low = os.dup2(b.fileno(), 4);"
        "there = [os.fstat(n).st_ino for n in (40, 4)]; got = renumbered([40, 4]);"
        "assert got == [3, 4], got; assert [os.fstat(n).st_ino for n in got] == there;"
        "assert all(os.get_inheritable(n) for n in got); os._exit(0)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_missing_service_manager_changes_nothing(tmp_path: Path) -> None:
    assert connect_manager("") is None
    assert connect_manager(str(tmp_path / "nobody")) is None


def test_two_numbers_of_one_socket_are_known_as_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        duplicate = os.dup(one.fileno())
        assert identity(duplicate) == identity(one.fileno()) != identity(other.fileno())
        close_all([duplicate, duplicate])  # a closed descriptor is skipped
