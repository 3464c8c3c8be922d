"""Showing a page once or repeatedly."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.watch import add_options, cut, redraw, show, watch
from tests.unit.cli.admin_case import Admin


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Enough(Exception):
    """Raised to end the loop of `watch`."""


def lines(data: dict[str, Any]) -> Iterator[str]:
    yield f"number {data['number']}"


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(list(words))


def pauses(count: int, waited: list[float] | None = None) -> Any:
    """A `pause` that raises after this many calls."""
    left = [count]

    def pause(seconds: float) -> None:
        if waited is not None:
            waited.append(seconds)
        left[0] -= 1
        if left[0] < 0:
            raise Enough

    return pause


def test_a_page_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"number": 7})) as admin:
        assert show(options(*admin.options), "/page", lines) == 0
        assert show(options(*admin.options, "--json"), "/page", lines) == 0
    assert admin.asked == ["GET /page"] * 2
    shown = capsys.readouterr().out
    assert shown.startswith("number 7\n")
    assert json.loads(shown.partition("\n")[2]) == {"number": 7}


@pytest.mark.parametrize("answer", [(404, {"error": {}}), (200, b"<html>"), (200, [1])])
def test_an_unknown_page_is_reported(answer: tuple[int, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, answer) as admin:
        assert show(options(*admin.options), "/page", lines) == 1
    assert "nothing to show" in capsys.readouterr().err


def test_a_missing_daemon_is_an_error_even_with_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(options("--socket", str(tmp_path / "none"), "--watch"), "/page", lines) == 1
    assert "none" in capsys.readouterr().err


def test_without_a_terminal_pages_are_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waited: list[float] = []
    with Admin(tmp_path, (200, {"number": 2}), (200, {"number": 3})) as admin:
        given = options(*admin.options, "--watch", "500ms")
        with pytest.raises(Enough):
            watch(given, "/page", lines, {"number": 1}, pauses(2, waited))
    assert capsys.readouterr().out == "number 1\n\nnumber 2\n\nnumber 3\n\n"
    assert waited == [0.5, 0.5, 0.5]


def test_json_is_a_line_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"number": 2})) as admin:
        with pytest.raises(Enough):
            watch(options(*admin.options, "--watch", "--json"), "/page", lines, {"number": 1}, pauses(1))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"number": 1}, {"number": 2}]


def test_a_restart_of_relayd_does_not_end_the_watching(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (503, {}), (503, {}), (200, {"number": 4})) as admin:
        with pytest.raises(Enough):
            watch(options(*admin.options, "--watch"), "/page", lines, {"number": 1}, pauses(3))
    captured = capsys.readouterr()
    assert captured.out == "number 1\n\nnumber 4\n\n"
    assert captured.err.count("no answer") == 2


def test_a_terminal_is_drawn_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with Admin(tmp_path, (200, {"number": 2}), (503, {})) as admin:
        with pytest.raises(Enough):
            watch(options(*admin.options, "--watch"), "/page", lines, {"number": 1}, pauses(2))
    pictures = terminal.getvalue().split("\033[H")[1:]
    assert [picture.partition("\033[K")[0] for picture in pictures] == ["number 1", "number 2", "number 2"]
    assert all(picture.endswith("\033[J") for picture in pictures)
    assert "no answer" in pictures[2]


def test_an_interrupt_ends_the_watching_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(data: dict[str, Any]) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    with Admin(tmp_path, (200, {"number": 1})) as admin:
        assert show(options(*admin.options, "--watch"), "/page", interrupted) == 0


def test_a_picture_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "4")
    redraw(["x" * 30] * 30)
    assert terminal.getvalue() == "\033[H" + ("x" * 10 + "\033[K\n") * 3 + "\033[J"


def test_colours_do_not_make_a_line_long_and_are_not_cut_through() -> None:
    assert cut("\033[31mred\033[0m", 3) == "\033[31mred\033[0m"
    assert cut("\033[31mredder\033[0m", 3) == "red"
