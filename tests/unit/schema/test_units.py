"""Durations, sizes and amounts of money are read exactly, written back the same, and never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.schema.units import (
    LARGEST,
    LONGEST,
    UnitError,
    format_duration,
    format_size,
    parse_duration,
    parse_money,
    parse_size,
)


@pytest.mark.parametrize(("text", "seconds"), [
    ("250ms", 0.25), ("5s", 5), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("1h30m", 5400), ("1d", 86400), ("0", 0),
    ("0s", 0), ("1s500ms", 1.5),
])
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5sec", "-5s", "+5s", "5S", "1:30", "1e3s", "٥s", ".5s", "5s\n"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_duration(text)


def test_a_bare_number_is_not_guessed_to_be_seconds() -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration("30")
    assert caught.value.suggestion == "write 30s or 30ms"


def test_a_duration_of_more_than_ten_years_is_refused() -> None:
    assert parse_duration("3650d") == LONGEST
    with pytest.raises(UnitError):
        parse_duration("3651d")


@pytest.mark.parametrize(("text", "count"), [
    ("512", 512), ("0", 0), ("1B", 1), ("64KiB", 65536), ("32MiB", 33554432), ("1GiB", 1 << 30), ("1TiB", 1 << 40),
])
def test_a_size_is_a_number_of_bytes_or_has_a_binary_unit(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(("text", "suggestion"), [
    ("64KB", "write 64KiB"), ("64k", "write 64KiB"), ("5 MiB", "write 5MiB"), ("2g", "write 2GiB"),
])
def test_a_loose_size_is_refused_with_what_was_meant(text: str, suggestion: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(text)
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize("text", ["", "1.5MiB", "-1", "KiB", "99999TiB", "0x10", "1_000"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_size(text)


@given(st.integers(0, int(LONGEST * 1_000_000)))
def test_every_duration_reads_back_as_it_was_written(micros: int) -> None:
    value = round(micros / 1_000_000, 6)
    assert parse_duration(format_duration(value)) == pytest.approx(value, abs=1e-6, rel=0)
    once = format_duration(parse_duration(format_duration(value)))
    assert format_duration(parse_duration(once)) == once


@given(st.integers(0, LARGEST))
def test_every_size_reads_back_as_it_was_written(value: int) -> None:
    assert parse_size(format_size(value)) == value


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_unit_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except UnitError:
            pass


@pytest.mark.parametrize(("text", "nano"), [
    ("5", 5_000_000_000), ("2.50", 2_500_000_000), ("0.000000001", 1), ("0", 0), ("999999999", 999_999_999 * 10**9),
])
def test_an_amount_of_money_is_exact_to_nine_decimal_places(text: str, nano: int) -> None:
    assert parse_money(text) == nano


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e-7", "1,5", ".5", "5.", "$5", "0.0000000001", "1000000000", "nan", "٥"])
def test_what_is_not_an_amount_of_money_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_money(text)
    assert "2.50" in caught.value.suggestion
