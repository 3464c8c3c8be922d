"""Periodic work for the plan in force: health checks, model lists, load measurement, logs and gauges of state changes.

1. `tick` runs every TICK_S seconds. Expensive measurements run every few ticks.
2. A reload applies its plan by `commit`, which must not fail.
"""

from __future__ import annotations

import os

from relayd.config.model import Config
from relayd.daemon.loop_lag import LoopLag
from relayd.daemon.timers import Timers
from relayd.limits.overload import Bounds, Reading
from relayd.plan.plan import Plan
from relayd.proxy.api_path import translated_path
from relayd.proxy.client_session import SPACE
from relayd.proxy.gateway import Gateway
from relayd.proxy.steps import Work
from relayd.telemetry.journal import Journal
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.event import UpstreamEvent
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.listing import ModelListFetcher
from relayd.upstream.transport.probe import Probes
from relayd.upstream.upstream import Upstream
from relayd.wire.json_steps import Steps

TICK_S = 0.25
DESCRIPTOR_TICKS = 20  # ticks between two counts of descriptors, whose cost grows with their number
SESSION_TICKS = 40  # ticks between two counts of sessions
SWEEP_TICKS = 240  # ticks between two removals of expired entries from the store
STORE_FAILED_S = 60.0  # between two log lines about one cause
FAILED_KEYS_S = 600.0  # between two log lines about one address
WITHHELD_S = 3600.0  # between two log lines about keys in the responses of an upstream
BUFFER_FACTOR = 2  # times the limit of the request buffers: rewritten copies and responses are held beside the bodies
PAGE = os.sysconf("SC_PAGE_SIZE")
_INFO_EVENTS = ("breaker_closed", "breaker_half_opened", "endpoint_enabled", "endpoint_passing", "endpoints_changed")


