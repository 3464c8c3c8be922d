"""Errors of binding, with a remedy and the owner of the port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from relayd.config.load import load_text
from relayd.daemon.start_error import StartError, reasons, start_error
from relayd.errors import ConfigError, Finding

TEXT = "listeners: {a: {address: '127.0.0.1:%d'}}\nroutes: [{name: r, respond: 200}]\n"


def refused(path: str, message: str) -> ConfigError:
    return ConfigError([Finding("", 0, 0, path, message, "a suggestion")])


def test_a_port_in_use_is_reported_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        loaded = load_text(TEXT % taken.getsockname()[1], "c")
        failed = start_error(refused("listeners.a.address", "cannot listen: Address already in use"), loaded)
    assert isinstance(failed, StartError)
    (line,) = reasons(failed)
    assert line.startswith("listeners.a.address: cannot listen: Address already in use (a suggestion)")
    assert f"(pid {os.getpid()})" in line


def test_the_admin_socket_counts_as_bound_and_other_faults_are_those_of_the_file() -> None:
    loaded = load_text(TEXT % 1, "c")
    assert isinstance(start_error(refused("admin.address", "cannot listen"), loaded), StartError)
    error = refused("listeners.a.tls", "no such file")
    assert start_error(error, loaded) is error
    assert "no such file" in reasons(error)[0]


def test_the_owner_of_an_admin_socket_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        message = f"cannot listen on unix:{path}: Address already in use"
        failed = start_error(refused("admin.address", message), load_text(TEXT % 1, "c"))
    assert f"(pid {os.getpid()})" in reasons(failed)[0]
