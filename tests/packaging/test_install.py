"""The package in a booted Debian: installed, streaming, reloaded, refused, removed; systemd is a real one.

The suites are those of RELAYD_SUITES (blank separated; bookworm unless told otherwise). RELAYD_DEB names the package;
without it the one in dist/ is taken. Where the host cannot boot a system the tests are skipped with the reason.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

TOP = Path(__file__).resolve().parents[2]
TESTBED = Path(__file__).with_name("testbed.sh")
SUITES = os.environ.get("RELAYD_SUITES", "bookworm").split()
ASK = '{"model":"demo","stream":true,"messages":[{"role":"user","content":"hello"}]}'


class Testbed:
    """One booted system."""

    __test__ = False

    def __init__(self, suite: str) -> None:
        self.words = [str(TESTBED), "-s", suite, "-n", f"relayd-{suite}"]

    def call(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )

    def run(self, *words: str, timeout_s: float = 300) -> str:
        done = self.call(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def journal(self) -> str:
        return self.call("journal", "-u", "relayd", "-n", "80").stdout

    def curl(self, *words: str) -> str:
        """curl of the host, on the system's own network."""
        return self.run("netexec", "curl", "-sS", "--max-time", "20", *words)

    def main_pid(self) -> str:
        return self.run("exec", "systemctl", "show", "-p", "MainPID", "--value", "relayd").strip()


@pytest.fixture(scope="module")
def package() -> Path:
    named = os.environ.get("RELAYD_DEB")
    found = [Path(named)] if named else sorted((TOP / "dist").glob("relayd_*_all.deb"))
    assert found, "no package: make deb builds it"
    return found[-1]


@pytest.fixture(scope="module", params=SUITES)
def system(request: pytest.FixtureRequest, package: Path) -> Iterator[Testbed]:
    """A booted system with relayd installed by apt, its dependencies from the archive."""
    testbed = Testbed(request.param)
    able = testbed.call("check")
    if able.returncode == 77:
        pytest.skip("no booted test system here: " + able.stdout.strip().replace("\n", ", "))
    testbed.call("down")  # what an interrupted run may have left
    try:
        # Not captured: the boot's supervisor keeps the descriptors it was given.
        subprocess.run([*testbed.words, "up"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=500)
        testbed.run("install", str(package), timeout_s=500)
        yield testbed
    finally:
        testbed.call("down")


def tokens(testbed: Testbed) -> list[str]:
    answer = testbed.curl("-N", "http://127.0.0.1:8282/v1/chat/completions", "-d", ASK)
    return re.findall(r"^data: (.+)$", answer, re.MULTILINE)


def test_after_installation_the_service_is_active_and_enabled_and_streams_tokens(system: Testbed) -> None:
    assert system.run("exec", "systemctl", "is-active", "relayd").strip() == "active"
    assert system.run("exec", "systemctl", "is-enabled", "relayd").strip() == "enabled"
    events = tokens(system)
    assert len(events) > 3 and events[-1] == "[DONE]"
    assert all('"chat.completion.chunk"' in event for event in events[:-1])


def test_the_configuration_belongs_to_root_and_only_relayd_reads_it(system: Testbed) -> None:
    assert system.run("exec", "stat", "-c", "%U:%G %a", "/etc/relayd.yaml").strip() == "root:relayd 640"
    assert system.run("sh", f"ps -o user= -p {system.main_pid()}").strip() == "relayd"


def test_an_edit_is_in_force_after_reload_and_the_process_stays(system: Testbed) -> None:
    pid = system.main_pid()
    system.run("sh", "sed -i 's/^routes:.*/&\\n  - {name: edited, match: {path: \\/edited}, respond: {status: 200, body: edited}}/' /etc/relayd.yaml")
    system.run("exec", "systemctl", "reload", "relayd")
    assert system.curl("http://127.0.0.1:8282/edited") == "edited"
    assert system.main_pid() == pid
    assert tokens(system)[-1] == "[DONE]"


def test_a_broken_edit_fails_visibly_and_the_old_configuration_serves(system: Testbed) -> None:
    pid = system.main_pid()
    system.run("sh", "cp -p /etc/relayd.yaml /var/tmp/kept; echo 'listenrs: {}' >>/etc/relayd.yaml")
    refused = system.call("exec", "systemctl", "reload", "relayd")
    assert refused.returncode != 0
    assert "listenrs" in system.journal()
    assert system.run("exec", "systemctl", "is-active", "relayd").strip() == "active"
    assert system.main_pid() == pid
    assert system.curl("http://127.0.0.1:8282/edited") == "edited"
    system.run("sh", "cat /var/tmp/kept >/etc/relayd.yaml; systemctl reload relayd")


def test_a_configuration_error_at_start_fails_once_with_the_reason_in_the_journal(system: Testbed) -> None:
    system.run("sh", "echo 'listenrs: {}' >>/etc/relayd.yaml")
    assert system.call("exec", "systemctl", "restart", "relayd").returncode != 0
    shown = system.run("exec", "systemctl", "show", "-p", "ActiveState,ExecMainStatus,NRestarts", "relayd").split()
    assert sorted(shown) == ["ActiveState=failed", "ExecMainStatus=78", "NRestarts=0"]
    assert "listenrs" in system.journal()
    system.run("sh", "cat /var/tmp/kept >/etc/relayd.yaml; systemctl restart relayd")
    assert tokens(system)[-1] == "[DONE]"


def test_a_killed_daemon_comes_back(system: Testbed) -> None:
    pid = system.main_pid()
    system.run("sh", f"kill -9 {pid}; until systemctl is-active -q relayd && "
               f"[ $(systemctl show -p MainPID --value relayd) != {pid} ]; do sleep 0.1; done", timeout_s=30)
    assert tokens(system)[-1] == "[DONE]"


def test_the_manuals_the_unit_names_are_there(system: Testbed) -> None:
    pages = system.run("sh", "dpkg -L relayd | grep /usr/share/man/")
    for page in ("man8/relayd.8.gz", "man5/relayd.yaml.5.gz", "man7/relayd-metrics.7.gz"):
        assert page in pages
    score = system.run("sh", "systemd-analyze security --no-pager relayd | tail -n 1")
    found = re.search(r"(\d+\.\d+) OK", score)
    assert found and float(found[1]) <= 1.5, score


def test_remove_keeps_the_configuration_and_purge_leaves_nothing(system: Testbed) -> None:
    system.run("apt", "remove", "-y", "relayd")
    assert system.call("exec", "systemctl", "is-active", "relayd").returncode != 0
    system.run("exec", "test", "-e", "/etc/relayd.yaml")
    system.run("apt", "purge", "-y", "relayd")
    left = system.run("sh", "find /etc /usr /var/lib/relayd* /run -xdev \\( -name 'relayd*' -o -name 'relayd' \\) 2>/dev/null || true")
    assert left.split() == []
    assert "relayd" not in system.run("exec", "dpkg-statoverride", "--list", "*")
