"""The ledger: what every rate and budget has counted, and reservations in it.

Laws:
1. `reserve` is one step: either every counter has room and all amounts are reserved, or nothing changes. No
   interleaving of requests admits more than a limit.
2. A reservation is closed once, by `settle` with the real amounts or by `refund`; a further call has no effect. A real
   amount above the reserved one is counted too: the limit is exceeded by that difference at most.
3. What was used belongs to a key (scope, measure, span, selectors), not to a plan: it survives reloads, and a changed
   limit applies to what was used.
4. The number of windows is bounded: at MOST_VALUES values of `each`, the one that was not used for longest is
   forgotten. Windows in which nothing is used are forgotten too, unless a plan refers to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Reversible, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from relayd import clock
from relayd.dataclass import dataclass
from relayd.limits.counter import Counter, Rule, is_of, owner_of
from relayd.limits.window import Moment, Span, Window
from relayd.wire.json_steps import Steps

MOST_VALUES = 50_000
SWEPT = 1000  # windows checked by one sweep
ADVANCED = 256  # counters in one step

_moment = tuple.__new__  # a third of the cost of Moment()
T = TypeVar("T")
Demand = tuple[Counter, int]
Warned = tuple[Counter, float]


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A refused reservation: the counter without room that has it last. `retry_after_s` is the time until the amount
    fits, None if it never does."""

    counter: Counter
    amount: int
    retry_after_s: float | None


class Reservation:
    """Amounts that a request in progress may use. Owned by its exchange. `let_through` are the counters
    that were exceeded and refuse nothing."""

    __slots__ = ("_changed", "_open", "entries", "let_through")

    def __init__(
        self, entries: tuple[tuple[Counter, int, int], ...], changed: dict[str, Window],
        let_through: tuple[Counter, ...] = (),
    ) -> None:
        self.entries = entries  # counter, slot, reserved amount
        self.let_through = let_through
        self._changed = changed
        self._open = True

    def settle(self, amounts: Sequence[int]) -> list[Warned]:
        """Replace the reserved amounts by the real ones, in the order of `entries`. Returns the thresholds that were
        crossed."""
        warned: list[Warned] = []
        if not self._open:
            return warned
        self._open, changed = False, self._changed
        for (counter, slot, held), amount in zip(self.entries, amounts, strict=True):
            window = counter.window
            window.settle(slot, held, amount)
            if amount:
                changed[window.key] = window
            if window.queue and amount < held:
                window.queue.wake()
            if counter.warn_at:
                settled = window.used - window.held
                crossed = sum(1 for at in counter.warn_at if settled >= at)
                warned += [(counter, share) for share in counter.rule.warn[window.warned : crossed]]
                window.warned = crossed
        return warned

    def refund(self) -> None:
        """Take all reserved amounts back."""
        if self._open:
            self.settle([0] * len(self.entries))


class Observer(Protocol):
    """Called with events for the operator; must not fail."""

    def exceeded(self, counter: Counter) -> None:
        """A request was refused, or exceeded a rule with `counts_only`."""

    def warned(self, counter: Counter, share: float) -> None:
        """This share of a limit has been used."""

    def unpriced(self, counter: Counter, upstream: str, model: str) -> None:
        """A request costs nothing for a budget, because its model has no price at the upstream."""


class _Nobody:
    def exceeded(self, counter: Counter) -> None:
        pass

    def warned(self, counter: Counter, share: float) -> None:
        pass

    def unpriced(self, counter: Counter, upstream: str, model: str) -> None:
        pass


