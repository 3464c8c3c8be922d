"""From the word in `balance:` to its balancer, and what every balancer can do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from relayd import registry
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import BalanceSpec

FOLDER = "relayd.upstream.balancers"


class Balancer(Protocol):
    """Ranks endpoints; who may be asked at all is decided before."""

    def join(self, endpoints: Sequence[Endpoint]) -> None:
        """All endpoints of the upstream, also those that may not be asked now; again when they change."""

    def pick(self, candidates: Sequence[Endpoint], key: int | None) -> Endpoint:
        """One of the candidates: available, with room, of one priority, and at least two. `key` may be used."""


def options_of(kind: str, values: dict[str, Any]) -> object:
    """The Options of a kind, from the values that it knows."""
    made = registry.load(FOLDER, kind).Options
    known = inspect.signature(made).parameters
    return made(**{name: value for name, value in values.items() if name in known})


def balancer(spec: BalanceSpec, chance: Callable[[], float]) -> Balancer:
    """A new balancer; `chance` is handed to those that draw."""
    module = registry.load(FOLDER, spec.kind)
    options = module.Options() if spec.options is None else spec.options
    draws = "chance" in inspect.signature(module.Balancer).parameters
    made: Balancer = module.Balancer(options, chance) if draws else module.Balancer(options)
    return made
