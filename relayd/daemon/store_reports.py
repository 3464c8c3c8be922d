"""Reports whether the store works: log events, a gauge, and counters of Redis. A service."""

from __future__ import annotations

from relayd import clock
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.stores._redis_failure import CURES
from relayd.stores._redis_server import RedisServer
from relayd.telemetry.telemetry import Telemetry

TICK_S = 0.25
LOGGED_EACH_S = 60.0


class StoreReports:
    """One per process; owned by the lifecycle."""

    def __init__(self, gateway: Gateway, telemetry: Telemetry) -> None:
        self._gateway, self._journal, self._metrics = gateway, telemetry.journal, telemetry.metrics
        self._server: RedisServer | None = None
        self._reported = ""  # the cause that was logged; empty while Redis is available
        self._failed_s = 0.0
        self._calls = 0
        self._failures: dict[str, int] = {}

    def commit(self, plan: Plan) -> None:
        """Follow the store of this plan."""
        server = self._gateway.store.server
        if server is not self._server:
            self._server, self._reported, self._calls, self._failures = server, "", 0, {}
            if server is not None:
                server.on_latency = self._on_latency

    def _on_latency(self, span_s: float) -> None:
        self._metrics.observe("relayd.store.operation", span_s)

    def start(self, timers: Timers) -> None:
        timers.every("store", TICK_S, self.tick)

    def tick(self) -> None:
        """Log changes. Called by a timer."""
        server = self._server
        if server is None:
            return
        label, cause = server.settings.label, server.cause
        if server.available:
            if self._reported:
                self._reported = ""
                after_s = round(clock.monotonic() - self._failed_s, 1)
                self._journal.info("redis_reachable", server=label, after_s=after_s)
        elif cause.cause != self._reported and not server.is_new:
            if not self._reported:
                self._failed_s = clock.monotonic()
            self._reported = cause.cause
            self._journal.limited(
                f"redis_unreachable:{cause.cause}", LOGGED_EACH_S, "warning", "redis_unreachable", CURES[cause.cause],
                server=label, cause=cause.cause, why=cause.text,
            )

    def gauges(self) -> None:
        """Update the gauge and the counters."""
        self._metrics.gauge("relayd.store.available", 0 if self._gateway.store.describe()["degraded"] else 1)
        server = self._server
        if server is None:
            return
        if server.calls > self._calls:
            self._metrics.add("relayd.store.operations", server.calls - self._calls)
            self._calls = server.calls
        for cause, count in server.failures.items():
            if more := count - self._failures.get(cause, 0):
                self._metrics.add("relayd.store.operations_failed", more, fault=cause)
                self._failures[cause] = count

    def close(self) -> None:
        """The changeover closes the store."""
