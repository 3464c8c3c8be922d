"""The configuration that `make run` starts with, beside another relayd and without the machine's drop-ins."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from relayd.config.load import load
from tests.aids.ports import free_port
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
