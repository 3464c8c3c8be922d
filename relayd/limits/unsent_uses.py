"""Uses of shared counters that are not in the server yet: ends of reservations, and local decisions.

1. One batch is on its way at a time, and is repeated unchanged until the server acknowledges it.
2. What was decided locally and has ended is summed up by window and slot, so that memory does not grow with the length
   of an outage.
3. Acknowledged batches are kept for KEPT_S, at most MOST_KEPT operations of them. A server that has lost them, which
   the number of its last batch shows, gets them again (`make_up`), and reservations that it has lost.
4. A reservation that was decided locally and is still open is made in the server before the server decides again
   (`make_local`), so that it is not admitted a second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from relayd.limits.counter import Counter
from relayd.limits.ledger import Demand, Ledger
from relayd.limits.shared_calls import Entry, Failed, Operation, SharedCalls, Use, crossed, uses
from relayd.limits.shared_reservation import SharedReservation
from relayd.limits.window import Window

MOST_OPERATIONS = 100  # of one batch
KEPT_S, MOST_KEPT = 300.0, 20_000  # acknowledged operations


class Local:
    """What was decided locally of one counter, by slot: held by requests in progress, used, and on its way."""

    __slots__ = ("counter", "held", "sent", "used")

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.held: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.sent: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self.held or self.used or self.sent)


class Batch(NamedTuple):
    """Operations that the server applies once. `local` are keys of windows with amounts that were decided locally,
    `made` the reservations that the server gets. `makes_up`: it has operations that the server had lost."""

    number: int
    counters: tuple[Counter, ...]
    operations: tuple[Operation, ...]
    local: tuple[str, ...]
    made: tuple[SharedReservation, ...]
    makes_up: bool


class UnsentUses:
    """Owned by the shared ledger. `later` runs a step in a later turn. `follow` gets the state of windows in the
    server. `on_failed` is called for a batch that could not be sent, `on_progress` when one was acknowledged or nothing
    is left to send."""

    def __init__(
        self, calls: SharedCalls, ledger: Ledger, later: Callable[[Callable[[], None]], object],
        follow: Callable[[Sequence[Counter], Sequence[Use]], None], on_failed: Callable[[Failed], None],
        on_progress: Callable[[], None],
    ) -> None:
        self._calls, self._ledger, self._later = calls, ledger, later
        self._follow, self._on_failed, self._on_progress = follow, on_failed, on_progress
        self._queue: deque[Operation] = deque()
        self._cancelled: deque[tuple[float, Operation]] = deque()
        self._lost: deque[Operation] = deque()
        self._to_make: deque[SharedReservation] = deque()
        self._local: dict[str, Local] = {}
        self._locally_held: dict[int, SharedReservation] = {}  # by number: not made in the server yet
        self._batch: Batch | None = None
        self._resendable: deque[tuple[int, Batch]] = deque()  # with the server's time
        self._resendable_operations = 0
        self._scheduled = self.is_sending = False
        self.is_paused = True  # until it is known what the server has
        self._batches = self._acknowledged = 0

    @property
    def is_empty(self) -> bool:
        """True if the server has everything that has ended."""
        return not (
            self._batch or self._queue or self._cancelled or self._lost or any(one.used for one in self._local.values())
        )

    @property
    def is_made_up(self) -> bool:
        """True if the server has all that it had lost."""
        return not self._lost and not self._to_make and (self._batch is None or not self._batch.makes_up)

    @property
    def is_level(self) -> bool:
        """True if the server has all that it had lost, and all that was decided locally."""
        return not self._local and not self._locally_held and self.is_made_up

    def has_lost(self, batch: int) -> bool:
        """True if a server whose last batch is this one has lost acknowledged ones."""
        return batch < self._acknowledged

    # ---- what happens

    def settle(self, reservation: SharedReservation, amounts: Sequence[int]) -> None:
        """A reservation has ended with these amounts."""
        if reservation.is_sent:
            self._queue.append(Operation(reservation.number, [
                Entry(counter, slot, amount)
                for (counter, slot, _), amount in zip(reservation.entries, amounts, strict=True)
            ]))
            return
        self._locally_held.pop(reservation.number, None)
        for (counter, slot, held), amount in zip(reservation.entries, amounts, strict=True):
            local, queue = self._of(counter), counter.window.queue
            _add(local.held, slot, -held)
            _add(local.used, slot, amount)
            self._drop_if_empty(counter.window.key)
            if queue and amount < held:
                queue.wake()

    def hold(self, reservation: SharedReservation) -> None:
        """A reservation was decided locally."""
        self._locally_held[reservation.number] = reservation
        for counter, slot, amount in reservation.entries:
            _add(self._of(counter).held, slot, amount)
            self._drop_if_empty(counter.window.key)

    def cancel(self, number: int, demands: Sequence[Demand], after_s: float) -> None:
        """Release a reservation that the server may have made, after this time of the monotonic clock."""
        self._cancelled.append((after_s, Operation(number, [Entry(counter, 0, 0) for counter, _ in demands])))

    def make_up(
        self, now_ms: int, batch: int, here: Mapping[int, SharedReservation], there: Iterable[int]
    ) -> set[int]:
        """Send what the server lacks. `batch` is the last batch that it has applied, `there` the reservations that it
        has, `here` the open ones. Returns those of which nothing is known here."""
        resendable = self._resendable
        while resendable and resendable[-1][1].number > batch:
            acknowledged_ms, lost = resendable.pop()
            self._resendable_operations -= len(lost.operations)
            if acknowledged_ms >= now_ms - KEPT_S * 1000:  # else this machine has slept, and the number has expired
                self._lost.extendleft(one for one in reversed(lost.operations) if one.number >= 0)
        self._acknowledged = batch
        has = set(there)
        self._to_make = deque(one for number, one in here.items() if one.is_sent and number not in has)
        operations = [*self._queue, *self._lost, *(one for _, one in self._cancelled)]
        if self._batch is not None:
            operations += self._batch.operations
        return has - here.keys() - {one.number for one in operations}

    def forget_acknowledged(self) -> None:
        """Acknowledged amounts do not concern another server."""
        self._resendable.clear()
        self._resendable_operations = self._acknowledged = 0

    def make_local(self) -> None:
        """Make the open reservations in the server that were decided locally."""
        self._to_make.extend(one for one in self._locally_held.values() if not one.is_sent)

    def _of(self, counter: Counter) -> Local:
        local = self._local.get(counter.window.key)
        if local is None:
            local = self._local[counter.window.key] = Local(counter)
        return local

    def _drop_if_empty(self, key: str) -> None:
        if key in self._local and not self._local[key]:
            del self._local[key]

    # ---- the copies

    def concerns(self, window: Window) -> bool:
        """True if the server does not have all that was decided locally of this window."""
        return window.key in self._local

    def add_to(self, window: Window) -> None:
        """Add what the server does not have to a copy of its state."""
        local = self._local.get(window.key)
        if local is not None:
            for amounts in (local.used, local.sent):
                window.add(amounts, {})
            window.add(local.held, local.held)

    # ---- sending

    def send_later(self) -> None:
        """Send in a later turn, so that an answer does not wait for it."""
        if not self._scheduled:
            self._scheduled = True
            self._later(self._send_scheduled)

    def _send_scheduled(self) -> None:
        self._scheduled = False
        if self._batch is None:
            self.send()

    def send(self) -> None:
        """Send the waiting batches, beginning with a batch that was not acknowledged."""
        if self._batch is None and not self.is_paused:
            self._batch = self._next_batch()
        batch = self._batch
        if batch is None:
            self._on_progress()
        elif not self.is_sending and not self.is_paused:
            self.is_sending = True
            self._calls.settle(batch.counters, batch.operations, batch.number, self._on_answer)

    def _next_batch(self) -> Batch | None:
        operations: list[Operation] = []
        while self._lost and len(operations) < MOST_OPERATIONS:
            operations.append(self._lost.popleft())
        made: list[SharedReservation] = []
        while self._to_make and len(operations) < MOST_OPERATIONS:
            if (reservation := self._to_make.popleft()).is_open:
                operations.append(Operation(-reservation.number, [Entry(*one) for one in reservation.entries]))
                made.append(reservation)
                reservation.is_sent = True
        makes_up = bool(operations)
        while self._queue and len(operations) < MOST_OPERATIONS:
            operations.append(self._queue.popleft())
        now_s = self._ledger.monotonic_s()
        while self._cancelled and self._cancelled[0][0] <= now_s and len(operations) < MOST_OPERATIONS:
            operations.append(self._cancelled.popleft()[1])
        local = [key for key, one in self._local.items() if one.used][: MOST_OPERATIONS - len(operations)]
        for key in local:
            one = self._local[key]
            one.sent, one.used = one.used, {}
            operations.append(Operation(0, [Entry(one.counter, slot, amount) for slot, amount in one.sent.items()]))
        if not operations:
            return None
        self._batches += 1
        counters = {entry.counter.window.key: entry.counter for one in operations for entry in one.entries}
        return Batch(
            self._batches, tuple(counters.values()), tuple(operations), tuple(local), tuple(made), makes_up
        )

    def _on_answer(self, answer: Any) -> None:
        self.is_sending = False
        batch = self._batch
        assert batch is not None
        if isinstance(answer, Failed):
            self._on_failed(answer)
            return
        self._batch = None
        self._keep(batch)
        for key in batch.local:
            self._local[key].sent = {}
            self._drop_if_empty(key)
        for reservation in batch.made:
            if self._locally_held.pop(reservation.number, None) is not None:
                for counter, slot, held in reservation.entries:
                    _add(self._of(counter).held, slot, -held)
                    self._drop_if_empty(counter.window.key)
        if answer[2]:
            self._follow(batch.counters, uses(answer[2]))
        for counter, first, end in crossed(answer[1], batch.counters):
            for share in counter.rule.warn[first:end]:
                self._later(partial(self._ledger.observer.warned, counter, share))
        self._on_progress()
        self.send()
        for counter in batch.counters:
            if counter.window.queue:
                counter.window.queue.wake()

    def _keep(self, batch: Batch) -> None:
        """Keep an acknowledged batch for a server that has lost it."""
        now_ms, resendable = self._ledger.now().wall_ms, self._resendable
        self._acknowledged = batch.number
        resendable.append((now_ms, batch))
        self._resendable_operations += len(batch.operations)
        while resendable and (self._resendable_operations > MOST_KEPT or resendable[0][0] < now_ms - KEPT_S * 1000):
            self._resendable_operations -= len(resendable.popleft()[1].operations)


def _add(amounts: dict[int, int], slot: int, amount: int) -> None:
    """Add an amount of a slot; a sum of 0 is dropped."""
    total = amounts.get(slot, 0) + amount
    if total:
        amounts[slot] = total
    else:
        amounts.pop(slot, None)
