"""The configuration that `make run` starts with, beside another relayd and without the machine's drop-ins."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from relayd.config.load import load
from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import request
from tests.functional.harness.relay import ROOT, Relay

DEVELOPMENT, PACKAGED = ROOT / "conf" / "relayd.yaml", ROOT / "debian" / "relayd.yaml"


def test_it_runs_beside_another_relayd_of_this_user_and_its_commands_find_it(folder: Path) -> None:
    runtime = folder / "run"
    runtime.mkdir()
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT)}
    with Relay(folder / "other", "http://127.0.0.1:1") as other:
        port = free_port()
        file = folder / "relayd.yaml"
        file.write_text(DEVELOPMENT.read_text().replace("8282", str(port)))
        own = Relay(folder / "own", "http://127.0.0.1:1", environment=environment)
        own.file, own.port, own.address = file, port, ("127.0.0.1", port)
        own.admin_path = str(runtime / "relayd" / "admin.sock")
        own.write = lambda change=None: None  # type: ignore[method-assign]
        own.start()
        try:
            told = subprocess.run(
                [sys.executable, "-m", "relayd", "status", "--json", "-c", str(file)], env=environment, capture_output=True,
                text=True,
            )
            assert told.returncode == 0, told.stderr
            assert f'"pid": {own.pid}' in told.stdout and str(other.pid) not in told.stdout
        finally:
            assert own.stop() == 0


def test_two_relayds_without_an_admin_section_each_answer_their_own_commands(folder: Path) -> None:
    """With `private`, because the default socket is the machine's; the rule is the same."""
    runtime = folder / "run"
    runtime.mkdir()
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT)}
    change, first_path = {"admin": {"address": "private"}}, str(runtime / "relayd" / "admin.sock")
    first, second = (
        Relay(folder / name, "http://127.0.0.1:1", change, environment=environment) for name in ("a", "b")
    )
    first.admin_path = second.admin_path = first_path
    with first:
        second.start()
        try:
            path = str(runtime / "relayd" / f"admin-{second.pid}.sock")
            while "admin_moved" not in second.output().decode():  # logged after the listener accepts
                assert second.process is not None and second.process.poll() is None
                time.sleep(0.02)
            assert f"admin=unix:{path}" in second.output().decode()
            for relay in (first, second):
                for verb in ("status", "reload", "status"):
                    told = subprocess.run(
                        [sys.executable, "-m", "relayd", verb, *(["--json"] if verb == "status" else []), "-c", str(relay.file)],
                        env=environment, capture_output=True, text=True,
                    )
                    assert told.returncode == 0, told.stderr
                    assert verb != "status" or json.loads(told.stdout)["pid"] == relay.pid
        finally:
            assert second.stop() == 0
        assert not os.path.exists(path) and os.path.exists(first_path)


def test_run_watch_reloads_what_is_edited_and_serves_on_what_is_broken(folder: Path) -> None:
    port, taken = free_port(), free_port()
    file, part = folder / "relayd.yaml", folder / "part.yaml"
    listeners = f"listeners: {{public: {{address: '127.0.0.1:{port}'}}}}\nadmin: {{address: 'unix:{folder}/admin.sock'}}\n"
    file.write_text(f"include: ['*t.yaml']\n{listeners}")
    part.write_text("routes: [{name: all, respond: 201}]\n")
    master, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "relayd", "run", "--watch", "-c", str(file)]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            shown += os.read(master, 65536)
        shown = shown.partition(text)[2]

    def status() -> int:
        with Client(("127.0.0.1", port)) as client:
            return client.ask(request(b"/", b"Connection: close")).status

    try:
        until(b"watching")
        assert status() == 201
        part.write_text("routes: [{name: all, respond: 202}]\n")
        until(b"reloaded")
        assert status() == 202
        part.write_text("routes: [{name: all, respond: broken}]\n")
        until(b"part.yaml:1:")
        assert status() == 202
        with socket.create_server(("127.0.0.1", taken)):
            part.write_text("routes: [{name: all, respond: 203}]\n")
            until(b"reloaded")
            file.write_text(f"include: ['*t.yaml']\n{listeners}".replace("{public:", f"{{other: {{address: '127.0.0.1:{taken}'}}, public:"))
            until(f"(pid {os.getpid()})".encode())
            assert status() == 203
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(60)
        os.close(master)


def test_its_admin_socket_is_not_the_service_s_and_no_drop_in_of_the_machine_is_read() -> None:
    config = load(str(DEVELOPMENT)).config
    assert config.include == ()
    assert config.admin.address == "private"


def test_the_package_s_file_differs_in_nothing_else() -> None:
    text = DEVELOPMENT.read_text()
    packaged = PACKAGED.read_text()
    sections = [re.split(r"(?m)^(?=listeners:)", one)[1] for one in (text, packaged)]
    assert sections[0] == sections[1]
    assert "include: /etc/relayd.d/*.yaml" in packaged and "admin:" not in packaged
    assert "debian/relayd.yaml etc/" in (ROOT / "debian" / "relayd.install").read_text()


def test_the_first_request_of_the_readme_says_what_its_body_is() -> None:
    readme = (ROOT / "README.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL):
        if "curl" in block and " -d " in block:
            words = [word.lower() for word in shlex.split(block)]
            assert "content-type: application/json" in words
