"""Discovery inside the sandbox of the service: Docker's socket by the drop-in alone, a command, a file, a deploy hook."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import Testbed, until

pytestmark = pytest.mark.packaging

SCRIPT = Path(__file__).with_name("docker.sh")
EXAMPLES = "/usr/share/doc/relayd/examples"
TEXT = """listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  docker: {discovery: {docker: {name: backend.ai, port: 8001}}}
  command: {discovery: {command: {argv: [/usr/local/bin/where-is, ai], interval: 500ms}}}
  file: {discovery: {file: {path: /etc/relayd/endpoints/ai.yaml, interval: 200ms}}}
routes: [{name: command, match: {prefix: /command}, upstream: command}, {name: file, match: {prefix: /file}, upstream: file},
         {name: rest, match: {prefix: /}, upstream: docker}]
"""


class Engine:
    """A Docker engine on the network of a booted system, with its socket there."""

    def __init__(self, testbed: Testbed) -> None:
        self.words = [str(SCRIPT), "-n", f"packaging-{os.getpid()}", "-t", testbed.words[-1]]

    def call(self, *words: str, captured: bool = True) -> subprocess.CompletedProcess[str]:
        output = subprocess.PIPE if captured else subprocess.DEVNULL  # dockerd keeps the descriptors that it was given
        return subprocess.run([*self.words, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True, timeout=120)

    def run(self, *words: str) -> str:
        done = self.call(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def engine(system: Testbed) -> Iterator[Engine]:
    made = Engine(system)
    able = made.call("check")
    if able.returncode == 77:
        pytest.skip("no Docker engine here: " + able.stdout.strip().replace("\n", ", "))
    assert made.call("up", captured=False).returncode == 0
    try:
        yield made
    finally:
        made.call("down")


def upstream(system: Testbed, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in system.status()["upstreams"] if one["name"] == name)
    return found


def addresses(system: Testbed, name: str) -> list[str]:
    return [one["endpoint"] for one in upstream(system, name)["endpoints"] if one["state"] != "leaving"]


def test_the_socket_needs_the_drop_in_and_is_followed_with_it(system: Testbed, engine: Engine) -> None:
    address = engine.run("run", "backend.ai", "8001")
    system.configure(TEXT)
    until(lambda: "may not use /run/docker.sock" in upstream(system, "docker")["discovery"]["fault"])
    system.sh(f"mkdir -p /etc/systemd/system/relayd.service.d; cp {EXAMPLES}/docker.conf /etc/systemd/system/relayd.service.d/")
    system.sh("systemctl daemon-reload; systemctl restart relayd")
    until(lambda: addresses(system, "docker") == [f"{address}:8001"])
    assert json.loads(system.curl("http://127.0.0.1:8282/"))["name"] == "backend.ai"
    address = engine.run("recreate", "backend.ai")
    until(lambda: addresses(system, "docker") == [f"{address}:8001"])
    assert json.loads(system.curl("http://127.0.0.1:8282/"))["name"] == "backend.ai"
    assert "endpoints_changed" in system.journal() and f"new={address}:8001" in system.journal()


def test_a_command_and_a_file_work_in_the_sandbox(system: Testbed, engine: Engine) -> None:
    address = engine.run("run", "other", "8002")
    system.write("/usr/local/bin/where-is", f"#!/bin/sh\nid -un >&2\nexec echo {address}:8002")
    system.sh("chmod 755 /usr/local/bin/where-is; mkdir -p /etc/relayd/endpoints")
    system.write("/etc/relayd/endpoints/ai.yaml", f"- http://{address}:8002")
    for name in ("command", "file"):
        until(lambda name=name: addresses(system, name) == [f"{address}:8002"])  # type: ignore[misc]
        assert "other" in system.curl(f"http://127.0.0.1:8282/{name}")
    system.write("/usr/local/bin/where-is", "#!/bin/sh\nid -un >&2\nexit 3")
    until(lambda: upstream(system, "command")["discovery"]["fault"].endswith("ended with status 3: relayd"))
    assert addresses(system, "command") == [f"{address}:8002"]


def test_a_member_of_relayd_admin_sets_endpoints_without_sudo(system: Testbed, engine: Engine) -> None:
    system.sh("id deploy >/dev/null 2>&1 || useradd deploy; usermod -aG relayd-admin deploy")
    system.sh("runuser -u deploy -- relayd endpoint set docker http://127.0.0.1:1")
    assert addresses(system, "docker") == ["127.0.0.1:1"]
    system.sh("runuser -u deploy -- relayd endpoint reset docker")
    assert addresses(system, "docker") != ["127.0.0.1:1"]
    system.sh("id stranger >/dev/null 2>&1 || useradd stranger")
    assert system.call("sh", "runuser -u stranger -- relayd endpoint set docker http://127.0.0.1:1").returncode != 0