class Ledger:
    """One per process; owned by the gateway. `now_s` is a monotonic clock, `wall_s` that of the calendar."""

    def __init__(
        self, now_s: Callable[[], float] = clock.monotonic, wall_s: Callable[[], float] = clock.wall
    ) -> None:
        self._now_s, self._wall_s, self._own_wall_s = now_s, wall_s, wall_s
        self.observer: Observer = _Nobody()
        self._steady_offset_s = wall_s() - now_s()
        self._known: WeakValueDictionary[str, Window] = WeakValueDictionary()  # of every counter in memory
        self._windows: dict[str, Window] = {}  # in force, or not idle
        self._in_force: dict[str, Counter] = {}  # of the plan in force, by key
        self._values: dict[str, Counter] = {}  # of values of `each`, the last used one at the end
        self._joined: dict[str, Rule] = {}  # of keys of the key store, by key; the last joined one at the end
        self._changed: dict[str, Window] = {}
        self._unswept: list[str] = []  # what the current pass of `sweep` has not looked at yet

    def now(self) -> Moment:
        """The time for the next decision."""
        return _moment(Moment, (int((self._now_s() + self._steady_offset_s) * 1000), int(self._wall_s() * 1000)))

    def monotonic_s(self) -> float:
        """The monotonic clock, in seconds."""
        return self._now_s()

    def follow_time(self, offset_s: float) -> None:
        """Use the time of a server that several instances share: the monotonic clock and this offset."""
        self._steady_offset_s = offset_s
        self._wall_s = self._server_s

    def follow_own_time(self) -> None:
        """Use the clocks of this machine again."""
        self._steady_offset_s = self._own_wall_s() - self._now_s()
        self._wall_s = self._own_wall_s

    def _server_s(self) -> float:
        return self._now_s() + self._steady_offset_s

    # ---- decisions

    def reserve(self, demands: Sequence[Demand], now: Moment) -> Reservation | Exceeded:
        """Reserve all amounts, each of another counter, or none."""
        steady_ms, wall_ms = now
        let_through: tuple[Counter, ...] = ()
        for counter, amount in demands:
            used, limit = counter.window.advance(steady_ms if counter.sliding else wall_ms), counter.limit
            if used >= limit or used + amount > limit:
                if not counter.counts_only:
                    return self.exceeded(demands, now)
                let_through = (*let_through, counter)
        entries = tuple([(counter, counter.window.reserve(amount), amount) for counter, amount in demands])
        return Reservation(entries, self._changed, let_through)

    def exceeded(self, demands: Sequence[Demand], now: Moment) -> Exceeded:
        """Of the counters without room, the one that has it last."""
        found: Exceeded | None = None
        for counter, amount in demands:
            counter.advance(now)
            if counter.counts_only or counter.window.has_room(amount, counter.limit):
                continue
            wait_s = counter.wait_s(amount, now)
            if found is None or wait_s is None or (found.retry_after_s is not None and wait_s > found.retry_after_s):
                found = Exceeded(counter, amount, wait_s)
            if wait_s is None:
                break
        assert found is not None
        return found

    # ---- counters

    def counter(self, rule: Rule, value: str = "") -> Counter:
        """The counter of a rule for a plan; compiling it leaves nothing behind unless the plan comes into force."""
        key = rule.key if rule.each == "none" else rule.key_of(value)
        window = self._known.get(key)
        if window is None:
            window = self._known[key] = Window(key, rule.span)
        made = Counter(rule, window, value)
        if window.warned < 0:  # another process has reported this threshold
            used = made.advance(self.now())
            window.warned = sum(1 for at in made.warn_at if used >= at)
        return made

    def counter_of(self, rule: Rule, value: str) -> Counter:
        """The counter of one value of `each`."""
        values, key = self._values, rule.key_of(value)
        counter = values.pop(key, None)
        if counter is None or counter.rule is not rule:
            if len(values) >= MOST_VALUES:
                self._forget(next(iter(values)))
            counter = self.counter(rule, value)
            self._windows[key] = counter.window
        values[key] = counter
        return counter

    def windows(self) -> list[Window]:
        """All windows in memory."""
        return list(self._known.values())

    def in_force(self) -> list[Counter]:
        """The counters of the plan in force."""
        return list(self._in_force.values())

    def apply(self, counters: Iterable[Counter]) -> None:
        """Put the counters of a plan into force."""
        self._in_force = {counter.window.key: counter for counter in counters}
        self._windows.update((key, counter.window) for key, counter in self._in_force.items())

    def join(self, counters: Iterable[Counter]) -> None:
        """List the counters of a key of the key store, which belong to no plan, as long as their windows are in
        memory."""
        for counter in counters:
            self._joined.pop(counter.window.key, None)
            self._joined[counter.window.key] = counter.rule
            if len(self._joined) > MOST_VALUES:
                del self._joined[next(iter(self._joined))]

    def _forget(self, key: str) -> None:
        self._values.pop(key, None)
        window = self._windows.pop(key, None)
        if window is not None:
            self._changed[key] = Window(key, window.span)  # its saved state has no slots

    def sweep(self) -> None:
        """Forget windows in which nothing is used, and keep those in use that no plan has. Called by a timer; one call
        checks at most SWEPT windows."""
        now, windows = self.now(), self._windows
        if not self._unswept:
            self._unswept = [*windows, *self._changed]
        for key in self._unswept[-SWEPT:]:
            window = windows.get(key)
            if window is None:
                window = self._changed.get(key)
                if window is not None and not window.idle:
                    windows[key] = window
            elif key not in self._in_force:
                window.advance(now.steady_ms if window.span.length_ms else now.wall_ms)
                if window.idle:
                    self._forget(key)
        del self._unswept[-SWEPT:]

    def counters(self, most: int = MOST_VALUES) -> Steps[list[Counter]]:
        """All counters of the plan in force, and those of at most `most` keys of the key store and of at most `most`
        values of `each`, the last joined and the last used ones; advanced to the current time. In steps."""
        now = self.now()
        yield
        found = list(self._in_force.values())
        for number, (key, rule) in enumerate(last(self._joined.items(), most), 1):
            if (counter := self._joined_counter(key, rule)) is not None:
                found.append(counter)
            if not number % ADVANCED:
                yield
        found += last(self._values.values(), most)
        for number, counter in enumerate(found, 1):
            counter.advance(now)
            if not number % ADVANCED:
                yield
        return found

    def fixed_counters(self, most: int) -> list[Counter]:
        """The counters without `each`: those of the plan in force, and those of the `most` last joined keys; advanced
        to the current time."""
        now = self.now()
        joined = (self._joined_counter(key, rule) for key, rule in last(self._joined.items(), most))
        found = [
            one for one in (*self._in_force.values(), *joined) if one is not None and one.rule.each == "none"
        ]
        for counter in found:
            counter.advance(now)
        return found

    def _joined_counter(self, key: str, rule: Rule) -> Counter | None:
        """The counter of a joined key; None if it is the plan's, or its window is not in memory any more."""
        window = None if key in self._in_force else self._known.get(key)
        return None if window is None else Counter(rule, window)

    def consumers(self) -> list[str]:
        """The consumer or address of every window of a single one in which something is used."""
        return [owner for key, window in self._windows.items() if window.used and (owner := owner_of(key))]

    def forget(self, owner: str, *, dry_run: bool = False) -> int:
        """Forget what a consumer, or the clients of an address, have used. Returns the number of windows."""
        found = [(key, one) for key, one in self._windows.items() if one.used and is_of(key, owner)]
        for key, window in () if dry_run else found:
            window.clear()
            self._changed[key] = window
        return len(found)

    # ---- saved state

    @property
    def is_dirty(self) -> bool:
        """True if `dirty` has something to return."""
        return bool(self._changed)

    def dirty(self, most: int) -> list[tuple[str, list[Any]]]:
        """Key and state of at most `most` windows that have changed since they were returned, as JSON data; without
        slots if the window has been forgotten."""
        changed = list(islice(self._changed.items(), most))
        for key, window in changed:
            del self._changed[key]
            if not window.idle:
                self._windows[key] = window
        return [(key, [str(window.span), [list(one) for one in window.state()]]) for key, window in changed]

    def load(self, items: Iterable[tuple[str, Any]]) -> list[str]:
        """Add saved states; before the first plan comes into force. Returns the keys of states that cannot be read."""
        unreadable = []
        for key, state in items:
            try:
                span, slots = Span.of_text(state[0]), [(int(slot), int(amount)) for slot, amount in state[1]]
                if any(amount < 0 for _, amount in slots):
                    raise ValueError("a negative amount")
            except (ValueError, TypeError, LookupError, AttributeError):
                unreadable.append(key)
                continue
            window = self._windows.get(key)
            if window is None or window.span != span:
                window = self._windows[key] = self._known[key] = Window(key, span)
            window.load(slots)
            window.warned = -1
        return unreadable


def last(items: Reversible[T], most: int) -> list[T]:
    """The last `most` of these items, in their order."""
    return list(islice(reversed(items), most))[::-1]
