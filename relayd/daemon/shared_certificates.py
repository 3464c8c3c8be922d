"""Certificates that machines share through Redis: one machine orders, and the others get certificate, account and
answers to challenges. A part of daemon/certificates.

1. The state directory of each machine stays what handshakes and requests read. This adds to it what other machines have
   written, and writes to Redis what this one has; so everything works on while Redis is not available.
2. A thread reads and writes the files, each TICK_S. Requests do not wait for any of this.
3. A challenge is answered by all machines before the authority is told: the machine that orders waits until those that
   are there have written it, or for ANSWER_S.
4. Machines with another key are another group. They do not disturb each other, and both report it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import platform
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoReply
from types import ModuleType
from typing import Any

from relayd import clock, registry
from relayd.acme.sharing import Alone, Away, Lease
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import LockedByOther, State
from relayd.daemon.certificate_scripts import ACQUIRE, BEHIND, PULL, PUT, RENEW
from relayd.daemon.timers import Timers
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_server import RedisServer, Script
from relayd.telemetry.journal import Journal

TICK_S = 1.0
LEASE_MS = 20_000  # renewed each tick
SETTLE_S = 8.0  # after a start or an outage of Redis, all machines know of each other before one of them orders
ANSWER_S, ANSWER_STEP_S = 8.0, 0.2
CALL_S = 15.0  # the store ends a call much earlier
PAGE = 20  # texts of one call, some 10 KB each
COMPARE_TICKS = 10  # between two comparisons of the files with what Redis has
REPEAT_S = 3600.0  # between two log lines about one fault
OTHER_GROUP_MS = 60_000  # a group that was seen within this time is there


class Group:
    """The machines with one key at one server, as this process sees them."""

    def __init__(self, server: RedisServer, key: str, items: ModuleType) -> None:
        self.server, self.items = server, items
        self.name = str(items.group_of(key))
        self.keys = [server.key("acme", self.name, one) for one in ("texts", "changes", "state", "members", "ends")]
        self.keys.append(server.key("acme", "groups"))
        self.texts: Any = None  # the SharedItems of the current plan
        self.lock = threading.Lock()  # held while texts are exchanged
        self.is_stale = False  # the plan is another one, which may want texts that were skipped
        self.since_s: float | None = None  # when this process has become a member
        self.restart()

    def restart(self) -> None:
        """Read everything again. `number` is that of the last change that is known, `ranks` those of Redis, by id."""
        self.epoch, self.number, self.ticks = "", 0, 0
        self.ranks: dict[str, str] = {}


class SharedLease:
    """The lease of this process; see acme/sharing."""

    def __init__(self, sharing: SharedCertificates, group: Group, fence: int) -> None:
        self._sharing, self.group, self.fence = sharing, group, str(fence)
        self._is_answering = False
        self._halt = threading.Event()

    @property
    def halt(self) -> threading.Event:
        return self._halt

    def share(self, name: str) -> None:
        text = self.group.texts.of_name(name)
        if text is not None:
            self._put(text.id, text.rank, text.sealed, text.life_ms)

    def share_account(self, directory: str) -> None:
        text = self.group.texts.account(directory)
        if text is not None:
            self._put(text.id, "", text.sealed, text.life_ms, only_first=True)

    def answer(self, kind: str, domain: str, token: str, authorization: str) -> None:
        text = self.group.texts.challenge(kind, domain, token, authorization)
        self._is_answering = True
        number = self._put(text.id, "", text.sealed, text.life_ms)
        end_s = clock.monotonic() + ANSWER_S
        with contextlib.suppress(Away):
            while number > 0 and self._sharing.ask(self.group, BEHIND, number) and clock.monotonic() < end_s:
                if self._halt.wait(ANSWER_STEP_S):
                    return

    def end_answer(self) -> None:
        if self._is_answering:
            self._is_answering = False
            self._put(self.group.items.CHALLENGE, "", "", 600_000)

    def _put(self, name: str, rank: str, sealed: str, life_ms: int, *, only_first: bool = False) -> int:
        """Write a text. What cannot be written now is offered later, unless it is about a challenge. Returns its
        number, 0 if there is none."""
        try:
            number = self._sharing.put(self.group, self.fence, name, rank, sealed, life_ms, only_first)
        except Away:
            return 0
        if number < 0:
            self._halt.set()
        return max(number, 0)


class SharedCertificates:
    """Owned by daemon/certificates. `commit`, `start` and `close` are called on the loop, the others in threads."""

    def __init__(self, state: State, journal: Journal, on_change: Callable[[], None]) -> None:
        """`on_change` is called on the loop after certificates of other machines were written."""
        self._state, self._log, self._on_change = state, journal, on_change
        self._loop = asyncio.get_running_loop()
        self._host = platform.node()[:64] or "unknown"
        self._me = f"{self._host} {secrets.token_hex(8)}"
        self._group: Group | None = None
        self._settings: tuple[RedisServer, str] | None = None
        self._lease: SharedLease | None = None
        self._waiting: set[Future[Any]] = set()
        self._work: asyncio.Future[None] | None = None
        self._closed = False

    # ---- on the loop

    def commit(self, server: RedisServer | None, specs: tuple[CertificateSpec, ...]) -> None:
        """Share the certificates of a plan from now on, if it has a key for this and a server."""
        key = next((one.section.sharing_key.reveal() for one in specs if one.section.sharing_key is not None), "")
        settings = (server, key) if server is not None and key and specs else None
        if settings is None:
            self._group = None
        else:
            server, items = settings[0], registry.load("relayd.acme", "shared_items")
            if self._group is None or settings != self._settings:
                self._group = Group(server, key, items)
                server.on_change(self._on_available)
            self._group.texts = items.SharedItems(self._state, key, self._host, specs)
            self._group.is_stale = True
        self._settings = settings

    def _on_available(self, available: bool) -> None:
        if not available and self._group is not None:
            self._group.since_s = None
        self.tick()

    def start(self, timers: Timers) -> None:
        timers.every("shared_certificates", TICK_S, self.tick)

    def close(self) -> None:
        """End all work; threads that wait for Redis go on without it."""
        self._closed, self._group = True, None
        for one in tuple(self._waiting):
            self._resolve(one, RedisFailure("closed", "relayd ends"))

    def tick(self) -> None:
        """Renew the lease, and begin an exchange unless the last one has not ended."""
        group, lease = self._group, self._lease
        if group is None or not group.server.available:
            return
        if lease is not None:
            self._renew(lease)
        if self._work is None or self._work.done():
            self._work = self._loop.run_in_executor(None, self._exchange_quietly, group)
            self._work.add_done_callback(self._on_exchanged)

    def _on_exchanged(self, work: asyncio.Future[None]) -> None:
        if not work.cancelled() and (error := work.exception()) is not None:
            why = f"{type(error).__name__}: {error}"
            self._report("error", "certificates_not_shared", "Certificates are not shared now.", why)

    def _renew(self, lease: SharedLease) -> None:
        def renewed(reply: Any) -> None:
            if reply == 0:
                lease.halt.set()

        words: list[str | int] = [secrets.token_hex(8), self._me, lease.fence, LEASE_MS]
        lease.group.server.call(RENEW, lease.group.keys, words, renewed)

    # ---- in threads

    def ask(self, group: Group, script: Script, *arguments: str | int) -> Any:
        """The reply to a script. Raises Away."""
        waiting: Future[Any] = Future()
        words = [secrets.token_hex(8), self._me, *arguments]

        def begin() -> None:
            if self._closed or group is not self._group:
                self._resolve(waiting, RedisFailure("closed", "the configuration has changed"))
            else:
                group.server.call(script, group.keys, words, functools.partial(self._resolve, waiting), bulk=True)

        if self._closed:
            raise Away("relayd ends")
        self._waiting.add(waiting)
        try:
            self._loop.call_soon_threadsafe(begin)
            reply = waiting.result(CALL_S)
        except (RuntimeError, NoReply):
            raise Away("relayd ends") from None
        finally:
            self._waiting.discard(waiting)
        if isinstance(reply, RedisFailure):
            raise Away(reply.text)
        return reply

    @staticmethod
    def _resolve(waiting: Future[Any], reply: Any) -> None:
        if not waiting.done():
            waiting.set_result(reply)

    def put(
        self, group: Group, fence: str, name: str, rank: str, sealed: str, life_ms: int, only_first: bool = False
    ) -> int:
        """Write a text. Returns its number, 0 if it is not newer, -1 if the lease is lost. Raises Away."""
        number = int(self.ask(group, PUT, fence, name, rank, life_ms, sealed, int(only_first)))
        if number > 0:
            group.ranks[name] = rank
        return number

    @contextlib.contextmanager
    def lease(self, stop: threading.Event) -> Iterator[Lease]:
        """See acme/sharing."""
        group = self._group
        if group is None:
            yield Alone(stop)
            return
        if group.since_s is None:
            self.exchange(group)
        if group.since_s is None or clock.monotonic() < group.since_s + SETTLE_S:
            raise LockedByOther
        reply = self.ask(group, ACQUIRE, LEASE_MS)
        if not isinstance(reply, int):
            raise LockedByOther
        lease = self._lease = SharedLease(self, group, reply)
        try:
            self.exchange(group)
            yield lease
        finally:
            self._lease = None
            with contextlib.suppress(Away):
                self.ask(group, RENEW, lease.fence, 0)

    def _exchange_quietly(self, group: Group) -> None:
        try:
            self.exchange(group)
        except Away:
            return  # the store reports it

    def exchange(self, group: Group) -> None:
        """Write what other machines have changed to the state, then offer what they lack. Raises Away, OSError."""
        with group.lock:
            if group.is_stale:
                group.is_stale = False
                group.restart()
            changed, has_more = False, True
            while has_more:
                has_more, written = self._pull(group)
                changed = changed or written
            if changed or group.ticks % COMPARE_TICKS == 0:
                for text in group.texts.certificates():
                    if text.rank > group.ranks.get(text.id, ""):
                        self.put(group, "", text.id, text.rank, text.sealed, text.life_ms)
            group.ticks += 1
            group.since_s = clock.monotonic() if group.since_s is None else group.since_s
        if changed:
            self._on_loop(self._on_change)

    def _pull(self, group: Group) -> tuple[bool, bool]:
        """Read one page of changes. Returns whether there may be more, and whether a certificate has changed."""
        reply = self.ask(group, PULL, group.name, group.number, PAGE)
        epoch, groups, *flat = (one.decode("utf-8", "replace") for one in reply)
        if group.epoch and epoch != group.epoch:  # Redis has lost the data
            group.restart()
            return True, False
        group.epoch = epoch
        self._report_others(group, groups.split())
        changed = False
        for place in range(0, len(flat), 5):
            number, name, rank, age_ms, text = flat[place : place + 5]
            changed = self._install(group, name, text, float(age_ms) / 1000) or changed
            group.ranks[name], group.number = rank, int(float(number))
        return bool(flat), changed  # the next one also reports that this one was written

    def _install(self, group: Group, name: str, text: str, age_s: float) -> bool:
        try:
            domain, origin = group.texts.install(name, text, age_s)
        except group.items.SealError as fault:
            self._report("warning", "certificate_refused", f"The text {name!r} in Redis is not used.", str(fault))
            return False
        if domain:
            message = "In use as soon as the listener has loaded it."
            self._on_loop(lambda: self._log.info("certificate_received", message, domain=domain, machine=origin))
        return bool(domain)

    def _report_others(self, group: Group, groups: list[str]) -> None:
        """Report machines with another key."""
        seen = dict(zip(groups[::2], groups[1::2], strict=True))
        others = sorted(name for name, ago_ms in seen.items() if name != group.name and float(ago_ms) < OTHER_GROUP_MS)
        if others:
            self._report(
                "warning", "certificates_not_shared_with_all",
                "Another machine has another sharing_key: certificates are not shared with it, and it orders its own. "
                "Give all machines the same key, or another `store: prefix`.",
                f"this machine has the key with the fingerprint {group.name}, another {', '.join(others)}",
            )

    def _report(self, level: str, event: str, message: str, why: str) -> None:
        self._on_loop(lambda: self._log.limited(f"{event}:{why}", REPEAT_S, level, event, message, why=why))

    def _on_loop(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)
