"""The balancer for a kind in `balance:`, and the interface of all balancers.

A kind is a module of balancers/ with a docstring (its manual entry), `Options` (its YAML keys) and a class `Balancer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from relayd import registry
from relayd.upstream.affinity import Affinity
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import BalanceSpec

FOLDER = "relayd.upstream.balancers"


class Balancer(Protocol):
    """Chooses among available endpoints. Constructed with its Options and a random source.

    `affinity` makes the keys of requests, None for a kind that uses no keys. If `numbers_endpoints` is true, the
    default priority of an endpoint is its index in the list.
    """

    @property
    def affinity(self) -> Affinity | None: ...
    @property
    def numbers_endpoints(self) -> bool: ...

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """Set all endpoints of the upstream, unavailable ones included. Called again when they change."""

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """Choose one of at least two candidates of the same priority, all available and with capacity. `key` is the
        affinity key of the request."""


def balancer(spec: BalanceSpec, chance: Callable[[], float]) -> Balancer:
    """A new balancer."""
    module = registry.load(FOLDER, spec.kind)
    made: Balancer = module.Balancer(module.Options() if spec.options is None else spec.options, chance)
    return made


def numbers_endpoints(kind: str) -> bool:
    """True if endpoints without a configured priority get their index in the list as priority."""
    return bool(registry.load(FOLDER, kind).Balancer.numbers_endpoints)
