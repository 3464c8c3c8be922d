"""The client of the admin socket."""

from __future__ import annotations

import argparse
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.cli.admin_client import UnixConnection, Unreachable, add_socket_options, seconds, send_request, socket_paths

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class Answering:
    """A socket that sends one response, or none."""

    def __init__(self, path: str, reply: bytes | None) -> None:
        self.path, self.reply, self.heard, self.done = path, reply, b"", threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        client, _ = self.listener.accept()
        with client:
            self.heard = client.recv(65536)
            if self.reply is None:
                self.done.wait(60)
            else:
                client.sendall(self.reply)

    def close(self) -> None:
        self.done.set()
        self.thread.join(60)
        self.listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "admin.sock")


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_socket_options(parser)
    return parser.parse_args(words)


def test_an_answer_comes_whole(path: str) -> None:
    there = Answering(path, REPLY)
    answer = send_request(arguments("--socket", path), "POST", "/reload", 5)
    there.close()
    assert (answer.status, answer.body) == (200, b"{}")
    assert there.heard.startswith(b"POST /reload HTTP/1.1\r\n")


def test_the_socket_is_the_one_that_the_file_names(path: str, tmp_path: Path) -> None:
    file = tmp_path / "relayd.yaml"
    file.write_text(f"admin: {{address: unix:{path}}}\nrubbish: [")
    assert socket_paths(arguments("-c", str(file))) == [path]
    assert socket_paths(arguments("-c", str(file), "--socket", "unix:/other")) == ["/other"]


def test_a_missing_file_leads_to_the_default_paths(tmp_path: Path) -> None:
    assert "/run/relayd/admin.sock" in socket_paths(arguments("-c", str(tmp_path / "none.yaml")))


def test_a_missing_daemon_is_reported_with_the_path(path: str) -> None:
    with pytest.raises(Unreachable, match="is relayd running") as failed:
        send_request(arguments("--socket", path), "GET", "/status", 1)
    assert path in str(failed.value)


def test_silence_ends_with_the_timeout(path: str) -> None:
    there = Answering(path, None)
    with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
        send_request(arguments("--socket", path), "GET", "/status", 0.05)
    there.close()


def test_an_invalid_response_is_reported(path: str) -> None:
    there = Answering(path, b"220 mail.example.org\r\n")
    with pytest.raises(Unreachable):
        send_request(arguments("--socket", path), "GET", "/status", 5)
    there.close()


@pytest.mark.parametrize(("text", "wanted"), [("20s", 20), ("500ms", 0.5), ("1m", 60), ("3", 3), ("1.5s", 1.5)])
def test_times_have_units(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "s", "-1s", "1h2", "soon"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)


def test_a_user_without_permission_gets_the_name_of_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def connect(self: UnixConnection) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(UnixConnection, "connect", connect)
    with pytest.raises(Unreachable, match=r"adduser \S+ relayd-admin"):
        send_request(argparse.Namespace(socket=str(tmp_path / "x"), instance=None, config="x"), "GET", "/", 1)
