"""`relayd doctor`: exit codes, text and JSON, terminal and pipe, and not one byte of a secret."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.cli.commands.doctor import exit_code, lines
from relayd.cli.diagnosis import failure, fine, unknown, warning
from relayd.cli.doctor.examination import Result, all_checks
from relayd.cli.main import main
from tests.unit.cli.doctor.cases import written

SECRET = "sk-a-very-secret-key"


def test_levels_in_order_and_exit_codes() -> None:
    results = [
        Result("a", [failure("A", "is broken", "mend it"), fine("B", "is fine")]),
        Result("b", [warning("C", "is slow", "wait"), unknown("D", "is hidden")]),
    ]
    assert list(lines(results, quiet=False)) == [
        "fine        B: is fine", "not checked D: is hidden", "warning     C: is slow", "            cure: wait",
        "failure     A: is broken", "            cure: mend it", "1 failure, 1 warning, 1 not checked, 1 fine",
    ]
    assert [line[:7] for line in lines(results, quiet=True)] == ["warning", "       ", "failure", "       ", "1 failu"]
    assert exit_code(results) == 1 and exit_code(results[1:]) == 0
    assert exit_code([Result("configuration", [failure("f", "bad", "x")]), *results]) == 78


def test_everything_about_a_small_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as held:
        path = written(
            tmp_path, listeners={"public": {"address": f"127.0.0.1:{held.getsockname()[1]}"}},
            upstreams={"up": {"endpoints": ["http://127.0.0.1:1"], "auth": {"bearer": {"file": str(key)}}}},
        )
        assert main(["doctor", "-c", path, "--json"]) == 1
        told = capsys.readouterr()
        data = json.loads(told.out)
        assert [one["check"] for one in data["checks"]] == list(all_checks()) and data["ok"] is False
        failed = {one["check"] for one in data["checks"] for finding in one["findings"] if finding["level"] == "failure"}
        assert failed == {"listeners", "upstreams"}
        assert all(
            finding["cure"] for one in data["checks"] for finding in one["findings"]
            if finding["level"] in ("failure", "warning")
        ), told.out
        assert main(["doctor", "-c", path, "listeners"]) == 1
        text = capsys.readouterr()
        assert f"(pid {os.getpid()})" in text.out and text.out.count("\n") == 3
        assert SECRET not in told.out + told.err + text.out and "\033" not in text.out + text.err


def test_a_faulty_file_is_78_and_what_needs_it_is_not_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "relayd.yaml"
    path.write_text("listeners: {public: {address: 1}}")
    assert main(["doctor", "-c", str(path), "configuration", "upstreams"]) == 78
    assert "upstreams: the configuration cannot be loaded" in capsys.readouterr().out


def test_wrong_usage_and_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nonsense"]) == 2
    assert "the checks are: certificates, clock" in capsys.readouterr().err
    assert main(["doctor", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(all_checks())


def test_a_terminal_gets_progress_and_colours_which_are_gone_in_the_end(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"} | {"PYTHONPATH": str(Path(__file__).parents[4])}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "relayd", "doctor", "-c", written(tmp_path), "clock", "upstreams"]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the terminal is closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.wait(60) == 1
    assert b"checking: clock, upstreams" in shown and b"\033[31mfailure" in shown
    assert shown.rindex(b"\r\033[K") < shown.index(b"fine")
