"""Columns: texts, orders, absent cells."""

from __future__ import annotations

from relayd.cli.top.columns import (
    cell,
    counted,
    elapsed,
    figure,
    measured,
    milliseconds,
    named,
    percent,
    short,
    since,
    value_of,
    words,
)
from tests.unit.cli.top.states import HOSTILE


def test_a_text_of_a_client_has_no_character_that_a_terminal_obeys() -> None:
    assert cell({"model": HOSTILE}, "model") == "?[2J??evil??"
    assert cell({"model": "日本 é\u00a0x"}, "model") == "日本 é x"
    assert cell({"model": None}, "model") == "" == cell({}, "model")
    assert HOSTILE not in words("T", 0, lambda row: cell(row, "x")).text({"x": HOSTILE}, 0.0)


def test_cells_that_are_no_numbers_are_absent() -> None:
    assert value_of({"n": "1.50"}, "n") == 1.5 and value_of({"n": "x"}, "n") is None and value_of({}, "n") is None
    assert since({"at": 5}, "at", 3.0) == 0.0 and since({}, "at", 3.0) is None
    column = measured("N", 0, "n", short)
    assert column.text({}, 0.0) == "" and column.text({"n": 0}, 0.0) == "0" and counted("N", 0, "n", short).text({"n": 0}, 0.0) == ""


def test_absent_values_then_numbers_then_texts_without_regard_to_case() -> None:
    number, text = measured("N", 0, "n", short), named("T", 0, "t")
    assert sorted(({"n": 10}, {}, {"n": 9}), key=lambda row: number.sort(row, 0.0)) == [{}, {"n": 9}, {"n": 10}]
    assert sorted(({"t": "b"}, {"t": "A"}, {"t": ""}), key=lambda row: text.sort(row, 0.0)) == [{"t": ""}, {"t": "A"}, {"t": "b"}]


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0, 12, 0.25, 999, 1000, 1234, 123456, 5e9)] == ["0", "12", "0.2", "999", "1k", "1.2k", "123k", "5G"]
    assert (milliseconds(850), milliseconds(12500), percent(0.854)) == ("850ms", "12.5s", "85%")
    assert elapsed("AGE", 0, "at").text({"at": 10}, 85.0) == "1m15s"
    assert figure("N", 0, lambda row, now_s: None, short).text({}, 0.0) == ""
