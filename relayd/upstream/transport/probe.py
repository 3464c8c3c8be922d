"""Runs the health checks that are due: one request or one connection each, bypassing limits and queues.

Laws:
1. A check has its own pool, with the TLS options and the socket of its endpoint; it uses no permit.
2. A check ends at its timeout at the latest, and so does its connection.
3. At most MOST checks run concurrently; further due checks begin in a later turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import quote

from relayd import clock
from relayd.upstream.health import BODY_BYTES, TIMED_OUT, Checker, CheckResult, evaluate
from relayd.upstream.spec import AuthSpec, EndpointSpec, Timeouts, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.faults import NO_RESOURCES, code_of, is_exhaustion
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import Slot
from relayd.upstream.upstream import Upstream

MOST = 64
_AGENT = [b"User-Agent: relayd-health", b"Accept: */*", b"Expect:", b"Content-Type:"]

OnEnd = Callable[[CheckResult | None], None]  # None: relayd itself failed, which says nothing about the endpoint


class Probes:
    """Owned by the daemon, which calls `tick` several times a second and `close` at the end.

    `upstreams` returns the upstreams of the current plan, so that a reload needs no call.
    """

    def __init__(self, client: StreamClient, upstreams: Callable[[], Iterable[Upstream]]) -> None:
        self._client, self._upstreams = client, upstreams
        self._running: set[HttpCheck | TcpCheck] = set()
        self._pools: dict[Checker, Pool] = {}

    def tick(self) -> None:
        """Begin the checks that are due, and close the pools of checkers that no plan uses any more."""
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

        def on_end(finding: CheckResult | None) -> None:
            self._running.discard(check)
            if finding is None:
                checker.give_up()
            else:
                upstream.record_check(checker, finding)

        check: HttpCheck | TcpCheck
        if checker.spec.kind == "tcp":
            check = TcpCheck(checker, on_end)
        else:
            check = HttpCheck(checker, self._pool(upstream.spec, checker), upstream.spec.auth, on_end)
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
        """Cancel the running checks without a result."""
        for check in list(self._running):
            check.cancel()
        self._running.clear()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


class HttpCheck:
    """One request; the sink of its slot."""

    def __init__(
        self, checker: Checker, pool: Pool, auth: AuthSpec | None, on_end: OnEnd
    ) -> None:
        self._checker, self._pool, self._on_end = checker, pool, on_end
        self._auth = auth if checker.spec.auth else None
        self._slot: Slot | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body = b""
        self._status = 0

    def start(self) -> None:
        spec, endpoint = self._checker.spec, self._checker.endpoint
        self._timer = asyncio.get_running_loop().call_later(spec.timeout_s, self._late)
        slot = self._slot = self._pool.acquire(b"GET", False)
        fields = [b"Host: " + endpoint.authority, *_AGENT, *key_lines(self._auth)]
        self._pool.start(slot, self, b"GET", target_with(spec.target.encode(), self._auth), fields)

    def on_progress(self, slot: Slot) -> None:
        """The response head, or a piece of the body; the check does not wait for more than BODY_BYTES."""
        self._collect(slot)
        if len(self._body) >= BODY_BYTES or (self._status and not self._checker.spec.body):
            self._done(evaluate(self._checker.spec, self._status, self._body))

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The end of the transfer."""
        self._collect(slot)
        if errno == NO_RESOURCES:
            self._done(None)
        elif errno == 28:
            self._done(TIMED_OUT)
        elif errno or not self._status:
            code = code_of(errno, message) if errno else "upstream_closed"
            self._done(CheckResult(False, slot.protocol_error or code))
        else:
            self._done(evaluate(self._checker.spec, self._status, self._body))

    def on_broken(self) -> None:
        """A sink raised, which is no fault of the endpoint."""
        self._done(None)

    def cancel(self) -> None:
        self._finish()
        self._checker.give_up()

    def _collect(self, slot: Slot) -> None:
        if slot.response is not None:
            self._status = slot.response.status
        self._body += b"".join(slot.chunks)[: BODY_BYTES - len(self._body)]
        slot.chunks = []

    def _late(self) -> None:
        self._done(TIMED_OUT)

    def _done(self, finding: CheckResult | None) -> None:
        if self._slot is not None:
            self._finish()
            self._on_end(finding)

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.release(slot)


class TcpCheck:
    """One connection, closed as soon as it is established."""

    def __init__(self, checker: Checker, on_end: OnEnd) -> None:
        self._checker, self._on_end = checker, on_end
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
            self._on_end(TIMED_OUT)
        except OSError as error:
            self._on_end(None if is_exhaustion(error) else CheckResult(False, error.strerror or type(error).__name__))
        else:
            self._on_end(CheckResult(True))

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
    """The header field that carries the key; empty if the key is sent in the query or not at all."""
    if auth is None or auth.kind == "query":
        return []
    prefix = "Bearer " if auth.kind == "bearer" else ""
    return [f"{auth.name}: {prefix}{auth.value.reveal()}".encode()]


def target_with(target: bytes, auth: AuthSpec | None) -> bytes:
    """The target, with the key appended if it is sent in the query."""
    if auth is None or auth.kind != "query":
        return target
    mark = b"&" if b"?" in target else b"?"
    return target + mark + f"{auth.name}={quote(auth.value.reveal(), safe='')}".encode()
