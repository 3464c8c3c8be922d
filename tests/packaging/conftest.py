"""Booted Debian systems with relayd installed by apt; systemd is a real one.

The suites are those of RELAYD_SUITES (blank separated; bookworm, trixie and forky unless told otherwise). RELAYD_DEB names
the package; without it the one in dist/ is taken. Where the host cannot boot a system the tests are skipped with the
reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
TESTBED = Path(__file__).with_name("testbed.sh")
STREAMS = Path(__file__).with_name("streams.py")
SUITES = os.environ.get("RELAYD_SUITES", "bookworm trixie forky").split()
# Baked into the base, so that a system is up and relayd installed in three seconds.
INCLUDE = "python3-acme python3-cryptography python3-pycurl python3-statsd python3-tornado python3-yaml openssl"
QUICK = "listeners: {public: {address: '127.0.0.1:8282'}}\n"
WEB = QUICK + """upstreams: {web: {endpoints: ["http://127.0.0.1:9001"]}}
routes: [{name: health, match: {path: /health}, upstream: admin}, {name: rest, match: {prefix: /}, upstream: web}]
"""


class Testbed:
    """One booted system."""

    __test__ = False

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.words = [str(TESTBED), "-s", suite, "-n", f"relayd-{suite}-{os.getpid()}"]
        self.environment = {**os.environ, "TESTBED_INCLUDE": INCLUDE, "TESTBED_QUIET": "1"}
        self.helpers: list[subprocess.Popen[str]] = []

    def call(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
            env=self.environment,
        )

    def run(self, *words: str, timeout_s: float = 300) -> str:
        done = self.call(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def sh(self, script: str, timeout_s: float = 300) -> str:
        return self.run("sh", script, timeout_s=timeout_s)

    def up(self) -> None:
        # Not captured: the boot's supervisor keeps the descriptors it was given.
        subprocess.run(
            [*self.words, "up"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=600,
            env=self.environment,
        )

    def down(self) -> None:
        for helper in self.helpers:
            helper.terminate()
            helper.communicate(timeout=60)
        self.helpers.clear()
        self.call("down")

    def beside(self, *words: str) -> subprocess.Popen[str]:
        """A program of the host on the system's network, while the test goes on."""
        started = subprocess.Popen(
            [*self.words, "netexec", sys.executable, str(STREAMS), *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, env=self.environment,
        )
        self.helpers.append(started)
        return started

    def outcome(self, started: subprocess.Popen[str], timeout_s: float = 90) -> dict[str, Any]:
        """What such a program said at its end."""
        said, _ = started.communicate(timeout=timeout_s)
        self.helpers.remove(started)
        told: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return told

    def upstream(self, port: int = 9001, *files: str) -> None:
        self.beside("upstream", str(port), *files)
        until(lambda: f":{port} " in self.sh("ss -ltnH"))

    def hold(self, count: int, seconds: float, address: str = "127.0.0.1:8282") -> subprocess.Popen[str]:
        """Streams that are open when this returns."""
        held = self.beside("hold", address, str(count), str(seconds))
        assert held.stdout is not None
        assert held.stdout.readline() == "open\n"
        return held

    def journal(self, count: int = 80) -> str:
        return self.call("journal", "-u", "relayd", "-n", str(count)).stdout

    def curl(self, *words: str) -> str:
        """curl of the host, on the system's own network."""
        return self.run("netexec", "curl", "-sS", "--max-time", "20", *words)

    def show(self, name: str, unit: str = "relayd") -> str:
        return self.run("exec", "systemctl", "show", "-p", name, "--value", unit).strip()

    def main_pid(self) -> str:
        return self.show("MainPID")

    def worker_pid(self) -> int:
        """The process that serves; the main process is its keeper."""
        return int(self.status()["pid"])

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run("exec", "relayd", "status", "--json"))
        return told

    def write(self, path: str, text: str) -> None:
        """New text for a file of the system; one that is there keeps its owner and mode."""
        self.sh(f"cat >{path} <<'END_OF_FILE'\n{text}\nEND_OF_FILE")

    def configure(self, text: str = WEB) -> None:
        self.write("/etc/relayd.yaml", text)
        self.run("exec", "systemctl", "reload", "relayd")

    def drop_in(self, name: str, text: str, unit: str = "relayd.service") -> None:
        self.sh(f"mkdir -p /etc/systemd/system/{unit}.d")
        self.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
        self.run("exec", "systemctl", "daemon-reload")


def until(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(0.1)


def on_a_quiet_machine(seconds: float) -> float:
    """A span of time, longer where the machine has more to do than it has processors for."""
    return seconds * max(1.0, 2.0 * os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="session")
def package() -> Path:
    named = os.environ.get("RELAYD_DEB")
    found = [Path(named)] if named else sorted((TOP / "dist").glob("relayd_*_all.deb"))
    assert found, "no package: make deb builds it"
    return found[-1]


Edit = Callable[[Path], None]


@pytest.fixture(scope="session")
def another(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The same package with another version and, if wanted, other contents."""

    def made(version: str, edit: Edit | None = None) -> Path:
        folder = tmp_path_factory.mktemp("package")
        tree = folder / "tree"
        subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
        control = tree / "DEBIAN" / "control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
        module = tree / "usr/lib/python3/dist-packages/relayd/__init__.py"
        module.write_text(re.sub(r'__version__ = "[^"]+"', f'__version__ = "{version}"', module.read_text()))
        if edit is not None:
            edit(tree)
        result = folder / f"relayd_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(result)], check=True, stdout=subprocess.DEVNULL
        )
        return result

    return made


@pytest.fixture(scope="module", params=SUITES)
def bare(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A booted system without relayd."""
    testbed = Testbed(request.param)
    able = testbed.call("check")
    if able.returncode == 77:
        pytest.skip("no booted test system here: " + able.stdout.strip().replace("\n", ", "))
    try:
        testbed.up()
        yield testbed
    finally:
        testbed.down()


@pytest.fixture(scope="module")
def system(bare: Testbed, package: Path) -> Testbed:
    """A booted system with relayd installed by apt, its dependencies from the archive."""
    bare.run("install", str(package), timeout_s=500)
    return bare
