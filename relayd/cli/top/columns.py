"""Columns of a view: their text, their order, and the place that they get on a narrow terminal.

Texts of clients and endpoints pass through `plain`, so that no control character reaches the terminal.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial

from relayd.cli.output import plain, span
from relayd.cli.top.live_state import Row
from relayd.dataclass import dataclass

Text = Callable[[Row, float], str]
Value = Callable[[Row, float], float | None]
Style = Callable[[Row], str]
Show = Callable[[float], str]
Sortable = tuple[int, float, str]
ABSENT: Sortable = (0, 0.0, "")
WIDEST_NUMBER = 14


def unstyled(row: Row) -> str:
    """No style."""
    return ""


@dataclass(frozen=True, slots=True)
class Column:
    """`text` and `sort` get a row and the current time, in seconds since 1970. On a narrow terminal, columns of a lower
    `rank` get their place first. `style` is that of a cell of this row."""

    title: str
    rank: int
    text: Text
    sort: Callable[[Row, float], Sortable]
    is_number: bool = False
    widest: int = 32
    style: Style = unstyled


def cell(row: Row, name: str) -> str:
    """A cell as text; empty if it is absent."""
    value = row.get(name)
    return "" if value is None else plain(str(value))


def value_of(row: Row, name: str) -> float | None:
    """A cell as a number; None if it is absent or no number."""
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):
        return None


def since(row: Row, name: str, now_s: float) -> float | None:
    """The seconds since the time of a cell; None if it is absent."""
    value = value_of(row, name)
    return None if value is None else max(0.0, now_s - value)


def sort_text(text: str) -> Sortable:
    """Texts stand after numbers, and are compared without regard to case."""
    return (2, 0.0, text.casefold()) if text else ABSENT


def sort_number(value: float | None) -> Sortable:
    """Absent values stand before numbers."""
    return ABSENT if value is None else (1, value, "")


def words(title: str, rank: int, text: Callable[[Row], str], widest: int = 32, style: Style = unstyled) -> Column:
    """A column of texts."""
    return Column(
        title, rank, lambda row, now_s: text(row), lambda row, now_s: sort_text(text(row)), False, widest, style
    )


def named(title: str, rank: int, name: str, widest: int = 32) -> Column:
    """A column of texts that shows one cell."""
    return words(title, rank, partial(cell, name=name), widest)


def figure(title: str, rank: int, value: Value, show: Show, style: Style = unstyled) -> Column:
    """A column of numbers."""

    def text(row: Row, now_s: float) -> str:
        found = value(row, now_s)
        return "" if found is None else show(found)

    return Column(title, rank, text, lambda row, now_s: sort_number(value(row, now_s)), True, WIDEST_NUMBER, style)


def measured(title: str, rank: int, name: str, show: Show, style: Style = unstyled) -> Column:
    """A column of numbers that shows one cell."""
    return figure(title, rank, lambda row, now_s: value_of(row, name), show, style)


def counted(title: str, rank: int, name: str, show: Show) -> Column:
    """A column of numbers that shows one cell, and nothing for zero."""
    return figure(title, rank, lambda row, now_s: value_of(row, name) or None, show)


def elapsed(title: str, rank: int, name: str) -> Column:
    """A column of durations, since the time of a cell."""
    return figure(title, rank, lambda row, now_s: since(row, name, now_s), span)


def short(value: float) -> str:
    """A number in few characters: 12, 3.4k, 120M."""
    size, unit = value, ""
    for unit in ("", "k", "M", "G"):
        if abs(size) < 1000 or unit == "G":
            break
        size /= 1000
    return f"{size:.0f}{unit}" if size == int(size) or abs(size) >= 100 else f"{size:.1f}{unit}"


def milliseconds(value: float) -> str:
    """A time in milliseconds: 850ms, 12.5s."""
    return f"{value:.0f}ms" if value < 1000 else span(value / 1000)


def percent(value: float) -> str:
    """A share: 85%."""
    return f"{value:.0%}"


def at_time(value: float) -> str:
    """The local time of day."""
    return datetime.datetime.fromtimestamp(value).strftime("%H:%M:%S")
