"""Identity: the consumer of a request, with everything that later phases must know of it.

1. An identity is compiled once: per consumer of the configuration, per key of the key store, per verified token. A
   request looks up nothing by name.
2. `routes` is the complete list of routes of an identity; without it, the `allow` of each route decides.
"""

from __future__ import annotations

from dataclasses import field

from relayd.dataclass import dataclass
from relayd.limits.gate import Gate
from relayd.limits.limit_set import LimitSet
from relayd.wire.glob import Glob


@dataclass(frozen=True, slots=True)
class Identity:
    """An identified consumer.

    `name` is the consumer in the record, log, metrics and counters. `entry` is the name that `allow` of a route
    compares; it differs from `name` only for an entry of `consumers` that stands for many parties. `group` is empty
    without one. `models` has the patterns of the models that may be used, `routes` the names of the routes; None means
    no such restriction. `gates` are the limits of the consumer and of its group. `limit_sets` are the
    rates and budgets of both.
    """

    name: str
    entry: str = ""
    group: str = ""
    models: tuple[str, ...] | None = None
    routes: frozenset[str] | None = None
    priority: int = 0
    gates: tuple[Gate, ...] = ()
    limit_sets: tuple[LimitSet, ...] = ()
    _globs: tuple[Glob, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_globs", tuple(Glob.of_model(one) for one in self.models or ()))
        if not self.entry:
            object.__setattr__(self, "entry", self.name)

    @property
    def by_model(self) -> bool:
        """True if what a request may use depends on its model."""
        return self.models is not None or any(one.by_model for one in self.limit_sets)

    def may_use(self, model: str) -> bool:
        """True if this model, by the name that the client uses, is allowed."""
        return self.models is None or any(glob.match(model) is not None for glob in self._globs)

    def may_enter(self, route: str, allow: frozenset[str] | None) -> bool:
        """True if a route of this name with this `allow` (None: no key is needed) can be used."""
        if self.routes is not None:
            return route in self.routes
        return allow is None or self.entry in allow or (bool(self.group) and self.group in allow)
