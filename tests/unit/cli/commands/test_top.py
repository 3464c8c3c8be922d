"""`relayd top`: options, one printed screen, what is shown without a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.main import main
from relayd.server.dashboard_state import COLUMNS
from tests.unit.cli.top.states import tables
from tests.unit.cli.top.streaming import Streaming


def test_one_screen_is_printed_without_styles(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    with Streaming(tmp_path) as server:
        server.event("state", {"columns": COLUMNS, "tables": tables()}, 1)
        assert main(["top", "--once", "--socket", server.path, "--sort", "tokens", "--filter", "team", "--read-only"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("relayd 1.0  serving") and "\x1b" not in "".join(lines)
    assert [line.split()[3] for line in lines[4:]] == ["large", "small"] and max(map(len, lines)) <= 100


def test_wrong_options_and_a_relayd_that_is_not_there_have_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--sort", "size"]) == 2
    assert "the view streams has no column 'size'" in capsys.readouterr().err
    assert main(["top", "--once", "--socket", str(tmp_path / "none")]) == 1
    assert "relayd: nothing to show: " in capsys.readouterr().err


def test_without_a_terminal_the_status_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--socket", str(tmp_path / "none")]) == 1
    assert "nothing to show" in capsys.readouterr().err
