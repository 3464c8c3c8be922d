"""Bounds on the buffered part of one response: an allowance of characters, and a buffer for text in pieces.

Laws:
1. Code that buffers a part of a response charges it to an allowance first; data that is passed on at once is free.
2. Text that arrives character by character takes as much memory as text that arrives at once, except the last pieces.
"""

from __future__ import annotations

MOST_BUFFERED_CHARS = 64 * 1024 * 1024  # of one response, until its end
MOST_ITEMS = 4096  # of one response: blocks, output items, parts
MOST_CALLS = 1024
MAX_ID_CHARS = 512  # of an id, a model, a function's name: many events repeat them
PIECE_CHARS = 64  # overhead of a piece that is buffered as an object of its own
_JOIN_AT = 1024


class ResponseTooLarge(ValueError):
    """A response exceeds a bound. The message may be shown to the client."""

    def __init__(self, message: str = "The upstream's answer is too large.") -> None:
        super().__init__(message)


class Allowance:
    """The number of characters that may still be buffered; owned by the reader or the renderer of one response."""

    __slots__ = ("_chars", "_left", "_message")

    def __init__(self, chars: int = MOST_BUFFERED_CHARS, message: str = "The upstream's answer is too large.") -> None:
        self._chars = self._left = chars
        self._message = message

    @property
    def charged(self) -> int:
        """The number of charged characters."""
        return self._chars - self._left

    def charge(self, chars: int) -> None:
        """Charge characters. Raises ResponseTooLarge when the allowance is exhausted."""
        self._left -= chars
        if self._left < 0:
            raise ResponseTooLarge(self._message)


class TextBuffer:
    """A text that is collected in pieces; the owner charges an Allowance first."""

    __slots__ = ("_last", "_whole")

    def __init__(self) -> None:
        self._whole: list[str] = []  # each joined from many
        self._last: list[str] = []

    def add(self, text: str) -> None:
        """Append a piece."""
        if text:
            self._last.append(text)
            if len(self._last) >= _JOIN_AT:
                self._whole.append("".join(self._last))
                self._last.clear()

    def __bool__(self) -> bool:
        return bool(self._last or self._whole)

    def last_character(self) -> str:
        """The last character that is not white space; empty if there is none."""
        for pieces in (self._last, self._whole):
            for piece in reversed(pieces):
                if not piece[-1].isspace():
                    return piece[-1]
                if text := piece.rstrip():
                    return text[-1]
        return ""

    def text(self) -> str:
        """The whole text."""
        whole = "".join([*self._whole, *self._last])
        self._whole, self._last = [whole] if whole else [], []
        return whole
