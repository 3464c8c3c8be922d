"""Carries out the checks that health.py finds due: one request, or one connection, past every limit and queue.

Laws:
1. A check has a pool of its own, with the TLS and the socket of its endpoint; it takes no place and no permit.
2. It ends with its timeout at the latest, and its connection then ends with it.
3. At most MOST checks run at one time; what is due beyond that begins in a later turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import quote

from relayd import clock
from relayd.upstream.health import BODY_BYTES, TIMED_OUT, Checker, Finding, judged
from relayd.upstream.spec import AuthSpec, EndpointSpec, Timeouts, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import Slot
from relayd.upstream.upstream import Upstream

MOST = 64
_AGENT = [b"User-Agent: relayd-health", b"Accept: */*", b"Expect:", b"Content-Type:"]


class Probes:
    """Owned by the daemon, which calls `tick` several times a second and `close` at the end.

    `upstreams` gives those of the plan in force; a reload needs nothing more.
    """

    def __init__(self, client: StreamClient, upstreams: Callable[[], Iterable[Upstream]]) -> None:
        self._client, self._upstreams = client, upstreams
        self._running: set[HttpCheck | TcpCheck] = set()
        self._pools: dict[Checker, Pool] = {}

    def tick(self) -> None:
        """Begin what is due; let go of what no plan names any more."""
        now_s = clock.monotonic()
        named: set[Checker] = set()
        for upstream in self._upstreams():
            for checker in upstream.checkers:
                named.add(checker)
                if checker.due(now_s) and len(self._running) < MOST:
                    self._begin(upstream, checker, now_s)
        if len(self._pools) > len(named) or not self._pools.keys() <= named:
            for checker in self._pools.keys() - named:
                self._pools.pop(checker).close()

    def _begin(self, upstream: Upstream, checker: Checker, now_s: float) -> None:
        checker.begin(now_s)

        def ended(finding: Finding) -> None:
            self._running.discard(check)
            upstream.checked(checker, finding)

        check: HttpCheck | TcpCheck
        if checker.spec.kind == "tcp":
            check = TcpCheck(checker, ended)
        else:
            check = HttpCheck(checker, self._pool(upstream.spec, checker), upstream.spec.auth, ended)
        self._running.add(check)
        check.start()

    def _pool(self, spec: UpstreamSpec, checker: Checker) -> Pool:
        pool = self._pools.get(checker)
        if pool is None:
            assert self._client.driver is not None
            own = replace(spec, timeouts=Timeouts(connect_s=checker.spec.timeout_s))
            pool = self._pools[checker] = Pool(self._client.driver, own, checker.endpoint.spec)
        return pool

    def close(self) -> None:
        """End the checks under way without a finding."""
        for check in list(self._running):
            check.cancel()
        self._running.clear()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


class HttpCheck:
    """One request; the sink of its slot."""

    def __init__(
        self, checker: Checker, pool: Pool, auth: AuthSpec | None, ended: Callable[[Finding], None]
    ) -> None:
        self._checker, self._pool, self._ended = checker, pool, ended
        self._auth = auth if checker.spec.auth else None
        self._slot: Slot | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body = b""
        self._status = 0

    def start(self) -> None:
        spec, endpoint = self._checker.spec, self._checker.endpoint
        self._timer = asyncio.get_running_loop().call_later(spec.timeout_s, self._late)
        slot = self._slot = self._pool.take(b"GET", False)
        fields = [b"Host: " + endpoint.authority, *_AGENT, *key_lines(self._auth)]
        self._pool.start(slot, self, b"GET", target_with(spec.target.encode(), self._auth), fields)

    def on_progress(self, slot: Slot) -> None:
        """The head, or a piece of the body; what is beyond BODY_BYTES is not waited for."""
        self._take(slot)
        if len(self._body) >= BODY_BYTES or (self._status and not self._checker.spec.body):
            self._done(judged(self._checker.spec, self._status, self._body))

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The end of the transfer."""
        self._take(slot)
        if errno == 28:
            self._done(TIMED_OUT)
        elif errno or not self._status:
            self._done(Finding(False, slot.bad or (code_of(errno, message) if errno else "upstream_closed")))
        else:
            self._done(judged(self._checker.spec, self._status, self._body))

    def on_broken(self) -> None:
        """A fault of relayd's own says nothing about the endpoint."""
        self.cancel()

    def cancel(self) -> None:
        self._drop()
        self._checker.give_up()

    def _take(self, slot: Slot) -> None:
        if slot.response is not None:
            self._status = slot.response.status
        self._body += b"".join(slot.chunks)[: BODY_BYTES - len(self._body)]
        slot.chunks = []

    def _late(self) -> None:
        self._done(TIMED_OUT)

    def _done(self, finding: Finding) -> None:
        if self._slot is not None:
            self._drop()
            self._ended(finding)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.driver.cancel(slot)
            self._pool.give(slot)


class TcpCheck:
    """One connection, closed as soon as it stands."""

    def __init__(self, checker: Checker, ended: Callable[[Finding], None]) -> None:
        self._checker, self._ended = checker, ended
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._checker.give_up()

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._checker.spec.timeout_s):
                await self._connect(self._checker.endpoint.spec)
        except TimeoutError:
            self._ended(TIMED_OUT)
        except OSError as error:
            self._ended(Finding(False, error.strerror or type(error).__name__))
        else:
            self._ended(Finding(True))

    @staticmethod
    async def _connect(spec: EndpointSpec) -> None:
        if spec.unix is not None:
            _, writer = await asyncio.open_unix_connection(spec.unix)
        else:
            host, port = spec.address
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def key_lines(auth: AuthSpec | None) -> list[bytes]:
    """The field that carries the key, where it goes in a field."""
    if auth is None or auth.kind == "query":
        return []
    prefix = "Bearer " if auth.kind == "bearer" else ""
    return [f"{auth.name}: {prefix}{auth.value.reveal()}".encode()]


def target_with(target: bytes, auth: AuthSpec | None) -> bytes:
    """The target, with the key where it goes in the query."""
    if auth is None or auth.kind != "query":
        return target
    mark = b"&" if b"?" in target else b"?"
    return target + mark + f"{auth.name}={quote(auth.value.reveal(), safe='')}".encode()
