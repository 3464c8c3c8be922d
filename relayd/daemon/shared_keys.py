"""A service that shares the keys of `relayd keys` through Redis, so that a key which is issued, rotated or revoked on
one machine is so on all of them.

1. The file of each machine stays the key store: requests and commands use only it, and all keys are known without
   Redis. This service adds to the file the changes of other machines, and to Redis the changes of the file.
2. Each TICK_S it looks for changes on both sides, so a change is in force on the other machines after about two ticks.
   While Redis is not available, changes are kept in the file. When it returns, both sides are compared completely, so
   that nothing is missed that a failover has lost.
3. Of two states of one key, a revoked one is in force before any other, and then the one that was created or rotated
   last. The order in which machines learn of them makes no difference.
4. Redis contains digests, no keys. A thread reads and writes the file. Requests do not wait for any of this.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any

from relayd import clock
from relayd.access.key_journal import KeyJournal, is_forgotten
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import FILE
from relayd.daemon.timers import Timers
from relayd.dataclass import dataclass
from relayd.plan.plan import Plan
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_server import RedisServer, Script
from relayd.telemetry.journal import Journal

TICK_S = 0.5
PAGE = 100  # records of one call
FAILED_S = 60.0  # between two log lines about the file

# KEYS: the records by id, each "rank line"; the ids by the number of their last change; the last number and the epoch.
# The epoch is a random text. It changes if Redis has lost the data, and everything is shared again.
_EPOCH = """
local MONTH = 2592000000
if redis.call('HSETNX', KEYS[3], 'epoch', ARGV[1]) == 1 then redis.call('DEL', KEYS[1], KEYS[2]) end
if redis.call('PTTL', KEYS[3]) < MONTH - 86400000 then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, MONTH) end
end
local epoch = redis.call('HGET', KEYS[3], 'epoch')
"""
# ARGV: an epoch, the number up to which changes are known, the most records. Returns the epoch, then number and record.
PULL = Script("pull_keys", _EPOCH + """
local reply = {epoch}
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[3]))
for place = 1, #ids, 2 do
  reply[#reply + 1] = ids[place + 1]
  reply[#reply + 1] = redis.call('HGET', KEYS[1], ids[place]) or ''
end
return reply
""")  # fmt: skip
# ARGV: an epoch; then id, rank and line of each record; an empty line removes it. Returns the epoch.
PUSH = Script("push_keys", _EPOCH + """
for place = 2, #ARGV, 3 do
  local id, rank, line = ARGV[place], ARGV[place + 1], ARGV[place + 2]
  local known = redis.call('HGET', KEYS[1], id)
  if line == '' then
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  elseif not known or rank > string.match(known, '^%S*') then
    redis.call('HSET', KEYS[1], id, rank .. ' ' .. line)
    redis.call('ZADD', KEYS[2], redis.call('HINCRBY', KEYS[3], 'number', 1), id)
  end
end
return epoch
""")  # fmt: skip

Change = tuple[str, str, str]
"""Id, rank and line of a record; an empty line removes it."""


def rank_of(record: KeyRecord) -> str:
    """The place of a state among all states of its key, in the order of texts: the last one is in force."""
    return f"{bool(record.revoked_s):d}{max(record.created_s, record.rotated_s):020.6f}"


@dataclass(slots=True)
class Exchange:
    """What this process knows of the data in Redis, of one epoch. `ranks` are those of the records there, by id; the
    number is that of the last known change. `status` is that of the file when it was last compared."""

    epoch: bytes = b""
    number: int = 0
    ranks: dict[str, str] = field(default_factory=dict)
    status: tuple[int, int, int] | None = None
    is_compared: bool = False


class SharedKeys:
    """The service. Owned by the lifecycle."""

    def __init__(self, server: Callable[[], RedisServer | None], folder: str, journal: Journal) -> None:
        """`server` returns the server of the store that is in force, None if the store is not shared."""
        self._find_server, self._log = server, journal
        self._file = KeyJournal(folder)
        self._path = os.path.join(folder, FILE)
        self._server: RedisServer | None = None
        self._exchange = Exchange()
        self._is_busy = False

    # ---- the service

    def commit(self, plan: Plan) -> None:
        server = self._find_server()
        if server is not self._server:
            self._server, self._exchange, self._is_busy = server, Exchange(), False
            if server is not None:
                server.on_change(lambda _: self._restart(server))

    def start(self, timers: Timers) -> None:
        timers.every("shared_keys", TICK_S, self.tick)

    def gauges(self) -> None:
        """It has none."""

    def close(self) -> None:
        """End all work; the rest is shared after the next start."""
        self._server, self._exchange = None, Exchange()

    def _restart(self, server: RedisServer) -> None:
        """Compare everything again from the next tick on."""
        if server is self._server:
            self._exchange, self._is_busy = Exchange(), False

    # ---- one exchange: pull, then write and compare the file in a thread, then push

    def tick(self) -> None:
        """Begin an exchange, unless the last one has not ended."""
        if self._server is not None and self._server.available and not self._is_busy:
            self._is_busy = True
            self._pull(self._server, self._exchange)

    def _call(
        self, server: RedisServer, exchange: Exchange, script: Script, args: Iterable[str | int],
        on_reply: Callable[[Any], None],
    ) -> None:
        def done(reply: Any) -> None:
            if exchange is not self._exchange:
                return
            if isinstance(reply, RedisFailure):
                self._restart(server)
            else:
                on_reply(reply)

        keys = [server.key("keys", name) for name in ("records", "changes", "state")]
        server.call(script, keys, [secrets.token_hex(8), *args], done, bulk=True)

    def _pull(self, server: RedisServer, exchange: Exchange) -> None:
        self._call(
            server, exchange, PULL, [exchange.number, PAGE], lambda reply: self._on_pulled(server, exchange, reply)
        )

    def _on_pulled(self, server: RedisServer, exchange: Exchange, reply: Any) -> None:
        epoch, *flat = reply
        if epoch != exchange.epoch and exchange.epoch:
            self._restart(server)
            return
        exchange.epoch = epoch
        if flat:
            exchange.number = int(float(flat[-2]))
        self._compare(server, exchange, flat[1::2])

    def _compare(self, server: RedisServer, exchange: Exchange, pulled: list[bytes]) -> None:
        """Write pulled records to the file, and compare the file if it has changed; in a thread."""
        status = self._status()
        if not pulled and exchange.is_compared and status == exchange.status:
            self._is_busy = False
            return
        is_last = len(pulled) < PAGE
        work = asyncio.get_running_loop().run_in_executor(None, self._synchronise, pulled, exchange.ranks, is_last)

        def done(finished: asyncio.Future[list[Change]]) -> None:
            error = finished.exception()
            if exchange is not self._exchange:
                return
            if error is not None:
                self._restart(server)
                self._log.limited(
                    "keys_not_shared", FAILED_S, "error", "keys_not_shared",
                    "Keys that other machines have changed are not changed here.", why=str(error),
                )
            elif not is_last:
                self._pull(server, exchange)
            else:
                exchange.status, exchange.is_compared = status, True
                self._push(server, exchange, finished.result())

        work.add_done_callback(done)

    def _push(self, server: RedisServer, exchange: Exchange, changes: list[Change]) -> None:
        if not changes:
            self._is_busy = False
            return
        page, rest = changes[:PAGE], changes[PAGE:]
        exchange.is_compared = False  # until all have been pushed

        def pushed(epoch: Any) -> None:
            if epoch != exchange.epoch:
                self._restart(server)
                return
            exchange.ranks.update((name, rank) for name, rank, _ in page)
            exchange.is_compared = not rest
            self._push(server, exchange, rest)

        self._call(server, exchange, PUSH, [word for change in page for word in change], pushed)

    # ---- the file; in a thread

    def _status(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _synchronise(self, pulled: list[bytes], ranks: dict[str, str], is_last: bool) -> list[Change]:
        """Write to the file which records of others are newer, and return those of the file that Redis does not have.
        Raises OSError, JournalFault."""
        now_s = clock.wall()
        received, forgotten = [], list[Change]()
        for text in pulled:
            rank, _, line = text.partition(b" ")
            try:
                record = KeyRecord.of_line(line)
            except ValueError:
                continue  # removed meanwhile, or not written by relayd
            ranks[record.id] = rank.decode("ascii", "replace")
            if is_forgotten(record, now_s):
                forgotten.append((record.id, "", ""))
            else:
                received.append(record)
        if received:
            self._write(received, now_s)
        if not is_last:
            return []
        return forgotten + [
            (record.id, rank_of(record), record.line().decode()) for record in self._file.read().records()
            if rank_of(record) > ranks.get(record.id, "") and not is_forgotten(record, now_s)
        ]

    def _write(self, received: Iterable[KeyRecord], now_s: float) -> None:
        with self._file.locked():
            store = self._file.read()
            known = {record.id: rank_of(record) for record in store.records()}
            newer = [record for record in received if rank_of(record) > known.get(record.id, "")]
            if newer:
                self._file.append(store, newer, now_s)
