"""A request body that must be read before the next room can decide: gathered whole, within the route's bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relayd.errors import ExchangeError


class Finder(Protocol):
    """Reads a body in passing until it knows enough."""

    def feed(self, data: bytes) -> bool:
        """Whether enough is known."""


class Collector:
    """Gathers one body; owned by its exchange until `then` is called, once."""

    __slots__ = ("_finder", "_limit", "_pieces", "_then", "size")

    def __init__(
        self, limit: int, then: Callable[[bytes, bool], None], finder: Finder | None = None
    ) -> None:
        """`then` gets what was gathered and whether that is the whole body; with `finder` maybe before the end."""
        self._limit, self._then, self._finder = limit, then, finder
        self._pieces: list[bytes] = []
        self.size = 0

    def take(self, data: bytes, last: bool) -> bool:
        """The next piece; True when the collector has done its work. Raises ExchangeError body_too_large."""
        self._pieces.append(data)
        self.size += len(data)
        if self._limit and self.size > self._limit:
            raise ExchangeError("body_too_large")
        return last or (self._finder is not None and self._finder.feed(data))

    def finish(self, whole: bool) -> None:
        """Hand over."""
        pieces, self._pieces = self._pieces, []
        self._then(b"".join(pieces), whole)
