"""The process that listens on a port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from relayd.daemon import port_owner as owner
from relayd.daemon.port_owner import listening_inodes, port_owner, socket_owner

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:205A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100
   1: 0100007F:205A 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100
"""


def test_only_what_listens_on_the_port_counts() -> None:
    assert listening_inodes(TABLE, 8282) == {"4711"}
    assert listening_inodes(TABLE, 80) == {"4713"}
    assert listening_inodes(TABLE, 443) == set()


def test_the_process_that_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        name = Path("/proc/self/comm").read_text().strip()
        assert port_owner(taken.getsockname()[1]) == f"{name} (pid {os.getpid()})"


def test_systemd_which_keeps_the_socket_too_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        link = os.readlink(f"/proc/self/fd/{taken.fileno()}")
        monkeypatch.setattr(owner, "descriptor_targets", lambda pid: {link} if pid in ("1", str(os.getpid())) else set())
        assert port_owner(taken.getsockname()[1]).endswith(f" (pid {os.getpid()})")
        monkeypatch.setattr(owner, "descriptor_targets", lambda pid: {link} if pid == "1" else set())
        assert port_owner(taken.getsockname()[1]).endswith(" (pid 1)"), "a socket of a service that does not run yet"


def test_a_free_port_has_no_owner() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but it does not listen
        assert port_owner(bound.getsockname()[1]) == ""


def test_the_process_at_a_unix_socket_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    assert socket_owner(path) == ""
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        assert socket_owner(path) == "", "nobody listens there"
        taken.listen()
        assert socket_owner(path).endswith(f" (pid {os.getpid()})")
