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
   A local decision waits until no call is without an answer, because the copies do not show what such a call reserves.
5. Each connection begins with a join (Phase). The instance sends again what the server has lost of its acknowledged
   uses and of its open reservations. If the data came from another server (a failover), the server makes no decision
   for anyone until all instances have done this, at most WAIT_MS. So together they admit no more than the limit, as
   long as the instances run that know what the old server has decided.
6. Before the server decides again, it gets the open reservations that were decided locally. Requests wait meanwhile.
7. The reservations of an instance whose number in the server does not change for GONE_S are released by the others. An
   instance that only stood still adds its real amounts when it settles.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from relayd import clock
from relayd.limits.counter import Counter
from relayd.limits.gone_instances import GoneInstances
from relayd.limits.ledger import Demand, Exceeded, Ledger
from relayd.limits.shared_calls import Failed, Joined, Server, SharedCalls, Use, held, saved, uses
from relayd.limits.shared_reservation import Decision, OnDecided, SharedReservation, Unavailable
from relayd.limits.shared_windows import SharedWindows
from relayd.limits.unsent_uses import UnsentUses
from relayd.limits.window import Window

LATE_MS = 100  # a call may arrive this long after its deadline
CANCEL_S = 1.0  # after that
MOST_REFRESHED, MOST_CALLS = 50, 4  # windows that one call reads, and calls of one refresh
CLOCK_JUMP_S = 0.1
START_S = 1.0  # after the start, for the first connection
WAIT_MS = 8000  # for other instances after a failover: longer than an instance needs to find the new master
AGAIN_S = 0.1  # between two questions whether they are there
OVERLOADED_S = 0.02  # until a call is repeated for which too many waited
MOST_DECIDED = 50  # requests that have waited, in one turn
MOST_FORGOTTEN = 1000  # windows, in one turn


class Phase(enum.Enum):
    """What this instance does about its connection. A failure leads to OUT from each of them."""

    OUT = enum.auto()  # not connected
    COMPARING = enum.auto()  # asking what the server has of this instance
    MAKING_UP = enum.auto()  # sending what it has lost
    REPORTING = enum.auto()  # asking whether the other instances have done so too
    ENTERING = enum.auto()  # sending local decisions
    SHARED = enum.auto()  # the server decides


class Waiting(NamedTuple):
    """A request whose decision waits. After `until_s`, a server for which too many calls wait is not asked again."""

    demands: Sequence[Demand]
    on_decided: OnDecided
    until_s: float


