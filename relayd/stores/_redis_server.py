"""A Redis or Valkey server, a master named by Sentinels, or a Cluster, as the store and shared limits use it.

1. `call` and `command` only queue. All operations of one turn of the loop go out together on the same connection, and
   turns do not wait for each other's replies.
2. `on_done` is called exactly once, in a later turn, with the reply or with a RedisFailure, at latest after the
   deadline. A RedisFailure says whether the operation may have been executed.
3. A failure of the server makes `available` False. Until a new connection has passed a probe, which includes a write,
   operations fail at once.
4. Only masters are used, so no reply is older than an acknowledged write to the same server.
5. Scripts and small commands have a connection of their own, so that large values (`bulk`) do not delay decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

from relayd import clock, registry
from relayd.dataclass import dataclass
from relayd.stores._redis_failure import RedisFailure, failure_of
from relayd.stores._redis_link import Delivery, Done, Link, Operation
from relayd.stores._redis_settings import Address, RedisSettings
from relayd.stores._resp import ErrorReply, encode_arguments, encode_command

MOST_WAITING = 8192
MOST_WAITING_BYTES = 64 * 1024 * 1024
CONNECT_S = 2.0  # at least, for connection, authentication and probe
BULK_S = 2.0  # at least, the deadline of operations with large values
FIRST_DELAY_S, MOST_DELAY_S = 0.05, 2.0
STABLE_S = 1.0  # a connection that fails sooner, although it has passed the probe, counts as a failed attempt
MOST_REDIRECTIONS = 5
REDIRECTION_DELAY_S = 0.02
PROBE_TTL_MS = 60_000
HEARTBEAT_S = 3.0
KEYS_OF_KNOWN = 4  # at most, of a call whose encoded head is kept


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; `sha1` names it to the server once it knows it."""

    name: str
    text: str
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha1", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class Node:
    """The two connections to one server."""

    __slots__ = ("bulk", "fast")

    def __init__(self, fast: Link, bulk: Link) -> None:
        self.fast, self.bulk = fast, bulk


