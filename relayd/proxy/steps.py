"""Work that exceeds one turn of the event loop, divided into several turns with other work between them. Steps may wait
for the reply of a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from relayd import clock
from relayd.wire.json_steps import TURN_S, Steps
from relayd.wire.waiting import Waiting

T = TypeVar("T")


class CallLater(Protocol):
    """Calls a function after a delay. The returned function cancels it."""

    def __call__(self, delay_s: float, callback: Callable[[], None], /) -> Callable[[], None]: ...


class Work:
    """Running steps; owned by the object that waits for the result."""

    __slots__ = ("_call_later", "_cancel", "_done", "_steps", "_waiting")

    def __init__(self, steps: Steps[None], call_later: CallLater, done: Callable[[], None]) -> None:
        """`done` is called if the steps end in a later turn than the first. Steps raise only
        ExchangeError."""
        self._steps, self._call_later, self._done = steps, call_later, done
        self._cancel: Callable[[], None] | None = None
        self._waiting: Waiting | None = None

    def defer(self) -> None:
        """Run the first turn later, because the current turn of the loop has done much work already."""
        self._cancel = self._call_later(0.0, self._go_on)

    def turn(self) -> bool:
        """Run one turn. Returns True if the steps are done."""
        self._cancel = None
        end_s = clock.monotonic() + TURN_S
        for waiting in self._steps:
            if waiting is not None and not waiting.is_done:
                self._waiting = waiting
                waiting.when_done(partial(self._resume, waiting))
                return False
            if clock.monotonic() > end_s:
                self._cancel = self._call_later(0.0, self._go_on)
                return False
        return True

    def _resume(self, waiting: Waiting) -> None:
        if self._waiting is waiting:
            self._waiting = None
            self._cancel = self._call_later(0.0, self._go_on)

    def _go_on(self) -> None:
        if self.turn():
            self._done()

    def cancel(self) -> None:
        """Stop, and drop the references to the owner: a store may still hold what the steps wait for."""
        self._waiting = None
        self._call_later, self._done = _no_turn, _nothing
        self._steps.close()
        if self._cancel is not None:
            self._cancel()
            self._cancel = None


def _no_turn(delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
    """Cancelled work gets no further turn."""
    return _nothing


def _nothing() -> None:
    """Cancelled work has no effect."""
