"""Releases what instances have reserved that do not run any more.

An instance raises its number in the server each second. If it has not changed for GONE_S, by the monotonic clock of the
observer, its reservations are taken back; several observers may do that at the same time. Clocks that are changed do
not matter, and an outage of the server begins the observation anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.limits.shared_calls import Failed, SharedCalls, held

GONE_S = 15.0
_NAME = lazy_regex(rb"[0-9a-f]{16}")


class GoneInstances:
    """Owned by the shared ledger."""

    def __init__(self, calls: SharedCalls, now_s: Callable[[], float]) -> None:
        self._calls, self._now_s = calls, now_s
        self._seen: dict[str, tuple[str, float]] = {}  # number, and since when it is the same
        self.running: tuple[str, ...] = ()  # other instances that were last seen to run
        self._releasing = ""
        self.count = 0  # instances that were seen

    def observe(self, fields: Sequence[bytes]) -> None:
        """Take note of the numbers of all instances, and release what one has reserved that is gone."""
        now_s, seen = self._now_s(), self._seen
        numbers = {
            one.decode(): number.decode("ascii", "replace")
            for one, number in zip(fields[::2], fields[1::2], strict=True) if _NAME.fullmatch(one)
        }  # others were not written by relayd
        self._seen = {
            name: seen[name] if name in seen and seen[name][0] == number else (number, now_s)
            for name, number in numbers.items() if name != self._calls.instance
        }
        self.count = len(numbers)
        self.running = tuple(name for name, (_, since_s) in self._seen.items() if now_s - since_s < GONE_S)
        if not self._releasing:
            for name, (number, since_s) in self._seen.items():
                if now_s - since_s >= GONE_S:
                    self.leave(name, number, lambda: None)
                    break

    def forget(self) -> None:
        """The server was not available: begin the observation anew. `running` stays."""
        self._seen.clear()

    def leave(self, name: str, number: str, on_left: Callable[[], None]) -> None:
        """Release all reservations of an instance, and forget it."""
        self._releasing = name

        def ended() -> None:
            self._releasing = ""
            on_left()

        def on_open(answer: Any) -> None:
            reservations = held(answer) if isinstance(answer, list) else []
            if isinstance(answer, Failed) and name in self._seen:
                self._seen[name] = number, self._now_s()  # others first
            if not reservations:
                ended()
                return
            self._calls.release(name, reservations, on_released)

        def on_released(answer: Any) -> None:
            if isinstance(answer, list):
                self._calls.leave(name, number, on_open)
            else:
                ended()

        self._calls.leave(name, number, on_open)
