"""The services that run beside the requests: one list, started, informed of each plan, and closed together.

A service has no side effects before `start`. The lifecycle creates the list, in the order in which it starts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from relayd.config.model import Config
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan


class Service(Protocol):
    """One service. Its methods are called from the event loop and do not wait."""

    def commit(self, plan: Plan) -> None:
        """Apply a plan that has come into force. Must not fail. The first call precedes `start`."""

    def start(self, timers: Timers) -> None:
        """Begin the periodic work. Called once, after the first plan has come into force."""

    def gauges(self) -> None:
        """Update gauges. Called before metrics are sent."""

    def close(self) -> None:
        """End all work. Called once, also after a failed start."""


class Lookup(Service, Protocol):
    """A service that asks other servers for what a configuration needs."""

    async def prepare(self, config: Config) -> None:
        """Begin what a new configuration looks up, and wait for the first answers, but not for long."""

    def discard(self) -> None:
        """End the preparations for a configuration that did not come into force."""


class Services:
    """All services of the process. Owned by the lifecycle."""

    def __init__(self, services: Iterable[Service], lookups: Iterable[Lookup] = ()) -> None:
        self._lookups = tuple(lookups)
        self._services = (*services, *self._lookups)

    async def prepare(self, config: Config) -> None:
        await asyncio.gather(*(one.prepare(config) for one in self._lookups))

    def discard(self) -> None:
        for one in self._lookups:
            one.discard()

    def commit(self, plan: Plan) -> None:
        for service in self._services:
            service.commit(plan)

    def start(self, timers: Timers) -> None:
        for service in self._services:
            service.start(timers)

    def gauges(self) -> None:
        for service in self._services:
            service.gauges()

    def close(self) -> None:
        for service in reversed(self._services):
            service.close()
