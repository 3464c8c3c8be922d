"""Periodic work for the plan in force: health checks, model lists, load measurement, logs and gauges of state changes.

1. `tick` runs every TICK_S seconds. Expensive measurements run every few ticks.
2. A reload applies its plan by `commit`, which must not fail.
"""

from __future__ import annotations

import os

from relayd.config.model import Config
from relayd.daemon.loop_lag import LoopLag
from relayd.limits.overload import Bounds, Reading
from relayd.plan.plan import Plan
from relayd.proxy.api_path import translated_path
from relayd.proxy.gateway import Gateway
from relayd.telemetry.journal import Journal
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.listing import ModelListFetcher
from relayd.upstream.transport.probe import Probes
from relayd.upstream.upstream import Upstream, UpstreamEvent

TICK_S = 0.25
DESCRIPTOR_TICKS = 20  # ticks between two counts of descriptors, whose cost grows with their number
SWEEP_TICKS = 240  # ticks between two removals of expired entries from the store
STORE_FAILED_S = 60.0  # between two log lines about one cause
WITHHELD_S = 3600.0  # between two log lines about keys in the responses of an upstream
BUFFER_FACTOR = 2  # times the limit of the request buffers: rewritten copies and responses are held beside the bodies
PAGE = os.sysconf("SC_PAGE_SIZE")
_INFO_EVENTS = ("breaker_closed", "breaker_half_opened", "endpoint_enabled", "endpoint_passing", "endpoints_changed")


class Maintenance:
    """Owned by the lifecycle."""

    def __init__(
        self, gateway: Gateway, client: StreamClient, lag: LoopLag, journal: Journal, max_descriptors: int
    ) -> None:
        """`max_descriptors`: the limit of descriptors of the process."""
        self._gateway, self._lag, self._journal, self._max_descriptors = gateway, lag, journal, max_descriptors
        self._probes = Probes(client, self._upstreams)
        self._listings = ModelListFetcher(client, self._upstreams, listing_path)
        self._ticks = self._open_descriptors = 0
        self._shedding = False
        self._metrics = gateway.telemetry.metrics
        self._gates: set[str] = set()
        self._logged_notices: set[str] = set()
        self._endpoints: set[tuple[str, str]] = set()

    def _upstreams(self) -> list[Upstream]:
        plan = self._gateway.plan
        return [] if plan is None else list(plan.upstreams.values())

    def commit(self, plan: Plan) -> None:
        """Apply the settings of a plan that has come into force."""
        self._gateway.overload.bounds = bounds_of(plan.config, self._max_descriptors)
        buffers = plan.config.daemon.request_buffers
        self._gateway.buffers.configure(int(buffers.size), float(buffers.queue_timeout))
        for upstream in plan.upstreams.values():
            upstream.on_change = self._on_upstream_event
        self._logged_notices &= set(self._gateway.store.notices)
        self._log_store_notices()

    def _on_upstream_event(self, change: UpstreamEvent) -> None:
        level = self._journal.info if change.event in _INFO_EVENTS else self._journal.warning
        level(change.event, upstream=change.upstream, endpoint=change.address, why=change.why)
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

    def tick(self) -> None:
        """Run one round of the periodic work. Called by a timer."""
        self._log_withheld_keys()
        self._log_store_faults()
        self._probes.tick()
        self._listings.tick()
        overload = self._gateway.overload
        bounds = overload.bounds
        memory = resident() if bounds.memory_bytes else 0
        if bounds.descriptors and self._ticks % DESCRIPTOR_TICKS == 0:
            self._open_descriptors = descriptors()
        self._ticks += 1
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
        self._log_store_faults()
        gauge, forget, gateway = self._metrics.gauge, self._metrics.remove_gauge, self._gateway
        gates = {gate.name: gate for gate in gateway.gates.limited()}
        for name, gate in gates.items():
            gauge("relayd.queue.depth", gate.depth, gate=name)
            gauge("relayd.queue.in_flight", gate.in_flight, gate=name)
            gauge("relayd.queue.oldest", round(gate.oldest_wait_s(), 3), gate=name)
        for name in self._gates - gates.keys():
            for metric in ("relayd.queue.depth", "relayd.queue.in_flight", "relayd.queue.oldest"):
                forget(metric, gate=name)
        self._gates = set(gates)
        gauge("relayd.overload.share", round(gateway.overload.share, 3))
        gauge("relayd.buffers.used", gateway.buffers.used)
        gauge("relayd.buffers.waiting", gateway.buffers.waiting)
        gauge("relayd.buffers.oldest", round(gateway.buffers.oldest_wait_s(), 3))
        endpoints = {(upstream.name, one.label): one for upstream in self._upstreams() for one in upstream.endpoints}
        for (upstream_name, label), endpoint in endpoints.items():
            gauge("relayd.upstream.available", int(endpoint.available), upstream=upstream_name, endpoint=label)
        for upstream_name, label in self._endpoints - endpoints.keys():
            forget("relayd.upstream.available", upstream=upstream_name, endpoint=label)
        self._endpoints = set(endpoints)

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
