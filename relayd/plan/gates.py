"""The limits of a configuration, by gate name."""

from __future__ import annotations

from collections.abc import Iterator

from relayd.config.limits import Limits
from relayd.config.model import Config
from relayd.limits.gate import GateLimits


def gate_limits(config: Config) -> dict[str, GateLimits]:
    """The limits of each limited object: `upstream NAME`, `route NAME`, `consumer NAME`, `group NAME`."""
    return dict(_limits(config))


def _limits(config: Config) -> Iterator[tuple[str, GateLimits]]:
    sections: list[tuple[str, str, Limits]] = [("upstream", name, one.limits) for name, one in config.upstreams.items()]
    sections += [("route", one.name, one.limits) for one in config.routes]
    sections += [("consumer", name, one.limits) for name, one in config.consumers.items()]
    sections += [("group", name, one.limits) for name, one in config.groups.items()]
    for kind, name, limits in sections:
        if limits.requests or limits.queue:  # a queue without requests waits for capacity of the endpoints
            yield (
                f"{kind} {name}",
                GateLimits(
                    limits.requests, limits.queue, float(limits.queue_timeout), float(limits.ageing), limits.shared
                ),
            )
