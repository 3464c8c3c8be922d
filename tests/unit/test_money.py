"""Amounts of money."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.money import NANO, amount_of, amount_text


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_an_amount_is_written_as_the_decimal_number_that_it_is(nano: int) -> None:
    assert Decimal(amount_text(nano)) == Decimal(nano) / NANO
    assert amount_of(amount_text(nano)) == nano


def test_an_amount_is_written_without_zeros_that_say_nothing() -> None:
    shown = [amount_text(nano) for nano in (0, 1, 10**9, 2_500_000_000, -1_500_000_000)]
    assert shown == ["0", "0.000000001", "1", "2.5", "-1.5"]


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.0000000001", "1 ", "1\n"])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount of money"):
        amount_of(text)
