"""`relayd upgrade`, with scripted responses. Real upgrades are in tests/functional."""

from __future__ import annotations

import pytest

from relayd.cli.main import main
from tests.unit.cli.commands.conftest import ServeReply


def test_a_new_process_that_took_over_is_success(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", *serve_reply(200, {"accepted": True, "generation": 3})]) == 0
    assert "has taken over" in capsys.readouterr().out


def test_a_failed_upgrade_is_reported_with_its_reason(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    reply = {"accepted": False, "generation": 3, "findings": ["the new process ended with exit status 78"]}
    assert main(["upgrade", *serve_reply(422, reply)]) == 1
    output = capsys.readouterr().err
    assert "exit status 78" in output and "continues to serve" in output


def test_a_missing_daemon_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--socket", "/nowhere/admin.sock"]) == 1
    assert "/nowhere/admin.sock" in capsys.readouterr().err
