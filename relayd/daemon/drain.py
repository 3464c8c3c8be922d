"""The end of a process: finish open exchanges, accept no new connections, end before a timeout.

    stop    without a successor: new connections are refused, idle ones are closed; at most drain_timeout
    leave   another process has the listening sockets: requests on open connections are still answered, and each
            response closes its connection; at most handover_timeout, which a stop of the whole service shortens

1. A drain ends with the last exchange or at its timeout, whichever is first, and immediately if `forced` is set.
   Before it ends, shared rates and budgets get SETTLE_S to send what was used, and telemetry TELEMETRY_S to send what
   is queued.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

from relayd import clock
from relayd.daemon.changeover import Changeover, end_exchanges
from relayd.daemon.notify import Notifier
from relayd.proxy.gateway import Gateway
from relayd.telemetry.journal import Journal

STEP_S = 0.02
NOTIFY_S = 1.0
SETTLE_S, TELEMETRY_S = 2.0, 3.0
EXTEND_S = 5.0


class Drain:
    """One drain of one process. Owned by the lifecycle."""

    def __init__(self, gateway: Gateway, changeover: Changeover, notifier: Notifier, journal: Journal) -> None:
        self._gateway, self._changeover = gateway, changeover
        self._notifier, self._journal = notifier, journal
        self.forced = asyncio.Event()
        self._deadline = float("inf")
        self._close_idle = False

    @property
    def _in_flight(self) -> int:
        return len(self._gateway.exchanges)

    def _timeout_s(self, leaving: bool) -> float:
        assert self._gateway.plan is not None
        daemon = self._gateway.plan.config.daemon
        stop_s = float(daemon.drain_timeout)
        return max(stop_s, float(daemon.handover_timeout)) if leaving else stop_s

    def stop(self, reason: str) -> Coroutine[None, None, None]:
        """Refuse new connections from now on. The returned coroutine ends with the last exchange or at the timeout."""
        timeout_s = self._timeout_s(leaving=False)
        self._gateway.draining = True
        self._journal.info("draining", signal=reason, exchanges=self._in_flight, drain_timeout_s=timeout_s)
        self._notifier.stopping(f"draining {self._in_flight} exchanges", timeout_s)
        self._changeover.listeners.close()
        self._close_idle = True
        return self._finish(timeout_s)

    def leave(self, reason: str) -> Coroutine[None, None, None]:
        """Leave new connections to another process. The returned coroutine ends at the last exchange or the timeout.

        The service manager gets no further message from this process, only from the other one.
        """
        timeout_s = self._timeout_s(leaving=True)
        self._gateway.leaving = True
        self._changeover.leave()
        connections = self._changeover.listeners.connections
        self._journal.info(
            "leaving", "Another process accepts now; this one finishes its exchanges.", signal=reason,
            exchanges=self._in_flight, connections=connections, handover_timeout_s=timeout_s,
        )
        return self._finish(timeout_s)

    def shorten(self, reason: str) -> None:
        """Limit a leaving process to the drain timeout, because the whole service is being stopped."""
        timeout_s = self._timeout_s(leaving=False)
        self._journal.info("draining", signal=reason, exchanges=self._in_flight, drain_timeout_s=timeout_s)
        self._close_idle = True
        self._deadline = min(self._deadline, clock.monotonic() + timeout_s)

    async def _finish(self, timeout_s: float) -> None:
        await self._wait_until_empty(timeout_s)
        await self._settle_shared()
        telemetry, end_s = self._gateway.telemetry, clock.monotonic() + TELEMETRY_S
        telemetry.finish()
        while not telemetry.is_idle and not self.forced.is_set() and clock.monotonic() < end_s:
            await asyncio.sleep(STEP_S)

    async def _settle_shared(self) -> None:
        shared, plan, left = self._gateway.shared, self._gateway.plan, asyncio.Event()
        if shared is None or plan is None or not shared.is_shared:
            return
        end_exchanges(self._gateway, plan.generation)
        end_s = clock.monotonic() + SETTLE_S
        while not (shared.is_settled or self.forced.is_set()) and clock.monotonic() < end_s:
            await asyncio.sleep(STEP_S)
        if shared.is_settled:
            shared.leave(left.set)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(left.wait(), SETTLE_S)

    async def _wait_until_empty(self, timeout_s: float) -> None:
        gateway, listeners = self._gateway, self._changeover.listeners
        self._deadline, notified_at = min(self._deadline, clock.monotonic() + timeout_s), 0.0
        while not self.forced.is_set():
            if self._close_idle:
                listeners.close_idle_connections()
            now = clock.monotonic()
            if not listeners.connections and not gateway.exchanges:
                return
            if now >= self._deadline:
                message = "Exchanges that are still open are ended."
                self._journal.warning("drain_timed_out", message, exchanges=self._in_flight)
                return
            if gateway.draining and now - notified_at >= NOTIFY_S:
                notified_at = now
                self._notifier.extend(EXTEND_S, f"draining {self._in_flight} exchanges")
            await asyncio.sleep(STEP_S)
