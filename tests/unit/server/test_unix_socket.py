"""Sockets of relayd's own applications."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from relayd.server.unix_socket import ListeningUnixSocket


def test_the_folder_is_made_and_the_mode_set(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "relayd" / "x.sock")
    sock = ListeningUnixSocket(path, "0620")
    assert os.stat(path).st_mode & 0o777 == 0o620
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    sock.close()
    assert not os.path.exists(path)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    ListeningUnixSocket(path, "0600").close()


def test_a_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    first = ListeningUnixSocket(path, "0600")
    with pytest.raises(OSError):
        ListeningUnixSocket(path, "0600")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    first.close()


def test_a_file_in_the_way_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    path.write_text("precious")
    with pytest.raises(OSError):
        ListeningUnixSocket(str(path), "0600")
    assert path.read_text() == "precious"


def test_an_unknown_owner_is_a_fault_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nobody-of-that-name"):
        ListeningUnixSocket(str(tmp_path / "x.sock"), "0600", "nobody-of-that-name")


def test_closing_leaves_the_socket_of_a_successor_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    first = ListeningUnixSocket(path, "0600")
    os.unlink(path)
    Path(path).touch()
    first.close()
    assert os.path.exists(path)