class RedisServer:
    """Owned by the store, used on the loop. `calls` counts operations, `failures` failed ones by cause. `on_latency`
    gets the seconds that each operation has taken."""

    def __init__(
        self, settings: RedisSettings, chance: Callable[[], float] = random.random, scripts: Sequence[Script] = ()
    ) -> None:
        """Begins to connect. `scripts` are loaded into the server with each connection; others when they are called.
        Raises ImportError without python3-redis."""
        self.settings = settings
        self.available = False
        self.cause = RedisFailure("connect", "not yet connected")
        self.is_new = True  # the first connection has neither succeeded nor failed
        self.since_wall = clock.wall()
        self._since_s, self._delay_s = clock.monotonic(), 0.0
        self.calls = 0
        self.failures: dict[str, int] = {}
        self.on_latency: Callable[[float], None] | None = None
        self._client: Any = registry.load("relayd.stores._redis", "client")
        self._chance, self._scripts = chance, scripts
        self._loop = asyncio.get_running_loop()
        self._delivery = Delivery(self._loop)
        self._listeners: list[Callable[[bool], None]] = []
        self._nodes: dict[Address, Node] = {}
        self._links: set[Link] = set()
        self._main: Node | None = None
        self._slots: list[tuple[int, int, Address]] = []
        self._waiting = self._waiting_bytes = 0
        self._closed = False
        self._tag = "{" + settings.prefix + "}"
        self._probe = "SET", self.key("probe", f"{os.getpid()}"), "1", "PX", str(PROBE_TTL_MS)
        self._probe_slot = self._client.key_slot(self._probe[1]) if settings.cluster else -1
        self._connecting = self._loop.create_task(self._connect())
        self._checking: asyncio.Task[None] | None = None
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)

    # ---- the interface

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes], on_done: Done, *,
        bulk: bool = False,
    ) -> None:
        """Run a script with keys of one slot. `bulk`: its arguments or its reply may be large."""
        if self._is_refused(on_done):
            return
        head = (_known_head if len(keys) <= KEYS_OF_KNOWN else _head_of)(script.sha1, *keys)
        count, body = encode_arguments(args)
        payload = b"*%d\r\n%b%b" % (3 + len(keys) + count, head, body)

        def repeat() -> bytes:
            return encode_command(("EVAL", script.text, len(keys), *keys, *args))

        self._send(payload, on_done, keys[0] if keys else "", bulk, repeat)

    def command(self, *arguments: str | int | bytes, on_done: Done, bulk: bool = False) -> None:
        """Run an ordinary command, whose first argument is its key."""
        if not self._is_refused(on_done):
            self._send(encode_command(arguments), on_done, str(arguments[1]) if len(arguments) > 1 else "", bulk)

    @property
    def waiting(self) -> int:
        """The number of operations without a reply."""
        return self._waiting

    def on_change(self, callback: Callable[[bool], None]) -> None:
        """Call back when `available` has changed, with its value."""
        self._listeners.append(callback)

    def key(self, *parts: str) -> str:
        """A key that shares its slot with all others of this function, so that one script may use several."""
        return ":".join((self._tag, *parts))

    def spread_key(self, tag: str, *parts: str) -> str:
        """A key that shares its slot only with those of the same tag."""
        return ":".join((self.settings.prefix, "{" + tag + "}", *parts))

    def describe(self) -> dict[str, object]:
        """The state, for status."""
        return {
            "server": self.settings.label, "available": self.available, "since": round(self.since_wall, 3),
            "cause": None if self.available else self.cause.cause, "why": "" if self.available else self.cause.text,
        }

    def close(self) -> None:
        """Close all connections. Operations without a reply fail."""
        if self._closed:
            return
        self._closed = True
        self._connecting.cancel()
        if self._checking is not None:
            self._checking.cancel()
        self._heartbeat.cancel()
        for link in self._links:
            link.flush()
        self._become(False, RedisFailure("closed", "the store was closed"))
        for link in list(self._links):
            link.end(RedisFailure("closed", "the store was closed"))

    # ---- operations

    def _is_refused(self, on_done: Done) -> bool:
        self.calls += 1
        if not self.available:
            failure = RedisFailure(self.cause.cause, self.cause.text)
        elif self._waiting >= MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES:
            failure = RedisFailure("overloaded", f"{self._waiting} operations wait for Redis")
        else:
            return False
        self._count(failure)
        self._delivery.add(on_done, failure)
        return True

    def _send(
        self, payload: bytes, on_done: Done, key: str, bulk: bool, repeat: Callable[[], bytes] | None = None
    ) -> None:
        timeout_s = max(BULK_S, self.settings.timeout_s) if bulk else self.settings.timeout_s
        slot = self._client.key_slot(key) if self.settings.cluster else -1
        operation = Operation(payload, on_done, clock.monotonic() + timeout_s, slot, bulk, repeat)
        self._queue(self._link_for(operation), operation)

    def _queue(self, link: Link, operation: Operation) -> None:
        self._waiting += 1
        self._waiting_bytes += len(operation.payload)
        link.send(operation)

    def _link_for(self, operation: Operation) -> Link:
        node = self._main
        if operation.slot >= 0:
            address = next((where for first, last, where in self._slots if first <= operation.slot <= last), None)
            node = self._nodes.get(address, node) if address is not None else node
        assert node is not None
        return node.bulk if operation.bulk else node.fast

    def _finish(self, operation: Operation, result: Any) -> None:
        self._waiting -= 1
        self._waiting_bytes -= len(operation.payload)
        if isinstance(result, RedisFailure):
            self._count(result)
        elif self.on_latency is not None:
            timeout_s = max(BULK_S, self.settings.timeout_s) if operation.bulk else self.settings.timeout_s
            self.on_latency(clock.monotonic() - operation.deadline_s + timeout_s)
        self._delivery.add(operation.on_done, result)

    def _count(self, failure: RedisFailure) -> None:
        self.failures[failure.cause] = self.failures.get(failure.cause, 0) + 1

    def _on_reply(self, link: Link, operation: Operation, reply: Any) -> None:
        if not isinstance(reply, ErrorReply):
            self._finish(operation, reply)
        elif reply.code == "NOSCRIPT" and operation.repeat is not None:
            self._waiting_bytes -= len(operation.payload)
            operation.payload = operation.repeat()
            operation.repeat = None
            self._waiting_bytes += len(operation.payload)
            self._resend(link, operation)
        elif reply.code in ("MOVED", "ASK", "TRYAGAIN") and operation.tries < MOST_REDIRECTIONS:
            operation.tries += 1
            self._redirect(link, operation, reply)
        else:
            failure = failure_of(reply)
            self._finish(operation, failure)
            if failure.is_server_failure and not link.retiring:
                self._fail(failure)

    def _resend(self, link: Link, operation: Operation) -> None:
        if link.ended or link.retiring:
            self._finish(operation, RedisFailure(self.cause.cause, self.cause.text))
        else:
            link.send(operation)

    def _redirect(self, link: Link, operation: Operation, reply: ErrorReply) -> None:
        """Repeat an operation where a Cluster wants it: it was not executed."""
        if reply.code == "TRYAGAIN":
            self._loop.call_later(REDIRECTION_DELAY_S, self._resend, link, operation)
            return
        host, _, port = reply.text.split(" ")[-1].rpartition(":")
        settings_address = self.settings.addresses[0]
        address = (host or settings_address[0], int(port)) if port.isdigit() else ("", 0)
        node = self._nodes.get(address)
        if node is None:  # a new node: the topology is read again
            self._finish(operation, RedisFailure("cluster", reply.text))
            self._fail(RedisFailure("cluster", reply.text))
            return
        target = node.bulk if operation.bulk else node.fast
        if reply.code == "MOVED":
            self._slots.insert(0, (operation.slot, operation.slot, address))
        else:
            asking = Operation(encode_command(("ASKING",)), _ignore, operation.deadline_s, bulk=operation.bulk)
            self._queue(target, asking)
        self._resend(target, operation)

    def _on_link_end(
        self, link: Link, failure: RedisFailure, sent: list[Operation], queued: list[Operation]
    ) -> None:
        self._links.discard(link)
        if not link.retiring and not self._closed:
            self._fail(failure)
        for operation in sent:
            self._finish(operation, RedisFailure(failure.cause, failure.text, unknown=True))
        for operation in queued:
            self._finish(operation, RedisFailure(failure.cause, failure.text))

    # ---- availability

    def _become(self, available: bool, cause: RedisFailure | None = None) -> None:
        if cause is not None:
            self.cause = cause
        if available != self.available:
            self.available = available
            self.since_wall, self._since_s = clock.wall(), clock.monotonic()
            for callback in self._listeners:
                callback(available)

    def _fail(self, failure: RedisFailure) -> None:
        """The server has failed: replace its connections. Those with operations close after their replies."""
        if not self.available:
            return
        if clock.monotonic() - self._since_s >= STABLE_S:
            self._delay_s = 0.0
        self._become(False, failure)
        self._retire_all()
        self._connecting = self._loop.create_task(self._connect())

    def _beat(self) -> None:
        """Probe the server, so that a failure is noticed, and visible, also without requests."""
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)
        if self.available:
            deadline_s = clock.monotonic() + self.settings.timeout_s
            probe = Operation(encode_command(self._probe), _ignore, deadline_s, self._probe_slot)
            self._queue(self._link_for(probe), probe)
            if self.settings.sentinel is not None and (self._checking is None or self._checking.done()):
                self._checking = self._loop.create_task(self._check_master())

    async def _check_master(self) -> None:
        """Leave a master that the Sentinels have replaced, but which has not noticed it."""
        used = self._main
        try:
            address = await self._client.master_address(self.settings, self._connect_s)
        except RedisFailure:
            return  # the master in use still works
        if used is not None and used is self._main and address not in self._nodes:
            self._fail(RedisFailure("no_master", "the Sentinels name another master"))

    def _retire_all(self) -> None:
        self._main = None
        self._nodes.clear()
        for link in list(self._links):
            link.retire()

    async def _connect(self) -> None:
        """Connect until it succeeds, with growing delays: at once only after a connection that was stable."""
        while True:
            delay_s = self._delay_s
            if delay_s:
                await asyncio.sleep(delay_s * (0.5 + self._chance()))
            self._delay_s = min(MOST_DELAY_S, max(FIRST_DELAY_S, delay_s * 2))
            try:
                async with asyncio.timeout(self._connect_s * 2):
                    await self._connect_once()
                break
            except Exception as error:  # rescue door: whatever the library raises, relayd connects again
                if isinstance(error, RedisFailure):
                    failure = error
                elif isinstance(error, TimeoutError):
                    failure = RedisFailure("timeout", "Redis does not answer")
                else:
                    failure = RedisFailure("connect", f"{type(error).__name__}: {error}")
                self._retire_all()
                self.cause, self.is_new = failure, False
                self._count(failure)
        self.is_new = False
        self._become(True)

    @property
    def _connect_s(self) -> float:
        return max(CONNECT_S, self.settings.timeout_s)

    async def _connect_once(self) -> None:
        settings, client = self.settings, self._client
        if settings.sentinel is not None:
            main = await client.master_address(settings, self._connect_s)
        else:
            main = await self._first_reachable()
        addresses = [main]
        self._slots = []
        if settings.cluster:
            link = await self._open(main)
            self._slots = _slots_of(await self._ask(link, "CLUSTER", "SLOTS"), main)
            link.retiring = True
            link.end(RedisFailure("closed", "topology read"))
            addresses = sorted({where for _, _, where in self._slots}, key=str)
            if not addresses:
                raise RedisFailure("cluster", "no node serves slots")
        for address in addresses:
            self._nodes[address] = Node(await self._open(address), await self._open(address))
        self._main = self._nodes[addresses[0]]
        await self._ask(self._link_for(Operation(b"", _ignore, 0.0, self._probe_slot)), *self._probe)
        with contextlib.suppress(RedisFailure):  # a user who may not load scripts sends them when they are called
            for node in self._nodes.values():
                await asyncio.gather(*(self._ask(node.bulk, "SCRIPT", "LOAD", one.text) for one in self._scripts))
        if any(link.ended for node in self._nodes.values() for link in (node.fast, node.bulk)):
            raise RedisFailure("lost", "a connection was closed")

    async def _first_reachable(self) -> Address:
        addresses = self.settings.addresses
        for address in addresses[:-1]:
            with contextlib.suppress(RedisFailure):
                link = await self._open(address)
                link.retiring = True
                link.end(RedisFailure("closed", "probed"))
                return address
        return addresses[-1]

    async def _open(self, address: Address) -> Link:
        connection = await self._client.connect(self.settings, address, self._connect_s)
        link = Link(self._loop, self._on_reply, self._on_link_end)
        self._links.add(link)
        link.open(connection.transport, connection.release)
        return link

    async def _ask(self, link: Link, *arguments: str | int) -> Any:
        """Run a command on a connection that is not in use yet. Raises RedisFailure."""
        reply: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any) -> None:
            if not reply.done():
                reply.set_result(result)

        operation = Operation(encode_command(arguments), done, clock.monotonic() + self._connect_s)
        self._queue(link, operation)
        result = await reply
        if isinstance(result, RedisFailure):
            raise result
        return result


def _head_of(sha1: str, *keys: str) -> bytes:
    """The arguments of a call of a script before its own ones."""
    return encode_arguments(("EVALSHA", sha1, len(keys), *keys))[1]


_known_head = functools.lru_cache(maxsize=1024)(_head_of)  # the same keys are used again and again


def _ignore(result: Any) -> None:
    """The result of an operation that nobody waits for."""


def _slots_of(reply: Any, asked: Address) -> list[tuple[int, int, Address]]:
    """The ranges of slots and their masters, by a reply to CLUSTER SLOTS. A node without an address is `asked`."""
    found: list[tuple[int, int, Address]] = []
    for first, last, master, *_ in reply if isinstance(reply, list) else ():
        host = bytes(master[0] or b"").decode()
        found.append((int(first), int(last), (host or asked[0], int(master[1]))))
    return found
