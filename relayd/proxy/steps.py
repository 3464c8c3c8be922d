"""Work that is too long for one turn of the event loop, done in several: everybody else is served in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from relayd import clock
from relayd.wire.json_steps import Steps

T = TypeVar("T")
TURN_S = 0.004


class CallLater(Protocol):
    """Calls a function after a while; the result takes that back."""

    def __call__(self, delay_s: float, callback: Callable[[], None], /) -> Callable[[], None]: ...


class Work:
    """Steps under way; owned by whoever waits for their result."""

    __slots__ = ("_call_later", "_cancel", "_done", "_steps")

    def __init__(self, steps: Steps[None], call_later: CallLater, done: Callable[[], None]) -> None:
        """`done` is called when the steps end in a later turn than the first. Steps raise nothing."""
        self._steps, self._call_later, self._done = steps, call_later, done
        self._cancel: Callable[[], None] | None = None

    def defer(self) -> None:
        """Make the first turn later, because much was done in this turn of the loop already."""
        self._cancel = self._call_later(0.0, self._go_on)

    def turn(self) -> bool:
        """One turn: whether the steps are at their end."""
        self._cancel = None
        end_s = clock.monotonic() + TURN_S
        for _ in self._steps:
            if clock.monotonic() > end_s:
                self._cancel = self._call_later(0.0, self._go_on)
                return False
        return True

    def _go_on(self) -> None:
        if self.turn():
            self._done()

    def cancel(self) -> None:
        """Do nothing more."""
        self._steps.close()
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
