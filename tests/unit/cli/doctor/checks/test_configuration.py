"""The check `configuration` is `relayd check`, asked as the user of the service."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import configuration
from tests.unit.cli.doctor.cases import context_of, findings, only, written


def test_an_accepted_file_with_a_warning(tmp_path: Path) -> None:
    found = findings(configuration, context_of(written(tmp_path, upstreams={
        "up": {"endpoints": ["https://127.0.0.1:1"], "tls": {"verify": False}}
    })))
    assert found[-1].level == FINE
    assert only(found, "NOT VERIFIED").level == WARNING


def test_every_fault_of_a_refused_file_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, upstreams={"up": {"endpoints": ["http://127.0.0.1:1"], "auth": {"bearer": {"file": "gone"}}}})
    found = findings(configuration, context_of(path, loaded=False))
    (one,) = [each for each in found if each.level == FAILURE]
    assert f"{tmp_path}/gone: cannot be read" in one.cause and one.subject.startswith(path) and one.cure


def test_another_user_than_the_service_s_learns_that_root_can_ask(tmp_path: Path) -> None:
    script = tmp_path / "check.py"
    told = {"accepted": False, "findings": [
        {"file": "/etc/relayd.yaml", "line": 0, "path": "", "message": "cannot be read: Permission denied", "suggestion": "", "level": "error"},
    ]}  # fmt: skip
    script.write_text(f"print({json.dumps(told)!r})")
    context = context_of(written(tmp_path), is_installed=True)
    before, sys.orig_argv[:] = list(sys.orig_argv), ["python3", str(script), "doctor"]
    try:
        (one,) = findings(configuration, context)
        assert one.level == UNKNOWN and "as root" in one.cure
        sys.orig_argv[:] = ["python3", "-c", "", "doctor"]
        assert findings(configuration, context)[0].level == UNKNOWN  # no JSON at all
    finally:
        sys.orig_argv[:] = before


def test_the_command_line_is_that_of_this_relayd() -> None:
    assert configuration.command(["python3", "-I", "/usr/bin/relayd", "doctor"], "/f")[1:] == [
        "-I", "/usr/bin/relayd", "check", "--json", "-c", "/f"
    ]
    assert configuration.command(["pytest"], "/f")[1:] == ["-m", "relayd", "check", "--json", "-c", "/f"]
