"""`relayd reopen` prints nothing if the log files were reopened, otherwise the reason."""

from __future__ import annotations

import pytest

from relayd.cli.main import main
from tests.unit.cli.commands.conftest import ServeReply


def test_done_is_silent(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reopen", *serve_reply(200, {"accepted": True, "generation": 1})]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_file_that_cannot_be_opened_is_reported(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reopen", *serve_reply(422, {"accepted": False, "findings": ["/x: Permission denied"]})]) == 1
    assert "not reopened: /x: Permission denied" in capsys.readouterr().err


def test_a_missing_daemon_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reopen", "--socket", "/no/such/socket"]) == 1
    assert "not reopened" in capsys.readouterr().err
