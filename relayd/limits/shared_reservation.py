"""Reservations of counters that several instances count together in a server, and other decisions of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from relayd.dataclass import dataclass
from relayd.limits.counter import Counter
from relayd.limits.ledger import Exceeded, Warned


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A refused reservation: the server is not available, and this counter is `closed` then."""

    counter: Counter


class Owner(Protocol):
    """The shared ledger, as its reservations see it."""

    def settle(self, reservation: SharedReservation, amounts: Sequence[int]) -> None:
        """Count the real amounts of a reservation."""


class SharedReservation:
    """As `Reservation`. `number` is that in the server. `is_sent` is true if the server has or may have it, false as
    long as it was only decided by this instance."""

    __slots__ = ("_owner", "entries", "is_open", "is_sent", "let_through", "number")

    def __init__(
        self, owner: Owner, number: int, entries: tuple[tuple[Counter, int, int], ...],
        let_through: tuple[Counter, ...], is_sent: bool,
    ) -> None:
        self._owner, self.number, self.entries, self.let_through = owner, number, entries, let_through
        self.is_sent, self.is_open = is_sent, True

    def settle(self, amounts: Sequence[int]) -> Sequence[Warned]:
        """Replace the reserved amounts by the real ones. Thresholds are reported when the server has counted."""
        if self.is_open:
            self.is_open = False
            self._owner.settle(self, amounts)
        return ()

    def refund(self) -> None:
        """Take all reserved amounts back."""
        self.settle([0] * len(self.entries))


Decision = SharedReservation | Exceeded | Unavailable
OnDecided = Callable[[Decision], None]
