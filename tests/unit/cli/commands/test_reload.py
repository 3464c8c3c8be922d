"""`relayd reload`, with scripted responses."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.main import main
from tests.unit.cli.commands.conftest import ServeReply


def test_changes_are_printed_and_counted(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    reply = {"accepted": True, "generation": 3, "changes": ["+ routes.a", "- routes.b"], "findings": [], "warnings": ["w"]}
    assert main(["reload", *serve_reply(200, reply)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "+ routes.a\n- routes.b\ngeneration 3: 2 changes\n"
    assert captured.err == "w\n"


@pytest.mark.parametrize(("changes", "words"), [([], "no changes"), (["~ a"], "1 change")])
def test_the_number_of_changes_is_shown(
    changes: list[str], words: str, serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {"accepted": True, "generation": 2, "changes": changes, "findings": [], "warnings": []}
    assert main(["reload", *serve_reply(200, reply)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"generation 2: {words}"


def test_a_refusal_prints_one_fault_a_line_and_fails(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    reply = {"accepted": False, "generation": 2, "changes": [], "findings": ["one", "two"], "warnings": []}
    assert main(["reload", *serve_reply(422, reply)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["one", "two", "relayd: reload refused; generation 2 stays in force"]
    assert captured.out == ""


def test_an_answer_that_is_no_json_fails_without_a_traceback(
    serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reload", *serve_reply(502, b"<html>")]) == 1
    assert "not reloaded" in capsys.readouterr().err


def test_a_missing_daemon_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reload", "--socket", str(tmp_path / "none.sock"), "--timeout", "1s"]) == 1
    assert "none.sock" in capsys.readouterr().err
