"""Upstreams across a reload: retained, created and retired between two plans."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.dataclass import dataclass
from relayd.plan.plan import Plan
from relayd.upstream.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Carryover:
    """Live upstreams: `retained` are in both plans, `created` only in the new one, `retired` only in the old one.
    `replaced` are the retired ones by name that have a successor, which inherits their state."""

    retained: tuple[Upstream, ...]
    created: tuple[Upstream, ...]
    retired: tuple[Upstream, ...]
    replaced: Mapping[str, Upstream]


def carryover(old: Plan | None, new: Plan) -> Carryover:
    """Compare two plans by identity: an upstream whose spec changed is one retired and one created upstream."""
    before = {} if old is None else {id(upstream): upstream for upstream in old.upstreams.values()}
    after = {id(upstream): upstream for upstream in new.upstreams.values()}
    created = tuple(upstream for key, upstream in after.items() if key not in before)
    predecessors = {} if old is None else old.upstreams
    return Carryover(
        retained=tuple(upstream for key, upstream in after.items() if key in before),
        created=created,
        retired=tuple(upstream for key, upstream in before.items() if key not in after),
        replaced={one.name: predecessors[one.name] for one in created if one.name in predecessors},
    )
