"""Who belongs to the service, and how an end is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.daemon.processes import say, service_processes, told


def test_the_processes_of_a_service_are_those_of_its_control_group(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("1:name=systemd:/x\n0::/system.slice/relayd.service\n")
    group = tmp_path / "system.slice" / "relayd.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("12\n0\n34\n")
    assert service_processes(str(tmp_path / "cgroup"), str(tmp_path)) == [12, 34]
    (tmp_path / "cgroup").write_text("0::/user.slice/session-3.scope\n")
    assert service_processes(str(tmp_path / "cgroup"), str(tmp_path)) == []
    assert service_processes(str(tmp_path / "none"), str(tmp_path)) == []


def test_an_end_is_told_in_words() -> None:
    assert told(78 << 8) == "exit status 78"
    assert told(signal.SIGKILL) == "signal SIGKILL"


def test_a_line_carries_its_level_only_for_the_journal(capsys: pytest.CaptureFixture[str]) -> None:
    say("error", "no", {"JOURNAL_STREAM": "1:2"})
    say("error", "no", {})
    assert capsys.readouterr().err == "<3>relayd keeper: no\nrelayd keeper: no\n"


def test_the_keeper_ends_as_its_process_did() -> None:
    program = "from relayd.daemon.processes import end_by; import time; end_by({}); time.sleep(5)"
    for number in (signal.SIGKILL, signal.SIGTERM):
        done = subprocess.run([sys.executable, "-c", program.format(int(number))], check=False)
        assert done.returncode == -number
