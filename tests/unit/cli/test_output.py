"""What commands write."""

from __future__ import annotations

import io

import pytest

from relayd.cli.output import err, out, paint, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_results_and_complaints_go_to_different_places(capsys: pytest.CaptureFixture[str]) -> None:
    out("result")
    err("complaint")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "complaint\n")


def test_colours_are_only_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", io.StringIO()) == "x"
    assert paint("x", "red", Terminal()) == "\033[31mx\033[0m"
    monkeypatch.setenv("NO_COLOR", "")
    assert paint("x", "red", Terminal()) == "x"


def test_columns_are_even_and_lines_have_no_tail() -> None:
    assert table([("A", "BB", "C"), ("aaaa", "b", "c")]) == ["A     BB  C", "aaaa  b   c"]
    assert table([("a", "b", ""), ("aa", "b", "")]) == ["a   b", "aa  b"]
    assert table([]) == []
