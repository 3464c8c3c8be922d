"""Texts in cells: wide and combining characters, cuts, padding, lines."""

from __future__ import annotations

import pytest

from relayd.cli.top.text import cut, fill, width, wrap

WIDE = "日本語"
ACCENT = "e\u0301"


def test_wide_characters_take_two_cells_and_combining_ones_none() -> None:
    assert (width("abc"), width(WIDE), width(ACCENT), width("")) == (3, 6, 1, 0)


@pytest.mark.parametrize("text", ["abcdefgh", WIDE * 3, ACCENT * 9, "a" + WIDE])
@pytest.mark.parametrize("cells", range(12))
def test_no_text_is_wider_than_its_cells(text: str, cells: int) -> None:
    assert width(cut(text, cells)) <= cells
    assert width(fill(text, cells)) == cells == width(fill(text, cells, right=True))
    assert cut(text, 100) == text


def test_a_cut_shows_an_ellipsis_and_padding_stands_on_the_asked_side() -> None:
    assert cut("abcdef", 4) == "abc…" and cut("abcdef", 1) == "…" and cut("abcdef", 0) == ""
    assert fill("ab", 4) == "ab  " and fill("ab", 4, right=True) == "  ab"


def test_lines_have_the_whole_text() -> None:
    assert wrap("abcdefg", 3) == ["abc", "def", "g"]
    assert wrap(WIDE, 3) == ["日", "本", "語"] and wrap("", 3) == [""]
