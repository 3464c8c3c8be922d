"""Runs the discovery of every upstream that has one, and applies what it finds.

1. A discovery belongs to the name of an upstream and to its options: a reload that changes neither keeps it at work,
   also if the upstream itself is replaced.
2. Changed options mean a new discovery. The addresses in force stay until its first successful lookup.
3. A change is applied to every upstream of that name which still has exchanges, so that no retry uses an old address.
4. A discovery that raises is started again after a pause.
5. A start and a reload wait for the first answers of new discoveries, for FIRST_ANSWERS_S at most: otherwise the first
   requests to a process that takes over would find no endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from relayd import clock
from relayd.config.model import Config
from relayd.daemon.endpoint_lists import parse_endpoints
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.plan.specs import discovered_specs, discovery_spec, endpoint_spec
from relayd.telemetry.metrics import Labels
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.discovered import Address, Discovered, Discovery, Tools, discovery
from relayd.upstream.spec import DiscoverySpec, EndpointSpec
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.upstream import Upstream

LOG = logging.getLogger("relayd.discovery")
RESTART_S = 5.0
FIRST_ANSWERS_S = 2.0
URGED_S = 1.0  # between two lookups because of endpoints that cannot be reached
REPEATED_S = 600.0  # between two log lines about the same fault


class DiscoveryService:
    """A service."""

    def __init__(self, client: StreamClient, telemetry: Telemetry) -> None:
        self._requests, self._telemetry = ApiRequests(client), telemetry
        self._tools = Tools(parse_endpoints, lambda url: self._requests.connect(endpoint_spec(url)))
        self._running: dict[str, Running] = {}
        self._prepared: dict[str, Running] = {}  # of a configuration that is not in force yet

    async def prepare(self, config: Config) -> None:
        """Start the new discoveries of a configuration, and wait for their first answers."""
        specs = {name: discovery_spec(upstream.discovery) for name, upstream in config.upstreams.items()}
        known = {name: running.spec for name, running in self._running.items()}
        for name, spec in specs.items():
            if spec is not None and known.get(name) != spec:
                self._prepared[name] = self._begin(name, spec)
        if self._prepared:
            answers = (running.answered.wait() for running in self._prepared.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ANSWERS_S):
                    await asyncio.gather(*answers)

    def discard(self) -> None:
        """End the discoveries of a configuration that did not come into force."""
        for running in self._prepared.values():
            running.close()
        self._prepared.clear()

    def _begin(self, name: str, spec: DiscoverySpec) -> Running:
        running = Running(name, spec, discovery(spec, self._tools), self._telemetry)
        running.start()
        return running

    def commit(self, plan: Plan) -> None:
        """Keep, start and end discoveries, so that they are those of the plan."""
        specs = {name: one.spec.discovery for name, one in plan.upstreams.items() if one.spec.discovery is not None}
        for name in [name for name, running in self._running.items() if specs.get(name) != running.spec]:
            self._running.pop(name).close()
        for name, spec in specs.items():
            running = self._running.get(name)
            if running is None:
                prepared = self._prepared.get(name)
                is_same = prepared is not None and prepared.spec == spec
                running = self._prepared.pop(name) if is_same else self._begin(name, spec)
                self._running[name] = running
            running.attach(plan.upstreams[name])
        self.discard()

    def start(self, timers: Timers) -> None:
        """Nothing is periodic: each discovery has a task."""

    def gauges(self) -> None:
        running, gauges = self._running, self._telemetry.metrics.set_gauges
        counts: dict[Labels, float] = {(name,): len(one.upstreams[0].assigned) for name, one in running.items()}
        gauges("relayd.discovery.endpoints", counts)
        ages_s = {(name,): one.state.age_s() for name, one in running.items()}
        gauges("relayd.discovery.interval", {(name,): one.interval_s for name, one in running.items()})
        gauges("relayd.discovery.age", {key: round(age_s, 1) for key, age_s in ages_s.items() if age_s is not None})

    def close(self) -> None:
        self.discard()
        for running in self._running.values():
            running.close()
        self._running.clear()
        self._requests.close()


class Running:
    """The discovery of one upstream at work; the receiver of its reports. `upstreams` begins with that of the plan; it
    is empty before the configuration comes into force. `answered` is set by the first report."""

    def __init__(self, name: str, spec: DiscoverySpec, kind: Discovery, telemetry: Telemetry) -> None:
        self.name, self.spec = name, spec
        self.state, self.interval_s = Discovered(kind.source), kind.interval_s
        self.upstreams: list[Upstream] = []
        self.answered = asyncio.Event()
        self._addresses: tuple[Address, ...] = ()
        self._note = ""  # of the kind
        self._urged = asyncio.Event()
        self.state.look_again = self._urged.set
        self._kind, self._telemetry = kind, telemetry
        self._task: asyncio.Task[None] | None = None

    def attach(self, upstream: Upstream) -> None:
        """Serve the upstream of a new plan, and its predecessors while they have exchanges."""
        upstream.discovered = self.state
        self.upstreams = [upstream, *(one for one in self.upstreams if one is not upstream and one.opened)]
        if self.state.found_s is not None:
            self._apply()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self._kind.run(self)
            except Exception as error:  # rescue door: a fault of one discovery must not end it for ever
                LOG.error("discovery of %s", self.name, exc_info=error)
                self.failed(f"internal fault: {type(error).__name__}")
            await asyncio.sleep(RESTART_S)

    def found(self, addresses: Sequence[Address], note: str = "") -> None:
        """Apply the complete list of addresses."""
        state = self.state
        self._addresses, self._note = tuple(addresses), note
        if state.fault:
            self._telemetry.journal.limited(  # as often as the fault itself
                f"discovery:{self.name}:recovered:{state.fault}", REPEATED_S, "info", "discovery_recovered",
                upstream=self.name, source=state.source,
            )
        state.found_s, state.fault = clock.monotonic(), ""
        self.answered.set()
        if self.upstreams:
            self._apply()

    def confirmed(self) -> None:
        """Note that the addresses that were found last are still those of the source."""
        self.state.found_s = clock.monotonic()

    def _apply(self) -> None:
        """Apply the addresses that were found last."""
        state, upstream = self.state, self.upstreams[0]
        specs, note = discovered_specs(self._addresses, self.spec, upstream.spec.balance.kind)
        note = "; ".join(part for part in (self._note, note) if part)
        if note and note != state.note:
            self._telemetry.journal.limited(
                f"discovery:{self.name}:{note}", REPEATED_S, "warning", "discovery_note", note, upstream=self.name,
                source=state.source,
            )
        state.note = note
        if specs != upstream.assigned:
            state.changes += 1
            state.changed_s = state.found_s
            self._telemetry.metrics.add("relayd.discovery.changes", upstream=self.name)
            self._set(specs)

    async def pause(self, seconds: float) -> None:
        """Wait before the next lookup; shorter if an endpoint cannot be reached meanwhile."""
        soonest_s = min(seconds, URGED_S)
        await asyncio.sleep(soonest_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - soonest_s):
                await self._urged.wait()
        self._urged.clear()

    def failed(self, reason: str, expired: bool = False) -> None:
        """Report a failed lookup. The addresses stay, unless they have expired."""
        state = self.state
        state.failures += 1
        self._telemetry.metrics.add("relayd.discovery.failures", upstream=self.name)
        if reason != state.fault:
            stays = "The addresses found last stay in use."
            if state.found_s is None:
                stays = "Until its first successful lookup the previous addresses stay in use, if there are any."
            self._telemetry.journal.limited(
                f"discovery:{self.name}:{reason}", REPEATED_S, "warning", "discovery_failed", stays, upstream=self.name,
                source=state.source, why=reason,
            )
            state.fault = reason
        if expired:
            self._addresses = ()
        self.answered.set()
        if self.upstreams and expired and self.upstreams[0].assigned:
            self._set(())

    def _set(self, specs: Sequence[EndpointSpec]) -> None:
        self.upstreams = [self.upstreams[0], *(one for one in self.upstreams[1:] if one.opened)]
        for upstream in self.upstreams:
            upstream.set_endpoints(specs, self.state.source)
