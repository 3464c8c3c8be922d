"""Globs: patterns in which `*` matches any text, including none, and all other characters match themselves.

Matching takes linear time for any number of stars. The literal pieces are searched from left to right, each at its
first position. This leaves the most text for the remaining pieces, so no backtracking is needed.

Names of models are compared without regard to case: many servers do so (Ollama, Azure), and a rule on `gpt-vip*` must
not miss `GPT-VIP`.
"""

from __future__ import annotations

from relayd.dataclass import dataclass


def without_case(text: str) -> str:
    """The text in lower case, in the same number of characters."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join([low if len(low := character.lower()) == 1 else character for character in text])


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern; `pieces` are the literal texts between its stars, in lower case if it ignores case."""

    text: str
    pieces: tuple[str, ...]
    ignores_case: bool = False

    @classmethod
    def of(cls, text: str) -> Glob:
        """A pattern that regards case."""
        first, *rest = text.split("*")
        return cls(text, (first, *[piece for piece in rest[:-1] if piece], *rest[-1:]))

    @classmethod
    def of_model(cls, text: str) -> Glob:
        """A pattern for names of models, which ignores case."""
        return cls(text, cls.of(without_case(text)).pieces, True)

    def __str__(self) -> str:
        return self.text

    def match(self, name: str) -> str | None:
        """The shortest text that the first star matches; "" without a star, None if the name does not match."""
        first, *rest = self.pieces
        written, name = name, without_case(name) if self.ignores_case else name
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
            star = written[len(first) : found] if star is None else star
            position = found + len(piece)
        return written[len(first) : end] if star is None else star
