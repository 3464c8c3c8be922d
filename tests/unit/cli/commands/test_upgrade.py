"""`relayd upgrade`, before a socket that answers as a test says. The real thing is in tests/functional."""

from __future__ import annotations

import pytest

from relayd.cli.main import main
from tests.unit.cli.commands.conftest import Told


def test_a_new_process_that_took_over_is_success(telling: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", *telling(200, {"accepted": True, "generation": 3})]) == 0
    assert "has taken over" in capsys.readouterr().out


def test_one_that_did_not_is_told_with_its_reason(telling: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"accepted": False, "generation": 3, "findings": ["the new process ended with exit status 78"]}
    assert main(["upgrade", *telling(422, told)]) == 1
    said = capsys.readouterr().err
    assert "exit status 78" in said and "goes on serving" in said


def test_nobody_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--socket", "/nowhere/admin.sock"]) == 1
    assert "/nowhere/admin.sock" in capsys.readouterr().err
