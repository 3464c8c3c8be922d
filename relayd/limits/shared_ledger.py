"""Rates and budgets that several instances count together in a server: the same decisions as those of `Ledger`.

Laws:
1. The server decides, by its time, in one call for all counters of a reservation. The windows in memory are copies of
   its state: fields of responses, waiting, warnings and status read them.
2. What a reservation has used is sent in batches, in a later turn. A batch is repeated until it is acknowledged, and
   the server applies it once; so nothing is lost or counted twice, whatever happens to a call.
3. A reservation whose call has an unknown result is cancelled after the time at which the server would still accept it.
4. While the server is not available, a counter follows its `on_failure`: `local` decides by the copies, `open` lets
   through, `closed` refuses. What is used meanwhile is kept by window and slot, and is added when the server is back.
   Requests of the first START_S wait for the first connection, so that a restart neither exceeds a limit nor refuses.
5. After an outage, reservations that the server still has although they have ended are ended again: a failover has lost
   that.
6. The reservations of an instance whose number in the server does not change for GONE_S are released by the others. An
   instance that only stood still adds its real amounts when it settles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from relayd import clock
from relayd.limits.counter import Counter
from relayd.limits.gone_instances import GoneInstances
from relayd.limits.ledger import Demand, Exceeded, Ledger, Warned
from relayd.limits.shared_calls import Failed, Server, SharedCalls, Use, held, saved, uses
from relayd.limits.unsent_uses import UnsentUses

LATE_MS = 100  # a call may arrive this long after its deadline
CANCEL_S = 1.0  # after that
MOST_REFRESHED, MOST_CALLS = 50, 4  # windows that one call reads, and calls of one refresh
CLOCK_JUMP_S = 0.1
START_S = 1.0  # after the start, for the first connection


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A refused reservation: the server is not available, and this counter is `closed` then."""

    counter: Counter


class SharedReservation:
    """As `Reservation`. `number` is 0 if it was decided locally."""

    __slots__ = ("_ledger", "_open", "entries", "let_through", "number")

    def __init__(
        self, ledger: SharedLedger, number: int, entries: tuple[tuple[Counter, int, int], ...],
        let_through: tuple[Counter, ...],
    ) -> None:
        self._ledger, self.number, self.entries, self.let_through = ledger, number, entries, let_through
        self._open = True

    def settle(self, amounts: Sequence[int]) -> Sequence[Warned]:
        """Replace the reserved amounts by the real ones. Thresholds are reported when the server has counted."""
        if self._open:
            self._open = False
            self._ledger.settle(self, amounts)
        return ()

    def refund(self) -> None:
        """Take all reserved amounts back."""
        self.settle([0] * len(self.entries))


Decision = SharedReservation | Exceeded | Unavailable
OnDecided = Callable[[Decision], None]


