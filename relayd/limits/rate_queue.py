"""The requests that wait for room in one window, in order of arrival (`wait:` of a rate)."""

from __future__ import annotations

from collections.abc import Callable, Hashable

MOST_WAITING = 1000


class RateQueue:
    """Owned by its window. Only the first request tries to reserve; when it leaves, the next one is called."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Hashable, tuple[int, Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def is_behind(self, request: Hashable) -> bool:
        """True if a request that arrived earlier waits here."""
        return bool(self._waiting) and next(iter(self._waiting)) is not request

    def amount_before(self, request: Hashable) -> int:
        """The amount that earlier requests wait for."""
        total = 0
        for one, (amount, _) in self._waiting.items():
            if one is request:
                break
            total += amount
        return total

    def join(self, request: Hashable, amount: int, on_turn: Callable[[], None]) -> None:
        """Wait at the end; without effect if it waits already. `on_turn` is called when it becomes the first."""
        if request not in self._waiting:
            self._waiting[request] = amount, on_turn

    def leave(self, request: Hashable) -> None:
        """Leave the queue; without effect if it is not in it."""
        first = next(iter(self._waiting), None)
        left = self._waiting.pop(request, None)
        if left is not None and first is request:
            self.wake()

    def wake(self) -> None:
        """Room may have become available: call the first request."""
        if self._waiting:
            next(iter(self._waiting.values()))[1]()
