"""From the word in `balance:` to its balancer, and what every balancer can do.

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
    """Ranks endpoints; who may be asked at all is decided before. Made with its Options and a source of chance.

    `affinity` makes the keys of requests, None for a kind that takes none. `numbers_endpoints` says that endpoints
    without a priority of their own have their place in the list as one.
    """

    @property
    def affinity(self) -> Affinity | None: ...
    @property
    def numbers_endpoints(self) -> bool: ...

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """All endpoints of the upstream, also those that may not be asked now; again when they change."""

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """One of the candidates: available, with room, of one priority, and at least two. `key` may be used."""


def balancer(spec: BalanceSpec, chance: Callable[[], float]) -> Balancer:
    """A new balancer."""
    module = registry.load(FOLDER, spec.kind)
    made: Balancer = module.Balancer(module.Options() if spec.options is None else spec.options, chance)
    return made


def numbers_endpoints(kind: str) -> bool:
    """Whether endpoints without a priority of their own are numbered as they stand in the list."""
    return bool(registry.load(FOLDER, kind).Balancer.numbers_endpoints)
