"""The counted use of one limit: amounts by slot of time, in whole numbers.

1. A sliding span is divided into SLOTS slots. An amount counts until its slot lies wholly before `now - span`, so in
   any interval of the length of the span at most the limit is admitted, and an amount is freed at most one slot (a
   sixtieth of the span) late. A calendar span (a UTC day or month) and a total are a single slot.
2. All numbers are integers below 2^53, and time is passed in, in milliseconds since 1970: a script inside a Redis
   server can make the same decisions from the same state (a number for each slot).
3. A clock that was set back neither frees nor locks: amounts of slots that are in the future count in the current slot
   from then on.
4. `held` is the part of `used` that is reserved by requests in progress. It is not part of the saved state.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from relayd.dataclass import dataclass
from relayd.limits.rate_queue import RateQueue

SLOTS = 60
DAY_MS = 86_400_000
NEVER_MS = 1 << 53
CALENDAR = ("day", "month", "total")
State = tuple[tuple[int, int], ...]


class Moment(NamedTuple):
    """The time of a decision in milliseconds since 1970: `steady_ms` for sliding spans, not affected by changes of the
    system's clock, and `wall_ms` for calendar spans. A server that decides for several instances has one time."""

    steady_ms: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Span:
    """The time over which a limit counts: `kind` is sliding, day, month or total. `length_ms` is the length of a
    sliding span, 0 for others."""

    kind: str
    length_ms: int = 0

    @classmethod
    def sliding(cls, length_s: float) -> Span:
        """A sliding span of this length."""
        return cls("sliding", round(length_s * 1000))

    @classmethod
    def of_text(cls, text: str) -> Span:
        """The inverse of `str`. Raises ValueError."""
        if text in CALENDAR:
            return cls(text)
        if not text.endswith("ms") or int(text[:-2]) <= 0:
            raise ValueError(text)
        return cls("sliding", int(text[:-2]))

    def __str__(self) -> str:
        return f"{self.length_ms}ms" if self.length_ms else self.kind

    def slot(self, now_ms: int) -> int:
        """The number of the slot that contains this time."""
        if self.length_ms:
            return now_ms * SLOTS // self.length_ms
        if self.kind == "day":
            return now_ms // DAY_MS
        return 0 if self.kind == "total" else _month(now_ms // DAY_MS)

    def begins_ms(self, slot: int) -> int | None:
        """The time at which this slot begins; None if it has neither beginning nor end."""
        if self.length_ms:
            return -(-slot * self.length_ms // SLOTS)
        if self.kind == "day":
            return slot * DAY_MS
        return None if self.kind == "total" else _month_begins_ms(slot)

    def freed_ms(self, slot: int) -> int | None:
        """The time from which on the amounts of this slot do not count any more; None if they always do."""
        return self.begins_ms(slot + (SLOTS + 1 if self.length_ms else 1))


@functools.lru_cache(maxsize=8)
def _month(day: int) -> int:
    date = datetime.date.fromordinal(datetime.date(1970, 1, 1).toordinal() + day)
    return date.year * 12 + date.month - 1


def _month_begins_ms(month: int) -> int:
    year, index = divmod(month, 12)
    return (datetime.date(year, index + 1, 1).toordinal() - datetime.date(1970, 1, 1).toordinal()) * DAY_MS


class Window:
    """Owned by the ledger; counters refer to it. `used` and `held` are those of the last `advance`; `pending` is the
    number of open reservations; `warned` of the warning thresholds that have been reported, -1 if that is not known.
    `queue` has the requests that wait for room, None if none ever did."""

    __slots__ = (
        "__weakref__", "_begins_ms", "_ends_ms", "_freed_ms", "_held", "_slot", "_slots", "held", "key", "pending",
        "queue", "span", "used", "warned",
    )  # fmt: skip

    def __init__(self, key: str, span: Span) -> None:
        self.key, self.span = key, span
        self.used = self.held = self.pending = self.warned = 0
        self.queue: RateQueue | None = None
        self._slots: dict[int, int] = {}  # ascending
        self._held: dict[int, int] = {}  # the reserved part of each slot
        self._slot = 0
        self._begins_ms = self._ends_ms = 0  # of this slot; no end while they are not known
        self._freed_ms: int | None = None  # the time from which on this slot does not count any more

    @property
    def idle(self) -> bool:
        """True if nothing is used or reserved: a new window would be the same."""
        return not self.used and not self.pending

    def advance(self, now_ms: int) -> int:
        """Drop what does not count any more at this time. Returns the amount that is used, which is at most what it was
        before."""
        if not self._begins_ms <= now_ms < self._ends_ms:
            span = self.span
            slot = span.slot(now_ms)
            if slot != self._slot:
                self._advance_to(slot)
            self._begins_ms, self._ends_ms = span.begins_ms(slot) or 0, span.begins_ms(slot + 1) or NEVER_MS
            self._freed_ms = span.freed_ms(slot)
        return self.used

    def _advance_to(self, slot: int) -> None:
        if slot < self._slot:
            self._merge_future(slot)
        self._slot, self._ends_ms = slot, 0
        slots, oldest = self._slots, self._oldest()
        while slots and (first := next(iter(slots))) < oldest:
            self.used -= slots.pop(first)
            self.held -= self._held.pop(first, 0)

    def _oldest(self) -> int:
        """The first slot that counts."""
        return self._slot - SLOTS if self.span.length_ms else self._slot

    def _merge_future(self, slot: int) -> None:
        """Count the amounts of all slots after this one in it: the clock was set back."""
        for amounts in (self._slots, self._held):
            ahead = [one for one in amounts if one > slot]
            if ahead:
                amount = sum(amounts.pop(one) for one in ahead)
                amounts[slot] = amounts.get(slot, 0) + amount

    def reserve(self, amount: int) -> int:
        """Count an amount as used and held, in the slot of the last `advance`. Returns that slot."""
        slot, slots, held = self._slot, self._slots, self._held
        slots[slot] = slots.get(slot, 0) + amount
        held[slot] = held.get(slot, 0) + amount
        self.used += amount
        self.held += amount
        self.pending += 1
        return slot

    def settle(self, slot: int, held: int, amount: int) -> None:
        """Replace an amount that was reserved in this slot by the real one; without effect if that slot does not count
        any more."""
        self.pending -= 1
        if slot != self._slot:
            if slot > self._slot:  # the clock was set back
                slot = self._slot
            elif slot < self._oldest():
                return
        slots, holds, more = self._slots, self._held, amount - held
        if (others := holds.get(slot, 0) - held) >= 0:
            if held:
                holds[slot] = others
                self.held -= held
            if more:
                self.used += more
                slots[slot] = slots.get(slot, 0) + more
            return
        # The clock was set back and forth: the reservation was moved to another slot, or has been dropped with it.
        for one in reversed(holds):
            part = min(held, holds[one])
            holds[one] -= part
            slots[one] -= part
            self.held -= part
            self.used -= part
            held -= part
        slots[slot] = slots.get(slot, 0) + amount
        self.used += amount
        self._slots = dict(sorted(slots.items()))

    def has_room(self, amount: int, limit: int) -> bool:
        """True if the limit is not used up, and this amount fits as well."""
        return self.used < limit and self.used + amount <= limit

    def available_ms(self, amount: int, limit: int) -> int | None:
        """The time at which the limit has room for this amount if nothing else is used until then; None if never."""
        left, free_ms = self.used, 0
        if amount > limit:
            return None
        for slot, used in self._slots.items():
            if left < limit and left + amount <= limit:
                break
            left -= used
            freed_ms = self.span.freed_ms(slot)
            if freed_ms is None:
                return None
            free_ms = freed_ms
        return free_ms

    def empty_ms(self) -> int | None:
        """The time at which all that is used now is free again, 0 if nothing is used; None if never."""
        last = next(reversed(self._slots), None)
        if last is None:
            return 0
        return self._freed_ms if last == self._slot and self._ends_ms else self.span.freed_ms(last)

    def clear(self) -> None:
        """Forget all settled amounts. Reservations stay."""
        self._slots = {slot: amount for slot, amount in self._held.items() if amount}
        self.used, self.warned = self.held, 0

    def state(self) -> State:
        """The settled amounts by slot, for `load`."""
        held = self._held
        return tuple((slot, rest) for slot, amount in self._slots.items() if (rest := amount - held.get(slot, 0)))

    def load(self, state: Iterable[tuple[int, int]]) -> None:
        """Add saved amounts by slot."""
        for slot, amount in state:
            self._slots[slot] = self._slots.get(slot, 0) + amount
            self.used += amount
        self._slots = dict(sorted(self._slots.items()))
        self._slot, self._ends_ms = max(self._slots, default=self._slot), 0

    # ---- a copy of a window in a server that several instances share

    def follow(self, slot: int, used: int, held: int) -> None:
        """Set what is used and held at a slot of the server's time. The difference counts in this slot, until `replace`
        tells where it belongs."""
        if slot != self._slot:
            self._advance_to(slot)
        self._slots[slot] = self._slots.get(slot, 0) + used - self.used
        self._held[slot] = self._held.get(slot, 0) + held - self.held
        self.used, self.held = used, held

    def replace(self, slots: Mapping[int, int], held: Mapping[int, int]) -> None:
        """Set all amounts by slot, and the held part of them."""
        self._slots, self._held = dict(sorted(slots.items())), dict(sorted(held.items()))
        self.used, self.held = sum(slots.values()), sum(held.values())
        if slots or held:
            self._slot, self._ends_ms = max(self._slot, *self._slots, *self._held), 0

    def hold_only(self, held: Mapping[int, int]) -> None:
        """Hold only these amounts by slot; what else was held is not used either. Amounts of slots that do not count
        any more are left out."""
        oldest = self._oldest()
        own = {slot: amount for slot, amount in held.items() if slot >= oldest}
        slots = {slot: amount - self._held.get(slot, 0) for slot, amount in self._slots.items()}
        for slot, amount in own.items():
            slots[slot] = slots.get(slot, 0) + amount
        self.replace(slots, own)

    def add(self, slots: Mapping[int, int], held: Mapping[int, int]) -> None:
        """Add amounts by slot, and the held part of them."""
        for own, more in ((self._slots, slots), (self._held, held)):
            for slot, amount in more.items():
                own[slot] = own.get(slot, 0) + amount
        self.replace(self._slots, self._held)
