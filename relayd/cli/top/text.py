"""Text in the cells of a terminal: how wide it is, and how it is cut."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"


def width(text: str) -> int:
    """The number of cells that a text without control characters occupies: two for wide characters of East Asia, none
    for combining ones (Unicode Standard Annex 11)."""
    return len(text) if text.isascii() else sum(map(character_width, text))


def character_width(character: str) -> int:
    """The number of cells of one character."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(text: str, cells: int) -> str:
    """The text, or as much of its beginning as fits into this number of cells, ended by an ellipsis."""
    if width(text) <= cells:
        return text
    if cells < 2:
        return ELLIPSIS[:cells]
    used, kept = 0, 0
    for character in text:
        used += character_width(character)
        if used > cells - 1:
            break
        kept += 1
    return text[:kept] + ELLIPSIS


def fill(text: str, cells: int, *, right: bool = False) -> str:
    """The text with exactly this number of cells, cut or padded; `right`: at the right side."""
    text = cut(text, cells)
    padding = " " * (cells - width(text))
    return padding + text if right else text + padding


def wrap(text: str, cells: int) -> list[str]:
    """The text in lines of at most this number of cells, without regard to words."""
    lines, line, used = [], "", 0
    for character in text:
        size = character_width(character)
        if used + size > cells:
            lines.append(line)
            line, used = "", 0
        line += character
        used += size
    return [*lines, line]
