"""Uses of shared counters that are not in the server yet: ends of reservations, and local decisions.

One batch is on its way at a time, and is repeated unchanged until the server acknowledges it. What was decided locally
is summed up by window and slot, so that memory does not grow with the length of an outage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from relayd.limits.counter import Counter
from relayd.limits.ledger import Demand, Ledger
from relayd.limits.shared_calls import Entry, Failed, Operation, SharedCalls, Use, crossed, uses
from relayd.limits.window import Window

MOST_OPERATIONS = 100  # of one batch
MOST_RECENT = 1000  # operations that are sent again if a failover has lost them
Entries = Sequence[tuple[Counter, int, int]]  # counter, slot, reserved amount


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
    """Operations that the server applies once. `local` are keys of windows with amounts that were decided locally."""

    number: int
    counters: tuple[Counter, ...]
    operations: tuple[Operation, ...]
    local: tuple[str, ...]


class UnsentUses:
    """Owned by the shared ledger. `later` runs a step in a later turn. `follow` gets the state of windows in the
    server. `on_failed` is called for a batch that could not be sent, `on_settled` when nothing is left to send, and
    `on_ended` with the number of a reservation that the server has ended."""

    def __init__(
        self, calls: SharedCalls, ledger: Ledger, later: Callable[[Callable[[], None]], object],
        follow: Callable[[Sequence[Counter], Sequence[Use]], None], on_failed: Callable[[], None],
        on_settled: Callable[[], None], on_ended: Callable[[int], None],
    ) -> None:
        self._calls, self._ledger, self._later = calls, ledger, later
        self._follow, self._on_failed, self._on_settled, self._on_ended = follow, on_failed, on_settled, on_ended
        self._queue: deque[Operation] = deque()
        self._cancelled: deque[tuple[float, Operation]] = deque()
        self._local: dict[str, Local] = {}
        self._batch: Batch | None = None
        self._recent: deque[Operation] = deque(maxlen=MOST_RECENT)  # acknowledged ones
        self._sending = self._scheduled = False
        self._batches = 0

    @property
    def is_empty(self) -> bool:
        """True if the server has everything."""
        return not (self._batch or self._queue or self._cancelled or any(one.used for one in self._local.values()))

    # ---- what happens

    def settle(self, number: int, entries: Entries, amounts: Sequence[int]) -> None:
        """A reservation has ended with these amounts. `number` is 0 if it was decided locally."""
        if number:
            self._queue.append(Operation(number, [
                Entry(counter, slot, amount) for (counter, slot, _), amount in zip(entries, amounts, strict=True)
            ]))
        else:
            for (counter, slot, held), amount in zip(entries, amounts, strict=True):
                local, queue = self._of(counter), counter.window.queue
                _add(local.held, slot, -held)
                _add(local.used, slot, amount)
                self._drop_if_empty(counter.window.key)
                if queue and amount < held:
                    queue.wake()

    def hold(self, entries: Entries) -> None:
        """A reservation was decided locally."""
        for counter, slot, amount in entries:
            _add(self._of(counter).held, slot, amount)
            self._drop_if_empty(counter.window.key)

    def cancel(self, number: int, demands: Sequence[Demand], after_s: float) -> None:
        """Release a reservation that the server may have made, after this time of the monotonic clock."""
        self._cancelled.append((after_s, Operation(number, [Entry(counter, 0, 0) for counter, _ in demands])))

    def repeat(self, numbers: Iterable[int]) -> set[int]:
        """Send the ends of these reservations again, which a failover has lost. Returns those that are not known."""
        recent, unknown = {one.number: one for one in self._recent}, set()
        for number in numbers:
            if number in recent:
                self._queue.append(recent[number])
            else:
                unknown.add(number)
        return unknown

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
        if self._batch is None:
            self._batch = self._next_batch()
        batch = self._batch
        if batch is None:
            self._on_settled()
        elif not self._sending:
            self._sending = True
            self._calls.settle(batch.counters, batch.operations, batch.number, self._on_answer)

    def _next_batch(self) -> Batch | None:
        operations: list[Operation] = []
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
        return Batch(self._batches, tuple(counters.values()), tuple(operations), tuple(local))

    def _on_answer(self, answer: Any) -> None:
        self._sending = False
        batch = self._batch
        assert batch is not None
        if isinstance(answer, Failed):
            self._on_failed()
            return
        self._batch = None
        for operation in batch.operations:
            if operation.number:
                self._recent.append(operation)
                self._on_ended(operation.number)
        for key in batch.local:
            self._local[key].sent = {}
            self._drop_if_empty(key)
        if answer[2]:
            self._follow(batch.counters, uses(answer[2]))
        for counter, first, end in crossed(answer[1], batch.counters):
            for share in counter.rule.warn[first:end]:
                self._ledger.observer.warned(counter, share)
        for counter in batch.counters:
            if counter.window.queue:
                counter.window.queue.wake()
        self.send()


def _add(amounts: dict[int, int], slot: int, amount: int) -> None:
    """Add an amount of a slot; a sum of 0 is dropped."""
    total = amounts.get(slot, 0) + amount
    if total:
        amounts[slot] = total
    else:
        amounts.pop(slot, None)
