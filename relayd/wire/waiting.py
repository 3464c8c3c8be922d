"""A result that steps wait for: the reply of a store that must be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Waiting:
    """A result that arrives in a later turn of the event loop. Steps yield it, and are resumed when it `is_done`."""

    __slots__ = ("_callbacks", "is_done", "is_given_up", "result")

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self.is_done = self.is_given_up = False
        self.result: Any = None

    def set(self, result: Any) -> None:
        """Store the result; only the first one counts."""
        if self.is_done:
            return
        self.is_done, self.result = True, result
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def give_up(self) -> None:
        """End without a result: the steps are run by a caller that cannot wait."""
        if not self.is_done:
            self.is_given_up = True
            self.set(None)

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back once, at once if it is done already."""
        if self.is_done:
            callback()
        else:
            self._callbacks.append(callback)