class SharedLedger:
    """One per process that shares; owned by the daemon. `later` runs a step in a later turn of the loop. `on_failure`
    is what applies to rules without one of their own."""

    def __init__(
        self, ledger: Ledger, server: Server, later: Callable[[Callable[[], None]], object], on_failure: str = "local",
        now_s: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._ledger, self._server, self._now_s = ledger, server, now_s
        self.on_failure = on_failure
        self.on_change: Callable[[], None] = lambda: None  # `is_shared` has changed
        self._calls = SharedCalls(server)
        self._is_shared = self._is_synced = self._is_closed = False
        self._offset_s: float | None = None  # of the server's clock
        self._number = self._syncs = self._asking = 0
        self._syncing = False
        self._starts_until_s: float | None = now_s() + START_S
        self._early: list[tuple[Sequence[Demand], OnDecided]] = []
        self._to_refresh: dict[str, Counter] = {}
        self._rotation: deque[Counter] = deque()
        self._open: set[int] = set()  # reservations that the server has or may have
        self._was_shared = False
        self._unsent = UnsentUses(self._calls, ledger, later, self._follow, self.stop_sharing, self._on_settled,
                                   self._open.discard)  # fmt: skip
        self._gone = GoneInstances(self._calls, now_s)

    @property
    def is_shared(self) -> bool:
        """True if the server decides now."""
        return self._is_shared and self._server.available

    @property
    def is_settled(self) -> bool:
        """True if the server has all that was used, and owes no decision."""
        return not self._asking and not self._early and self._unsent.is_empty

    # ---- decisions

    def reserve(self, demands: Sequence[Demand], on_decided: OnDecided) -> Decision | None:
        """Reserve all amounts, each of another counter, or none. With a result of None, `on_decided` gets the decision
        in a later turn."""
        if self._starts_until_s is not None:
            self._early.append((demands, on_decided))
            return None
        if not self.is_shared:
            return self._reserve_locally(demands)
        self._ask(demands, on_decided, is_repeated=False)
        return None

    def _end_start(self) -> None:
        """Decide the requests that have waited for the first connection."""
        self._starts_until_s = None
        early, self._early = self._early, []
        for demands, on_decided in early:
            decision = self.reserve(demands, on_decided)
            if decision is not None:
                on_decided(decision)

    def _ask(self, demands: Sequence[Demand], on_decided: OnDecided, is_repeated: bool) -> None:
        self._number += 1
        self._asking += 1
        self._open.add(self._number)
        expires_ms = self._ledger.now().wall_ms + int(self._server.timeout_s * 1000) + LATE_MS
        done = partial(self._on_reserved, demands, self._number, on_decided, is_repeated)
        self._calls.reserve(demands, self._number, expires_ms, done)

    def _on_reserved(
        self, demands: Sequence[Demand], number: int, on_decided: OnDecided, is_repeated: bool, answer: Any
    ) -> None:
        self._asking -= 1
        if isinstance(answer, Failed):
            if answer.unknown:
                self._unsent.cancel(number, demands, self._now_s() + self._server.timeout_s + CANCEL_S)
            else:
                self._open.discard(number)
            on_decided(self._reserve_locally(demands))
            return
        status, now_ms = answer[:2]
        self._set_time(now_ms)
        if status != 1:
            self._open.discard(number)
        if status == 2:  # the server's clock was changed, or the call was delayed
            if is_repeated or not self.is_shared:
                on_decided(self._reserve_locally(demands))
            else:
                self._ask(demands, on_decided, is_repeated=True)
            return
        states = uses(answer[2 if status else 4 :])
        self._follow([counter for counter, _ in demands], states)
        if not status:
            index, free_ms = answer[2:4]
            retry_after_s = None if free_ms < 0 else max(0.0, (free_ms - now_ms) / 1000)
            counter, amount = demands[index - 1]
            on_decided(Exceeded(counter, amount, retry_after_s))
            return
        let_through = []
        for (counter, amount), state in zip(demands, states, strict=True):
            counter.window.pending += 1
            if counter.counts_only and (state.used - amount >= counter.limit or state.used > counter.limit):
                let_through.append(counter)
        entries = tuple([
            (counter, state.slot, amount) for (counter, amount), state in zip(demands, states, strict=True)
        ])
        on_decided(SharedReservation(self, number, entries, tuple(let_through)))

    def _reserve_locally(self, demands: Sequence[Demand]) -> Decision:
        now = self._ledger.now()
        let_through: list[Counter] = []
        for counter, amount in demands:
            counter.advance(now)
            has_room, policy = counter.window.has_room(amount, counter.limit), self._policy(counter)
            if counter.counts_only:
                let_through += [] if has_room else [counter]
            elif policy == "closed":
                return Unavailable(counter)
            elif policy == "local" and not has_room:
                return self._ledger.exceeded([one for one in demands if self._policy(one[0]) == "local"], now)
        entries = tuple([(counter, counter.window.reserve(amount), amount) for counter, amount in demands])
        self._unsent.hold(entries)
        return SharedReservation(self, 0, entries, tuple(let_through))

    def _policy(self, counter: Counter) -> str:
        return "local" if self._is_closed else counter.rule.on_failure or self.on_failure

    def settle(self, reservation: SharedReservation, amounts: Sequence[int]) -> None:
        """Count the real amounts of a reservation."""
        for (counter, slot, reserved), amount in zip(reservation.entries, amounts, strict=True):
            counter.window.settle(slot, reserved, amount)
        self._unsent.settle(reservation.number, reservation.entries, amounts)
        if self.is_shared:
            self._unsent.send_later()

    def used_up(self, counters: Iterable[Counter]) -> Counter | None:
        """A counter that certainly refuses every request now: the settled amounts use it up."""
        now = self._ledger.now()
        for counter in counters:
            if counter.advance(now) - counter.window.held >= counter.limit and (
                self.is_shared or (self._starts_until_s is None and self._policy(counter) == "local")
            ):
                return counter
        return None

    # ---- the copies

    def _follow(self, counters: Iterable[Counter], states: Iterable[Use]) -> None:
        """Set copies to what the server has answered, until the next `sync` reads them wholly."""
        for counter, state in zip(counters, states, strict=True):
            self._to_refresh[counter.window.key] = counter
            if not self._unsent.concerns(counter.window):
                counter.window.follow(*state)

    def move(self, server: Server) -> None:
        """Count in another server from now on. What is not acknowledged yet is sent there; requests wait for the first
        connection, as after a start."""
        self._server = self._calls.server = server
        self._starts_until_s = self._now_s() + START_S
        self.stop_sharing()

    def sync(self) -> None:
        """Tell the server that this instance runs, and read windows. Called each second, and when the server becomes
        available."""
        if not self._syncing:
            self._sync(MOST_CALLS)

    def _sync(self, calls: int) -> None:
        self._syncing = True
        self._syncs += 1
        if not self._rotation:
            self._rotation.extend(self._ledger.in_force())
        some = dict(list(self._to_refresh.items())[:MOST_REFRESHED])
        for key in some:
            del self._to_refresh[key]
        while self._rotation and len(some) < MOST_REFRESHED:
            counter = self._rotation.popleft()
            some[counter.window.key] = counter
        counters = list(some.values())
        self._calls.sync(counters, self._syncs, partial(self._on_sync, counters, calls - 1))

    def _on_sync(self, counters: Sequence[Counter], calls: int, answer: Any) -> None:
        self._syncing = False
        if isinstance(answer, Failed):
            self.stop_sharing()
            return
        self._set_time(answer[0])
        for counter, fields in zip(counters, answer[2:], strict=True):
            window, used = counter.window, counter.window.used
            window.replace(*saved(fields))
            self._unsent.add_to(window)
            counter.advance(self._ledger.now())
            if window.queue and window.used < used:
                window.queue.wake()
        self._gone.observe(answer[1])
        self._is_synced = True
        self._unsent.send()
        if not calls:
            self._to_refresh.clear()  # the next use corrects them
        elif self._to_refresh and not self._syncing:
            self._sync(calls)

    def _on_settled(self) -> None:
        """The server has all that was used meanwhile: it decides again."""
        if self._is_synced and not self._is_shared:
            self._is_shared = True
            self._end_start()
            self.on_change()
            self.sync()  # the copies, with the amounts that were sent
            if self._was_shared:
                self._calls.leave(self._calls.instance, str(self._syncs), self._on_own_open)
            self._was_shared = True

    def _on_own_open(self, answer: Any) -> None:
        """End reservations that the server still has although they have ended: a failover has lost their ends."""
        found = [one for one in held(answer) if one.number not in self._open] if isinstance(answer, list) else []
        unknown = self._unsent.repeat(one.number for one in found)
        if found:
            self._unsent.send_later()
        if unknown:
            lost = [one for one in found if one.number in unknown]
            self._calls.release(self._calls.instance, lost, lambda answer: None)

    def stop_sharing(self) -> None:
        """Decide locally until a `sync` succeeds."""
        self._gone.forget()
        self._is_synced = False
        if self._starts_until_s is not None and self._now_s() >= self._starts_until_s:
            self._end_start()
        if self._is_shared:
            self._is_shared = False
            self.on_change()

    def _set_time(self, now_ms: int) -> None:
        """Take over the server's time. An answer is always a little late, so the largest difference is the best, unless
        a clock was changed."""
        if self._is_closed:
            return
        offset_s = now_ms / 1000 - self._now_s()
        if self._offset_s is None or not self._offset_s - CLOCK_JUMP_S <= offset_s <= self._offset_s:
            self._offset_s = offset_s
            self._ledger.follow_time(offset_s)

    def close(self) -> None:
        """The store is not shared any more: count by the clocks of this machine, and decide what still waits locally,
        whatever `on_failure` is."""
        self._is_closed = True
        self._ledger.follow_own_time()
        self.stop_sharing()
        if self._starts_until_s is not None:
            self._end_start()

    def leave(self, on_left: Callable[[], None]) -> None:
        """Forget this instance in the server, if it has no reservations."""
        self._gone.leave(self._calls.instance, str(self._syncs), on_left)


