"""Processes of the service, and the description of an exit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.daemon.processes import describe_exit, log, service_processes


def test_the_processes_of_a_service_are_those_of_its_control_group(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("1:name=systemd:/x\n0::/system.slice/relayd.service\n")
    group = tmp_path / "system.slice" / "relayd.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("12\n0\n34\n")
    assert service_processes(str(tmp_path / "cgroup"), str(tmp_path)) == [12, 34]
    (tmp_path / "cgroup").write_text("0::/user.slice/session-3.scope\n")
    assert service_processes(str(tmp_path / "cgroup"), str(tmp_path)) == []
    assert service_processes(str(tmp_path / "none"), str(tmp_path)) == []


def test_an_exit_is_described() -> None:
    assert describe_exit(78 << 8) == "exit status 78"
    assert describe_exit(signal.SIGKILL) == "signal SIGKILL"


def test_a_line_carries_its_level_only_for_the_journal(capsys: pytest.CaptureFixture[str]) -> None:
    log("error", "no", {"JOURNAL_STREAM": "1:2"})
    log("error", "no", {})
    assert capsys.readouterr().err == "<3>relayd keeper: no\nrelayd keeper: no\n"


def test_the_keeper_ends_as_its_process_did() -> None:
    program = "from relayd.daemon.processes import exit_by_signal; import time; exit_by_signal({}); time.sleep(5)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        done = subprocess.run([sys.executable, "-c", program.format(int(number))], check=False)
        assert done.returncode == -number
