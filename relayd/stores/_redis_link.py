"""One connection to Redis: operations go out once in a turn of the loop, all together, and their replies come in order.

1. `send` only queues. The bytes of all operations of a turn are one write.
2. An operation ends exactly once, in a later turn: by its reply, at its deadline, or with the connection.
3. An operation that was not written has certainly not been executed; one that was written without a reply may have
   been.
4. The replies of one turn are delivered for at most TURN_S; the rest follows in the next turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from relayd import clock
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._resp import ProtocolFault, ReplyParser

TURN_S = 0.003
_DELIVERED_AT_ONCE = 32

Done = Callable[[Any], None]


class Operation:
    """One command or script. `repeat` is its form without the script's digest, for a server that does not know it;
    `slot` is the slot of its keys in a Cluster, or -1; `tries` counts its redirections."""

    __slots__ = ("bulk", "deadline_s", "on_done", "payload", "repeat", "slot", "tries")

    def __init__(
        self, payload: bytes, on_done: Done, deadline_s: float, slot: int = -1, bulk: bool = False,
        repeat: Callable[[], bytes] | None = None,
    ) -> None:
        self.payload, self.on_done, self.deadline_s, self.slot, self.bulk = payload, on_done, deadline_s, slot, bulk
        self.repeat = repeat
        self.tries = 0


class Delivery:
    """Results on their way to `on_done`, in order. Owned by the server; shared by its links."""

    __slots__ = ("_is_due", "_loop", "_results")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._results: deque[tuple[Done, Any]] = deque()
        self._is_due = False

    def add(self, on_done: Done, result: Any) -> None:
        """Call `on_done` with the result in the next turn."""
        self._results.append((on_done, result))
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        results = self._results
        end_s = clock.monotonic() + TURN_S
        try:
            while results:
                for _ in range(min(len(results), _DELIVERED_AT_ONCE)):
                    on_done, result = results.popleft()
                    on_done(result)
                if clock.monotonic() > end_s:
                    break
        finally:  # also if a callback raises: its error is the loop's, the other results are delivered
            self._is_due = bool(results)
            if results:
                self._loop.call_soon(self._run)


class Link(asyncio.Protocol):
    """An open connection, or one that is being opened: operations are queued until `open`."""

    __slots__ = (
        "_flush_due", "_loop", "_on_end", "_on_reply", "_parser", "_queue", "_release", "_sent", "_timer",
        "_timer_deadline_s", "_transport", "ended", "retiring",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_reply: Callable[[Link, Operation, Any], None],
        on_end: Callable[[Link, RedisFailure, list[Operation], list[Operation]], None],
    ) -> None:
        """`on_end` gets the failure, the operations that may have been executed, and those that were not."""
        self._loop, self._on_reply, self._on_end = loop, on_reply, on_end
        self._parser = ReplyParser()
        self._queue: list[Operation] = []
        self._sent: deque[Operation] = deque()
        self._transport: asyncio.Transport | None = None
        self._release: Callable[[], None] = lambda: None
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline_s = 0.0
        self.ended = self.retiring = False

    def open(self, transport: asyncio.Transport, release: Callable[[], None]) -> None:
        """Take over an authenticated connection; `release` is called when it has ended."""
        self._transport, self._release = transport, release
        transport.set_protocol(self)
        if transport.is_closing():
            self.end(RedisFailure("lost", "the connection was closed"))
        elif self._queue:
            self.flush()

    @property
    def waiting(self) -> int:
        """The number of operations without a reply."""
        return len(self._queue) + len(self._sent)

    def send(self, operation: Operation) -> None:
        """Queue an operation for the end of this turn."""
        self._queue.append(operation)
        if not self._flush_due and self._transport is not None:
            self._flush_due = True
            self._loop.call_soon(self.flush)
        if self._timer is not None and self._timer_deadline_s <= operation.deadline_s:
            return
        if self._timer is not None:  # of the probe, which may take longer
            self._timer.cancel()
        self._set_timer(operation.deadline_s)

    def retire(self) -> None:
        """Take no further operations, and close after the last reply."""
        self.retiring = True
        if not self.waiting:
            self.end(RedisFailure("closed", "the connection was replaced"))

    def end(self, failure: RedisFailure) -> None:
        """Close at once. All operations fail."""
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            if failure.cause == "closed":
                self._transport.close()  # what was written is still sent
            else:
                self._transport.abort()
            self._release()
        sent, queued = list(self._sent), self._queue
        self._sent.clear()
        self._queue = []
        self._on_end(self, failure, sent, queued)

    def flush(self) -> None:
        """Write all queued operations."""
        self._flush_due = False
        if self.ended or not self._queue or self._transport is None:
            return
        queue, self._queue = self._queue, []
        if self._transport.is_closing():
            self._queue = queue
            self.end(RedisFailure("lost", "the connection was closed"))
            return
        self._sent.extend(queue)
        self._transport.write(b"".join([operation.payload for operation in queue]))

    # ---- the transport's calls

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._parser.parse(data)
        except ProtocolFault as fault:
            self.end(RedisFailure("protocol", str(fault)))
            return
        sent = self._sent
        for reply in replies:
            if not sent:
                self.end(RedisFailure("protocol", "a reply without an operation"))
                return
            self._on_reply(self, sent.popleft(), reply)
        if self.retiring and not self.waiting:
            self.end(RedisFailure("closed", "the connection was replaced"))

    def eof_received(self) -> None:
        self.end(RedisFailure("lost", "Redis has closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        self.end(RedisFailure("lost", f"the connection was lost: {error}" if error else "the connection was closed"))

    # ---- deadlines

    def _set_timer(self, deadline_s: float) -> None:
        due_s = self._loop.time() + max(0.0, deadline_s - clock.monotonic())
        self._timer, self._timer_deadline_s = self._loop.call_at(due_s, self._on_deadline), deadline_s

    def _oldest_deadline_s(self) -> float | None:
        if self._sent:
            return self._sent[0].deadline_s
        return self._queue[0].deadline_s if self._queue else None

    def _on_deadline(self) -> None:
        """A deadline may have passed. A reply that has arrived while the loop was busy is read first, which takes two
        turns from here."""
        self._timer = None
        deadline_s = self._oldest_deadline_s()
        if self.ended or deadline_s is None:
            return
        if deadline_s > clock.monotonic():
            self._set_timer(deadline_s)
        else:
            self._loop.call_soon(self._loop.call_soon, self._end_if_late)

    def _end_if_late(self) -> None:
        deadline_s = self._oldest_deadline_s()
        if self.ended or deadline_s is None or self._timer is not None:
            return
        if deadline_s > clock.monotonic():
            self._set_timer(deadline_s)
        else:
            self.end(RedisFailure("timeout", "Redis has not replied in time"))