class SharedLedger:
    """One per process that shares; owned by the daemon. `later` runs a step after some seconds, in a later turn of the
    loop. `on_failure` is what applies to rules without one of their own."""

    def __init__(
        self, ledger: Ledger, server: Server, later: Callable[[float, Callable[[], None]], object],
        on_failure: str = "local", now_s: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._ledger, self._server, self._later, self._now_s = ledger, server, later, now_s
        self.on_failure = on_failure
        self.on_change: Callable[[], None] = lambda: None  # `is_shared` has changed
        self._calls = SharedCalls(server)
        self._phase, self._joins = Phase.OUT, 0
        self._is_closed = self._is_deciding = False
        self._reported: bool | None = None  # the last value of `is_shared` that was reported
        self._offset_s: float | None = None  # of the server's clock
        self._number = self._syncs = self._asking = 0
        self._syncing = False
        self._starts_until_s: float | None = now_s() + START_S
        self._waiting: deque[Waiting] = deque()
        self._to_refresh: dict[str, Counter] = {}
        self._rotation: deque[Counter] = deque()
        self._open: dict[int, SharedReservation] = {}
        self._unsent = UnsentUses(
            self._calls, ledger, partial(later, 0.0), self._follow, self._on_unsent_failed, self._on_progress
        )
        self._gone = GoneInstances(self._calls, now_s)

    @property
    def is_shared(self) -> bool:
        """True if the server decides now."""
        return self._phase is Phase.SHARED and self._server.available

    @property
    def is_settled(self) -> bool:
        """True if the server has all that was used, and owes no decision."""
        return not self._asking and not self._waiting and self._unsent.is_empty

    @property
    def windows(self) -> SharedWindows:
        """What the server has counted."""
        return SharedWindows(self._server)

    # ---- decisions

    def reserve(self, demands: Sequence[Demand], on_decided: OnDecided) -> Decision | None:
        """Reserve all amounts, each of another counter, or none. With a result of None, `on_decided` gets the decision
        in a later turn."""
        if self.is_shared:
            self._ask(demands, on_decided)
        elif self._must_wait:
            self._wait(demands, on_decided)
        else:
            return self._reserve_locally(demands)
        return None

    @property
    def _must_wait(self) -> bool:
        """True if a decision without the server has to wait."""
        return self._starts_until_s is not None or self._phase is Phase.ENTERING or self._asking > 0

    def _wait(self, demands: Sequence[Demand], on_decided: OnDecided, until_s: float = 0.0) -> None:
        self._waiting.append(Waiting(demands, on_decided, until_s or self._now_s() + self._server.timeout_s))

    def _decide_waiting(self) -> None:
        """Decide requests that have waited, a bounded number of them in each turn."""
        if self._is_deciding or not self._waiting:
            return
        if self.is_shared or not self._must_wait:
            self._is_deciding = True
            self._later(0.0, self._decide_some)

    def _decide_some(self) -> None:
        self._is_deciding = False
        for _ in range(min(MOST_DECIDED, len(self._waiting))):
            demands, on_decided, until_s = self._waiting.popleft()
            decision: Decision | None = None
            if not self.is_shared:
                decision = self.reserve(demands, on_decided)
            elif until_s < self._now_s():
                decision = self._reserve_overloaded(demands)
            else:
                self._ask(demands, on_decided, until_s)
            if decision is not None:
                on_decided(decision)
        self._decide_waiting()

    def _ask(
        self, demands: Sequence[Demand], on_decided: OnDecided, until_s: float = 0.0, is_repeated: bool = False
    ) -> None:
        self._number += 1
        self._asking += 1
        expires_ms = self._ledger.now().wall_ms + int(self._server.timeout_s * 1000) + LATE_MS
        done = partial(self._on_reserved, demands, self._number, on_decided, until_s, is_repeated)
        self._calls.reserve(demands, self._number, expires_ms, done)

    def _on_reserved(
        self, demands: Sequence[Demand], number: int, on_decided: OnDecided, until_s: float, is_repeated: bool,
        answer: Any,
    ) -> None:
        self._asking -= 1
        if not self._asking and self._phase is Phase.OUT:
            self._later(0.0, self._on_quiet)
        if isinstance(answer, Failed):
            if answer.unknown:
                self._unsent.cancel(number, demands, self._now_s() + self._server.timeout_s + CANCEL_S)
            if not self.is_shared:
                self._wait(demands, on_decided)
                self._decide_waiting()
            elif answer.unknown:  # an error of the script
                on_decided(self._reserve_locally(demands))
            else:  # too many calls wait for the server
                self._wait(demands, on_decided, until_s)
                self._later(OVERLOADED_S, self._decide_waiting)
            return
        status, now_ms = answer[:2]
        self._set_time(now_ms)
        if status == 2:  # the server's clock was changed, or the call was delayed
            if not self.is_shared:
                self._wait(demands, on_decided)
                self._decide_waiting()
            elif is_repeated:
                on_decided(self._reserve_locally(demands))
            else:
                self._ask(demands, on_decided, until_s, is_repeated=True)
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
        self._open[number] = reservation = SharedReservation(self, number, entries, tuple(let_through), is_sent=True)
        on_decided(reservation)

    def _reserve_overloaded(self, demands: Sequence[Demand]) -> Decision:
        """Decide without the server, which has too many calls of this instance to take another one: the copies do not
        show what these reserve, so only a counter with the policy `open` lets through."""
        for counter, _ in demands:
            if self._policy(counter) != "open" and not counter.counts_only:
                return Unavailable(counter)
        return self._reserve_locally(demands)

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
        self._number += 1
        reservation = SharedReservation(self, self._number, entries, tuple(let_through), is_sent=False)
        self._open[self._number] = reservation
        self._unsent.hold(reservation)
        return reservation

    def _policy(self, counter: Counter) -> str:
        return "local" if self._is_closed else counter.rule.on_failure or self.on_failure

    def settle(self, reservation: SharedReservation, amounts: Sequence[int]) -> None:
        """Count the real amounts of a reservation."""
        for (counter, slot, reserved), amount in zip(reservation.entries, amounts, strict=True):
            counter.window.settle(slot, reserved, amount)
        self._open.pop(reservation.number, None)
        self._unsent.settle(reservation, amounts)
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
        self._server = server
        self._calls.move(server)
        self._starts_until_s = self._now_s() + START_S
        self._unsent.forget_acknowledged()
        self.stop_sharing()

    # ---- joining

    def sync(self) -> None:
        """Tell the server that this instance runs, and read windows. Called each second, and when the server becomes
        available."""
        if self._phase is Phase.OUT:
            self._join()
        elif self._phase is not Phase.SHARED:
            self._unsent.send()  # unless a batch is on its way
        elif not self._syncing:
            self._sync(MOST_CALLS)

    def _join(self) -> None:
        """Ask what the server has, once all calls of the last connection have ended."""
        if self._asking or self._unsent.is_sending or self._is_closed:
            return
        self._phase = Phase.COMPARING
        self._call_join(is_complete=False, on_joined=self._on_compared)

    def _on_quiet(self) -> None:
        self._decide_waiting()
        if self._phase is Phase.OUT and self._server.available:
            self._join()

    def _call_join(self, is_complete: bool, on_joined: Callable[[Joined], None]) -> None:
        joins = self._joins
        self._syncs += 1

        def done(answer: Any) -> None:
            if joins != self._joins:
                return  # of an earlier connection
            if isinstance(answer, Failed):
                self.stop_sharing()
            else:
                on_joined(Joined(*answer))

        self._calls.join(self._syncs, is_complete, WAIT_MS, () if is_complete else self._gone.running, done)

    def _on_compared(self, joined: Joined) -> None:
        self._set_time(joined.now_ms)
        self._phase, self._unsent.is_paused = Phase.MAKING_UP, False
        unknown = self._unsent.make_up(joined.now_ms, joined.batch, self._open, joined.open)
        if unknown:
            self._calls.leave(self._calls.instance, str(self._syncs), partial(self._on_own_open, unknown))
        self._unsent.send()

    def _on_own_open(self, unknown: set[int], answer: Any) -> None:
        """Release reservations of this instance in the server of which it knows nothing: they have ended so long ago
        that their ends are not kept any more."""
        lost = [one for one in held(answer) if one.number in unknown] if isinstance(answer, list) else []
        if lost:
            self._calls.release(self._calls.instance, lost, lambda answer: None)

    def _on_progress(self) -> None:
        """A batch was acknowledged, or there is none."""
        if self._phase is Phase.MAKING_UP and self._unsent.is_made_up:
            self._phase = Phase.REPORTING
            self._call_join(is_complete=True, on_joined=self._on_reported)
        elif self._phase is Phase.ENTERING and self._unsent.is_level:
            self._phase = Phase.SHARED
            self._starts_until_s = None
            self._report(is_shared=True)
            self._decide_waiting()
            self.sync()  # the copies, with the amounts that were sent
        elif self._phase is Phase.OUT and not self._unsent.is_sending:
            self._later(0.0, self._on_quiet)

    def _on_reported(self, joined: Joined) -> None:
        if joined.missing:
            self._end_start()
            self._later(AGAIN_S, partial(self._report_again, self._joins))
            return
        self._phase = Phase.ENTERING
        self._unsent.make_local()
        self._unsent.send()

    def _report_again(self, joins: int) -> None:
        if joins == self._joins and self._phase is Phase.REPORTING:
            self._call_join(is_complete=True, on_joined=self._on_reported)

    def _on_unsent_failed(self, failed: Failed) -> None:
        if failed.unknown or not self._server.available:
            self.stop_sharing()

    # ---- reading

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
        self._calls.sync(counters, self._syncs, partial(self._on_sync, counters, self._joins, calls - 1))

    def _on_sync(self, counters: Sequence[Counter], joins: int, calls: int, answer: Any) -> None:
        self._syncing = False
        if joins != self._joins:
            self.sync()  # that was an earlier connection
            return
        if isinstance(answer, Failed):
            if answer.unknown or not self._server.available:
                self.stop_sharing()
            return
        self._set_time(answer[0])
        if self._unsent.has_lost(answer[2]):  # somebody has emptied the database
            self.stop_sharing()
            self.sync()
            return
        for counter, fields in zip(counters, answer[3:], strict=True):
            window, used = counter.window, counter.window.used
            window.replace(*saved(fields))
            self._unsent.add_to(window)
            counter.advance(self._ledger.now())
            if window.queue and window.used < used:
                window.queue.wake()
        self._gone.observe(answer[1])
        self._unsent.send()
        if not calls:
            self._to_refresh.clear()  # the next use corrects them
        elif self._to_refresh and not self._syncing:
            self._sync(calls)

    def stop_sharing(self) -> None:
        """Decide locally until a `join` succeeds."""
        self._gone.forget()
        self._phase, self._unsent.is_paused = Phase.OUT, True
        self._joins += 1
        self._end_start()
        if self._starts_until_s is None:
            self._report(is_shared=False)
            self._decide_waiting()

    def _end_start(self) -> None:
        """After START_S, do not wait for the first connection any more."""
        if self._starts_until_s is not None and (self._is_closed or self._now_s() >= self._starts_until_s):
            self._starts_until_s = None
            self._report(is_shared=False)
            self._decide_waiting()

    def _report(self, is_shared: bool) -> None:
        if is_shared != self._reported:
            self._reported = is_shared
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
        self._forget_others(self._ledger.windows())

    def _forget_others(self, windows: Sequence[Window]) -> None:
        """Take what other instances hold out of the copies, a bounded number in each turn: nobody would settle it."""
        own: dict[str, dict[int, int]] = {}
        for reservation in self._open.values():
            for counter, slot, amount in reservation.entries:
                slots = own.setdefault(counter.window.key, {})
                slots[slot] = slots.get(slot, 0) + amount
        for window in windows[:MOST_FORGOTTEN]:
            if window.held:
                window.hold_only(own.get(window.key, {}))
                if window.queue:
                    window.queue.wake()
        if len(windows) > MOST_FORGOTTEN:
            self._later(0.0, partial(self._forget_others, windows[MOST_FORGOTTEN:]))

    def leave(self, on_left: Callable[[], None]) -> None:
        """Forget this instance in the server, if it has no reservations."""
        self._gone.leave(self._calls.instance, str(self._syncs), on_left)


