"""The state of the unit, as `systemctl show` reports it, and the journal's last errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import service
from tests.unit.cli.doctor.cases import context_of, findings, written

ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "0", "UnitFileState": "enabled"}


@pytest.mark.parametrize(("change", "levels"), [
    ({}, [FINE]), ({"LoadState": "not-found"}, [UNKNOWN]),
    ({"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"}, [FAILURE]),
    ({"ActiveState": "inactive"}, [WARNING]), ({"NRestarts": "3", "UnitFileState": "disabled"}, [WARNING, WARNING]),
])
def test_the_state_of_the_unit(change: dict[str, str], levels: list[str]) -> None:
    assert [one.level for one in service.of_unit("relayd.service", ACTIVE | change)] == levels


def test_systemd_and_the_journal_are_asked_for_the_installed_service_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    assert [one.level for one in findings(service, context_of(path))] == [FINE]
    programs = tmp_path / "bin"
    programs.mkdir()
    lines = "\\n".join(f"{name}={value}" for name, value in ACTIVE.items())
    for name, text in (("systemctl", f'printf "{lines}\\n"'), ("journalctl", r'printf "first\033[1m\nsecond\n"')):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")
    monkeypatch.setattr(service, "BOOTED", str(tmp_path))
    found = findings(service, context_of(path, is_installed=True))
    assert [one.level for one in found] == [FINE, WARNING, WARNING]
    assert "first?[1m" in found[1].cause and "journalctl -u relayd.service" in found[1].cure
    (programs / "journalctl").write_text("not a program")
    (programs / "systemctl").unlink()
    monkeypatch.setenv("PATH", str(programs))
    assert [one.level for one in findings(service, context_of(path, is_installed=True))] == [UNKNOWN]
