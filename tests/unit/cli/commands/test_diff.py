"""`relayd diff`, with scripted responses."""

from __future__ import annotations

import pytest

from relayd.cli.main import main
from tests.unit.cli.commands.conftest import ServeReply


@pytest.mark.parametrize(("changes", "code"), [([], 0), (["+ routes.a", "~ upstreams.x"], 1)])
def test_changes_are_listed_and_are_the_exit_code(
    changes: list[str], code: int, serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {"accepted": True, "generation": 4, "changes": changes, "findings": [], "warnings": ["careful"]}
    assert main(["diff", *serve_reply(200, reply)]) == code
    captured = capsys.readouterr()
    assert captured.out.splitlines() == changes
    assert "careful" in captured.err


def test_a_file_that_would_be_refused_is_shown_with_its_faults(
    serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {"accepted": False, "generation": 4, "changes": [], "findings": ["x.yaml:1:1: error: no"], "warnings": []}
    assert main(["diff", *serve_reply(422, reply)]) == 3
    output = capsys.readouterr().err
    assert "x.yaml:1:1" in output and "generation 4 would stay" in output


def test_a_missing_daemon_is_reported() -> None:
    assert main(["diff", "--socket", "/nowhere/admin.sock"]) == 3
