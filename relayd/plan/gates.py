"""The gates of a plan: one for each thing that has `limits:`, kept over reloads by its name in the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.config.limits import Limits
from relayd.config.model import Config
from relayd.limits.gate import UNLIMITED, Gate, GateLimits


def limits_of(limits: Limits) -> GateLimits:
    """The section as a gate takes it."""
    return GateLimits(limits.requests, limits.queue, float(limits.queue_timeout), float(limits.ageing))


def wanted(config: Config) -> Iterator[tuple[str, GateLimits]]:
    """Every limited thing by its path in the configuration."""
    for name, upstream in config.upstreams.items():
        if upstream.limits.requests:
            yield f"upstreams.{name}", limits_of(upstream.limits)
    for route in config.routes:
        if route.limits.requests:
            yield f"routes.{route.name}", limits_of(route.limits)
    for name, consumer in config.consumers.items():
        if consumer.limits.requests:
            yield f"consumers.{name}", limits_of(consumer.limits)


def gates_of(config: Config, previous: Mapping[str, Gate]) -> tuple[dict[str, Gate], dict[str, GateLimits]]:
    """The gates, those of the plan before where the name is the same, and the limits that a commit puts in force."""
    limits = dict(wanted(config))
    return {name: previous.get(name) or Gate(name, limit) for name, limit in limits.items()}, limits


def put_in_force(gates: Mapping[str, Gate], limits: Mapping[str, GateLimits], previous: Mapping[str, Gate]) -> None:
    """Tell the gates their limits; those that are no more limit nobody, so that whoever waits there goes on."""
    for name, gate in gates.items():
        gate.configure(limits[name])
    for name, gate in previous.items():
        if name not in gates:
            gate.configure(UNLIMITED)
