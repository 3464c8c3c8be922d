"""Work that exceeds one turn of the event loop, divided into several turns with other work between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from relayd import clock
from relayd.wire.json_steps import TURN_S, Steps

T = TypeVar("T")


class CallLater(Protocol):
    """Calls a function after a delay. The returned function cancels it."""

    def __call__(self, delay_s: float, callback: Callable[[], None], /) -> Callable[[], None]: ...


class Work:
    """Running steps; owned by the object that waits for the result."""

    __slots__ = ("_call_later", "_cancel", "_done", "_steps")

    def __init__(self, steps: Steps[None], call_later: CallLater, done: Callable[[], None]) -> None:
        """`done` is called if the steps end in a later turn than the first. Steps must not raise."""
        self._steps, self._call_later, self._done = steps, call_later, done
        self._cancel: Callable[[], None] | None = None

    def defer(self) -> None:
        """Run the first turn later, because the current turn of the loop has done much work already."""
        self._cancel = self._call_later(0.0, self._go_on)

    def turn(self) -> bool:
        """Run one turn. Returns True if the steps are done."""
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
        """Stop."""
        self._steps.close()
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
