"""The output of commands."""

from __future__ import annotations

import io
import json

import pytest

from relayd.cli.output import amount, err, file_fault, json_text, out, paint, plain, span, table


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


def test_colours_do_not_move_the_columns() -> None:
    assert table([("A", "B"), ("\033[31mred\033[0m", "x"), ("green", "y")]) == [
        "A      B", "\033[31mred\033[0m    x", "green  y"]


def test_untrusted_text_cannot_move_the_cursor() -> None:
    assert plain("a\x1b[2J\x9b\r\nb\x7f") == "a?[2J???b?"
    assert plain("\u202eevil\u200b\u2066\ud800\u2028") == "?evil??? "
    assert plain("日本 é\u00a0\u3000x") == "日本 é  x"


@pytest.mark.parametrize(("seconds", "text"), [(1.53, "1.5s"), (200, "3m20s"), (18120, "5h02m"), (12 * 86400 + 10800, "12d3h")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("count", "text"), [
    (0, "0"), (999, "999"), (1000, "1.0K"), (4300, "4.2K"), (17 << 20, "17M"), (3 << 30, "3.0G"), (5000 << 40, "5000T"),
])
def test_amounts_are_short(count: int, text: str) -> None:
    assert amount(count) == text


def test_a_fault_of_a_file_is_shown_with_its_cure() -> None:
    assert file_fault(OSError("odd")) == "odd"
    assert file_fault(OSError(28, "No space left on device", "/f")) == "/f: No space left on device"
    assert file_fault(OSError(13, "Permission denied", "/f")) == (
        "/f: Permission denied; do this as root or as the user of the service"
    )


def test_json_shows_texts_as_they_are_and_escapes_what_a_terminal_would_act_on() -> None:
    value = {"名": "é\x1b[31m \x9b31m \x7f \u202e \u200b \ud800 \U000e0001 \U0001f469"}
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert text.replace("\n", "").isprintable() and "名" in text and "é" in text and "\U0001f469" in text
        assert json.loads(text) == value
    assert json_text({"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'
