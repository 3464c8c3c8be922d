"""What lives on over a reload: which upstreams are kept, made and retired between two plans."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.plan.plan import Plan
from relayd.upstream.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Carryover:
    """Live upstreams: `kept` are in both plans, `made` only in the new one, `retired` only in the old one."""

    kept: tuple[Upstream, ...]
    made: tuple[Upstream, ...]
    retired: tuple[Upstream, ...]


def carryover(old: Plan | None, new: Plan) -> Carryover:
    """Compare two plans by identity: an upstream of the same name with another spec is one retired and one made."""
    before = {} if old is None else {id(upstream): upstream for upstream in old.upstreams.values()}
    after = {id(upstream): upstream for upstream in new.upstreams.values()}
    return Carryover(
        kept=tuple(upstream for key, upstream in after.items() if key in before),
        made=tuple(upstream for key, upstream in after.items() if key not in before),
        retired=tuple(upstream for key, upstream in before.items() if key not in after),
    )
