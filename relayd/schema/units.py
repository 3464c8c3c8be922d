"""Durations, sizes and amounts of money: text to value and back.

A bare number is not a duration, because it could mean 30 seconds as well as 30 milliseconds.
"""

from __future__ import annotations

import re

from relayd.lazy_regex import lazy_regex
from relayd.money import amount_of
from relayd.schema.types import Duration, Money, Size

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
DURATION_PATTERN = r"(?:[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d))+"
SIZE_PATTERN = r"[0-9]{1,15}(?:B|KiB|MiB|GiB|TiB)?"
LONGEST = 3650 * SECONDS["d"]
LARGEST = 1 << 49

_DURATION = lazy_regex(DURATION_PATTERN, re.ASCII)
_LARGE = lazy_regex(r"[0-9]{10,}(?:\.[0-9]{1,9})?", re.ASCII)
_PART = lazy_regex(r"([0-9.]+)(ms|s|m|h|d)", re.ASCII)
_SIZE = lazy_regex(r"([0-9]{1,15})(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_NUMBER = lazy_regex(r"[0-9]{1,15}", re.ASCII)
# Common spellings of binary units that are refused, with a suggestion.
_LOOSE = lazy_regex(r"([0-9]{1,15})\s*([kmgt])i?b?", re.ASCII | re.IGNORECASE)


class UnitError(ValueError):
    """The text is not in this unit. `suggestion` suggests a valid spelling."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.suggestion = suggestion


def parse_duration(text: str) -> Duration:
    """`5s`, `250ms`, `1h30m`; a bare 0 is 0. Raises UnitError."""
    if text == "0":
        return Duration(0)
    if len(text) > 64 or _DURATION.fullmatch(text) is None:
        suggestion = f"write {text}s or {text}ms" if _NUMBER.fullmatch(text) else "write it as 250ms, 5s, 2m, 1h or 1d"
        raise UnitError("is not a duration", suggestion)
    total = round(sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(text)), 6)
    if total > LONGEST:
        raise UnitError("is longer than ten years")
    return Duration(total)


def format_duration(value: float) -> str:
    """The shortest text that is parsed to the same value."""
    if value == 0:
        return "0"
    for unit in ("d", "h", "m", "s"):
        count = value / SECONDS[unit]
        if count == int(count):
            return f"{int(count)}{unit}"
    thousandths = value * 1000
    if abs(thousandths - round(thousandths)) < 1e-6:
        return f"{round(thousandths)}ms"
    return f"{value:.6f}".rstrip("0") + "s"


def parse_size(text: str) -> Size:
    """`512`, `64KiB`, `32MiB`. Raises UnitError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        approximate = _LOOSE.fullmatch(text)
        suggestion = "write it as 512, 64KiB, 32MiB or 1GiB"
        if approximate is not None:
            suggestion = f"write {approximate[1]}{approximate[2].upper()}iB"
        raise UnitError("is not a size", suggestion)
    value = int(found[1]) * BYTES[found[2] or ""]
    if value > LARGEST:
        raise UnitError("is larger than 512 TiB")
    return Size(value)


def format_size(value: int) -> str:
    """The shortest text that is parsed to the same value."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % BYTES[unit] == 0:
            return f"{value // BYTES[unit]}{unit}"
    return str(value)


def parse_money(text: str) -> Money:
    """`5`, `2.50`, `0.0000015`. Raises UnitError."""
    try:
        return Money(amount_of(text))
    except ValueError:
        if _LARGE.fullmatch(text) is not None:
            suggestion = "write at most nine digits before the decimal point, for example 2.50"
            raise UnitError("is too large an amount of money", suggestion) from None
        suggestion = "write it as a decimal number with at most nine decimal places, for example 2.50"
        raise UnitError("is not an amount of money", suggestion) from None
