"""Globs: patterns in which `*` matches any text, including none, and all other characters match themselves.

Matching takes linear time for any number of stars. The literal pieces are searched from left to right, each at its
first position. This leaves the most text for the remaining pieces, so no backtracking is needed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern; `pieces` are the literal texts between its stars."""

    text: str
    pieces: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Glob:
        first, *rest = text.split("*")
        return cls(text, (first, *[piece for piece in rest[:-1] if piece], *rest[-1:]))

    def __str__(self) -> str:
        return self.text

    def match(self, name: str) -> str | None:
        """The shortest text that the first star matches; "" without a star, None if the name does not match."""
        first, *rest = self.pieces
        if not rest:
            return "" if name == first else None
        last = rest.pop()
        end = len(name) - len(last)
        if end < len(first) or not name.startswith(first) or not name.endswith(last):
            return None
        position, star = len(first), None
        for piece in rest:
            found = name.find(piece, position, end)
            if found < 0:
                return None
            star = name[len(first) : found] if star is None else star
            position = found + len(piece)
        return name[len(first) : end] if star is None else star
