"""What a command says, and where: results on standard output, complaints on standard error.

Colours are for people: only on a terminal, and never when NO_COLOR is set (no-color.org).
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def out(text: str) -> None:
    """A line of the result."""
    write(sys.stdout, text)


def err(text: str) -> None:
    """A line about the work itself, or a fault."""
    write(sys.stderr, text)


def write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour where somebody sees it; `stream` is where it will go, standard output if None."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{CODES[colour]}m{text}\033[0m"


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines with columns of even width; the last column is as long as it likes."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    padded = [[*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]] for row in rows]
    return ["  ".join(cells).rstrip() for cells in padded]
