"""Globs: names in which `*` stands for any text, also for none, and nothing else is special.

Matching takes linear time with any number of stars: the literal pieces between them are found from the left, each at
its first place. That place leaves the most text for the pieces behind it, so nothing is ever tried twice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern; `pieces` is the literal text between its stars."""

    text: str
    pieces: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Glob:
        first, *rest = text.split("*")
        return cls(text, (first, *[piece for piece in rest[:-1] if piece], *rest[-1:]))

    def __str__(self) -> str:
        return self.text

    def match(self, name: str) -> str | None:
        """What the first star stands for, as little as possible; "" without a star, None where the name differs."""
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
