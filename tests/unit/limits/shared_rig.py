"""Instances that share a real server over connections that can fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from relayd import clock
from relayd.limits.counter import Counter, Rule
from relayd.limits.ledger import Ledger
from relayd.limits.shared_calls import Failed
from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.shared_reservation import Decision
from relayd.limits.shared_scripts import Script
from tests.aids.redis_connection import RedisConnection


class Master:
    """A server with a replica that lags: `replicate` brings the replica up to date, `fail_over` makes it the master."""

    def __init__(self, redis: RedisConnection) -> None:
        self.redis, self._number = redis, 1
        self.replicate()

    @property
    def id(self) -> str:
        """As the id of the replication in INFO."""
        return f"{self._number:040x}"

    def replicate(self) -> None:
        self._replica = {key: self.redis("DUMP", key) for key in self.redis("KEYS", "*")}

    def fail_over(self) -> None:
        """What was not replicated is lost."""
        self.redis("FLUSHALL")
        for key, dump in self._replica.items():
            self.redis("RESTORE", key, 0, dump)
        self._number += 1


class Line:
    """The server as one instance sees it. Calls wait for `turn`, which loses the call or its answer on demand."""

    timeout_s = 0.25

    def __init__(self, redis: RedisConnection, master: Master | None = None) -> None:
        self.redis, self.master = redis, master
        self.available = True
        self.lose_call = self.lose_answer = False
        self.waiting: deque[tuple[Script, list[str], list[Any], Callable[[Any], None]]] = deque()
        self.calls: list[str] = []

    def key(self, *parts: str) -> str:
        return ":".join(("{relayd}", *parts))

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any], on_answer: Callable[[Any], None]) -> None:
        self.waiting.append((script, list(keys), list(args), on_answer))

    def turn(self) -> None:
        """Execute one call."""
        script, keys, args, on_answer = self.waiting.popleft()
        self.calls.append(script.name)
        if self.lose_call:
            on_answer(Failed(unknown=self.available))
            return
        if self.master is not None and script.name == "join":
            args[1] = self.master.id
        answer = self.redis("EVAL", script.text, len(keys), *keys, *args)
        on_answer(Failed(unknown=True) if self.lose_answer else answer)


class Instance:
    """One relayd."""

    def __init__(
        self, redis: RedisConnection, rules: Sequence[Rule], on_failure: str = "local", master: Master | None = None,
    ) -> None:
        self.ahead_s = 0.0
        self.line = Line(redis, master)
        self.later: deque[Callable[[], None]] = deque()
        self.timers: deque[Callable[[], None]] = deque()  # until the next `sync`
        self.ledger = Ledger(self.now_s)
        self.shared = SharedLedger(self.ledger, self.line, self._later, on_failure, self.now_s)
        self.counters = [self.ledger.counter(one) for one in rules]
        self.ledger.apply(self.counters)
        self.warned: list[float] = []
        self.changes: list[bool] = []
        self.shared.on_change = lambda: self.changes.append(self.shared.is_shared)

    def now_s(self) -> float:
        return clock.monotonic() + self.ahead_s

    def _later(self, delay_s: float, step: Callable[[], None]) -> None:
        (self.timers if delay_s else self.later).append(step)

    def run(self) -> None:
        """Until nothing is waiting."""
        while self.later or self.line.waiting:
            if self.later:
                self.later.popleft()()
            else:
                self.line.turn()

    def sync(self) -> None:
        self.later += self.timers
        self.timers.clear()
        self.shared.sync()
        self.run()

    def reserve(self, *demands: tuple[Counter, int]) -> Decision:
        found: list[Decision] = []
        decided = self.shared.reserve(demands, found.append)
        self.run()
        assert (decided is None) == (len(found) == 1), "one decision"
        return found[0] if decided is None else decided
