"""Amounts of money: whole numbers of nano-units, so that sums are exact.

A nano-unit is 10^-9 of the currency. An amount is written as a decimal number with at most nine decimal places.
"""

from __future__ import annotations

import re

from relayd.lazy_regex import lazy_regex

NANO = 1_000_000_000
AMOUNT_PATTERN = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"

_AMOUNT = lazy_regex(AMOUNT_PATTERN, re.ASCII)


def amount_of(text: str) -> int:
    """The nano-units of a decimal number such as 5, 2.50 or 0.000000001. Raises ValueError for any other text."""
    if _AMOUNT.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not an amount of money")
    whole, _, fraction = text.partition(".")
    return int(whole) * NANO + int(fraction.ljust(9, "0"))


def amount_text(nano: int) -> str:
    """The shortest decimal number that is this amount in nano-units: 2_500_000_000 is 2.5."""
    if nano < 0:
        return f"-{amount_text(-nano)}"
    whole, fraction = divmod(nano, NANO)
    return f"{whole}.{fraction:09d}".rstrip("0") if fraction else str(whole)