class Maintenance:
    """A service."""

    def __init__(
        self, gateway: Gateway, client: StreamClient, lag: LoopLag, journal: Journal, max_descriptors: int
    ) -> None:
        """`max_descriptors`: the limit of descriptors of the process."""
        self._gateway, self._lag, self._journal, self._max_descriptors = gateway, lag, journal, max_descriptors
        self._probes = Probes(client, self._upstreams)
        self._listings = ModelListFetcher(client, self._upstreams, listing_path)
        self._ticks = self._open_descriptors = self._failed_keys = 0
        self._sessions_created = self._sessions = 0
        self._counting: Work | None = None
        self._shedding = False
        self._metrics = gateway.telemetry.metrics
        self._logged_notices: set[str] = set()

    def _upstreams(self) -> list[Upstream]:
        plan = self._gateway.plan
        return [] if plan is None else list(plan.upstreams.values())

    def commit(self, plan: Plan) -> None:
        """Apply the settings of a plan that has come into force."""
        self._gateway.overload.bounds = bounds_of(plan.config, self._max_descriptors)
        buffers = plan.config.daemon.request_buffers
        self._gateway.buffers.configure(int(buffers.size), float(buffers.queue_timeout))
        failed_keys = plan.config.daemon.failed_keys
        self._gateway.failed_keys.configure(failed_keys.limit, float(failed_keys.per))
        for upstream in plan.upstreams.values():
            upstream.on_change = self._on_upstream_event
        self._logged_notices &= set(self._gateway.store.notices)
        self._log_store_notices()

    def _on_upstream_event(self, change: UpstreamEvent) -> None:
        level = self._journal.info if change.event in _INFO_EVENTS else self._journal.warning
        level(change.event, upstream=change.upstream, endpoint=change.address, why=change.why, **change.details)
        self._gateway.gates.wake()  # the change may admit requests that wait for this upstream
        self._gateway.telemetry.metrics.add("relayd.upstream.changes", upstream=change.upstream, event=change.event)

    def _log_withheld_keys(self) -> None:
        """Log responses from which a stored key was removed."""
        for upstream in self._upstreams():
            for endpoint in upstream.endpoints:
                keys = endpoint.key_filter
                for field, count in keys.pop_counts().items() if keys is not None and keys.counts else ():
                    self._metrics.add("relayd.upstream.keys_withheld", count, upstream=upstream.name)
                    self._journal.limited(
                        f"key_withheld:{upstream.name}", WITHHELD_S, "warning", "key_withheld",
                        "A response contained a key that relayd had sent with the request; the key was removed.",
                        upstream=upstream.name, endpoint=endpoint.label, where=field,
                    )

    def start(self, timers: Timers) -> None:
        timers.every("maintenance", TICK_S, self.tick)

    def tick(self) -> None:
        """Run one round of the periodic work. Called by a timer."""
        self._log_withheld_keys()
        self._log_failed_keys()
        self._log_store_faults()
        self._probes.tick()
        self._listings.tick()
        overload = self._gateway.overload
        bounds = overload.bounds
        memory = resident() if bounds.memory_bytes else 0
        if bounds.descriptors and self._ticks % DESCRIPTOR_TICKS == 0:
            self._open_descriptors = descriptors()
        self._ticks += 1
        if self._ticks % SESSION_TICKS == 0:
            self._count_sessions()
        if self._ticks % SWEEP_TICKS == 0:
            self._gateway.store.sweep()
        overload.update(Reading(self._lag.current_s, memory, self._open_descriptors, self._gateway.buffers.used))
        if overload.active != self._shedding:
            self._shedding = overload.active
            if self._shedding:
                message = "Requests are rejected, those of low priority first."
                self._journal.warning("overloaded", message, why=overload.why)
            else:
                self._journal.info("overload_ended", refused=overload.refused)

    def _count_sessions(self) -> None:
        """Begin to count the stored sessions, if routes use sessions."""
        plan = self._gateway.plan
        if self._counting is None and plan is not None and any(route.uses_session for route in plan.routes):
            self._counting = Work(self._count_steps(), self._gateway.call_later, self._on_counted)
            if self._counting.turn():
                self._on_counted()

    def _count_steps(self) -> Steps[None]:
        self._sessions = yield from self._gateway.store.count_steps(SPACE)

    def _on_counted(self) -> None:
        self._counting = None

    def _log_failed_keys(self) -> None:
        """Count wrong keys, and log addresses that have presented too many."""
        failed = self._gateway.failed_keys
        if failed.failures > self._failed_keys:
            self._metrics.add("relayd.access.failed_keys", failed.failures - self._failed_keys)
            self._failed_keys = failed.failures
        for address in failed.pop_limited():
            self._journal.limited(
                f"keys_limited:{address}", FAILED_KEYS_S, "warning", "keys_limited",
                "Keys from this address are refused for a time, because many were wrong.", client=address,
                limit=failed.limit, per_s=failed.window_s,
            )

    def _log_store_faults(self) -> None:
        """Log failed operations of the store."""
        for fault, times, why in self._gateway.store.pop_failures():
            self._metrics.add("relayd.store.failed", times, cause=fault.cause)
            self._journal.limited(
                f"store_failed:{fault.cause}", STORE_FAILED_S, "warning", "store_failed", fault.cure, cause=fault.cause,
                why=why, times=times,
            )
        self._log_store_notices()

    def _log_store_notices(self) -> None:
        for notice in self._gateway.store.notices:
            if notice not in self._logged_notices:
                self._logged_notices.add(notice)
                self._journal.warning("store_notice", notice)

    def gauges(self) -> None:
        """Update gauges and pending log lines. Called before metrics are sent."""
        self._log_withheld_keys()
        self._log_failed_keys()
        self._log_store_faults()
        created = self._gateway.session_counts.created
        if created > self._sessions_created:
            self._metrics.add("relayd.sessions.created", created - self._sessions_created)
            self._sessions_created = created
        self._metrics.gauge("relayd.sessions.active", self._sessions)
        gauge, gauges, gateway = self._metrics.gauge, self._metrics.set_gauges, self._gateway
        gates = list(gateway.gates.limited())
        gauges("relayd.queue.depth", {(gate.name,): gate.depth for gate in gates})
        gauges("relayd.queue.in_flight", {(gate.name,): gate.in_flight for gate in gates})
        gauges("relayd.queue.oldest", {(gate.name,): round(gate.oldest_wait_s(), 3) for gate in gates})
        gauge("relayd.overload.share", round(gateway.overload.share, 3))
        gauge("relayd.buffers.used", gateway.buffers.used)
        gauge("relayd.buffers.waiting", gateway.buffers.waiting)
        gauge("relayd.buffers.oldest", round(gateway.buffers.oldest_wait_s(), 3))
        upstreams = self._upstreams()
        gauges("relayd.upstream.exchanges", {(one.name,): one.in_flight for one in upstreams})
        gauges("relayd.upstream.unverified", {(one.name,): int(not one.spec.tls.verify) for one in upstreams})
        endpoints = [(upstream.name, one) for upstream in upstreams for one in upstream.endpoints]
        gauges("relayd.upstream.available", {(name, one.label): int(one.available) for name, one in endpoints})

    def close(self) -> None:
        """Cancel running probes and fetches."""
        self._probes.close()
        self._listings.close()


def listing_path(spec: UpstreamSpec, endpoint: Endpoint, path: str) -> bytes:
    """The path of an endpoint's model list: the dialect's path appended to the endpoint's base path."""
    return translated_path(spec.protocol, endpoint.base_path, path.encode("ascii"))


def bounds_of(config: Config, max_descriptors: int) -> Bounds:
    """The bounds of `daemon: overload:`. Full request buffers alone are no overload."""
    section, buffers = config.daemon.overload, int(config.daemon.request_buffers.size) * BUFFER_FACTOR
    return Bounds(float(section.loop_lag), int(section.memory), int(section.descriptors * max_descriptors), buffers)


def resident() -> int:
    """Resident memory of the process in bytes; 0 if unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def descriptors() -> int:
    """The number of open descriptors; 0 if unknown."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0
