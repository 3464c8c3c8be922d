"""What one answer may make relayd keep: an allowance that runs out, and text in pieces without the pieces' overhead.

Laws:
1. Whoever keeps something of an answer takes it from an allowance first; what is passed on at once costs nothing.
2. Text that comes letter by letter takes as much memory as text that comes at once, but for the last few pieces.
"""

from __future__ import annotations

MOST_KEPT_CHARS = 64 * 1024 * 1024  # of one answer, until its end
MOST_ITEMS = 4096  # of one answer: blocks, output items, parts
MOST_CALLS = 1024
LONGEST_WORD = 512  # of an id, a model, a function's name: they stand in many events
PIECE_CHARS = 64  # what a piece costs beside its text where it waits as an object of its own
_MANY = 1024


class TooMuch(ValueError):
    """An answer is larger than anybody means it to be. The text may be shown to the client."""

    def __init__(self, message: str = "The upstream's answer is too large.") -> None:
        super().__init__(message)


class Allowance:
    """How much may still be kept; owned by the reader or the renderer of one answer."""

    __slots__ = ("_left", "_message")

    def __init__(self, chars: int = MOST_KEPT_CHARS, message: str = "The upstream's answer is too large.") -> None:
        self._left, self._message = chars, message

    def take(self, chars: int) -> None:
        """Use some of it. Raises TooMuch."""
        self._left -= chars
        if self._left < 0:
            raise TooMuch(self._message)


class Pieces:
    """One text that comes in pieces; owned by whoever collects it, who asks an Allowance before."""

    __slots__ = ("_last", "_whole")

    def __init__(self) -> None:
        self._whole: list[str] = []  # each joined from many
        self._last: list[str] = []

    def add(self, text: str) -> None:
        """Take the next piece."""
        if text:
            self._last.append(text)
            if len(self._last) >= _MANY:
                self._whole.append("".join(self._last))
                self._last.clear()

    def __bool__(self) -> bool:
        return bool(self._last or self._whole)

    def text(self) -> str:
        """All of it."""
        return "".join(self._whole) + "".join(self._last)
