"""Compiles the features of a route beyond one attempt at one upstream: dialects, targets, fallbacks, gates."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.config.model import Config
from relayd.config.resilience import Fallback
from relayd.config.route import Route
from relayd.dataclass import dataclass
from relayd.limits.gate import Gate
from relayd.limits.limit_set import LimitSet
from relayd.plan.plan import Resilience, Target
from relayd.protocols import registry
from relayd.protocols.dialect import Dialect
from relayd.routing.models import ModelTable, Rule
from relayd.upstream.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Parts:
    """The components of targets; used by one compilation."""

    config: Config
    upstreams: Mapping[str, Upstream]
    dialects: Mapping[str, Dialect]
    gates: Mapping[str, Gate]
    limit_sets: Mapping[str, LimitSet]

    def target(self, upstream: str, model: str | None = None, on: tuple[str, ...] = ()) -> Target:
        """Create one target. Raises KeyError for an upstream that is not in the plan."""
        live = self.upstreams[upstream]
        return Target(
            upstream=live, model=model, on=frozenset(on), dialect=self.dialects.get(live.spec.protocol),
            gate=self.gates.get(f"upstream {upstream}"), limit_set=self.limit_sets.get(f"upstream {upstream}"),
        )

    def fallbacks(self, written: tuple[Fallback, ...]) -> tuple[Target, ...]:
        """The targets of `fallbacks:` whose upstream is in the plan, in their order."""
        return tuple(self.target(one.upstream, one.model, one.on) for one in written if one.upstream in self.upstreams)


def dialects_of(config: Config) -> dict[str, Dialect]:
    """The dialects that this configuration uses, by name; no other is loaded."""
    names: set[str] = {upstream.protocol for upstream in config.upstreams.values()}
    names |= {route.protocol for route in config.routes if route.protocol is not None}
    return {name: registry.load(name) for name in sorted(names - {registry.PLAIN})}


def model_table(config: Config) -> ModelTable:
    """`models:` as a lookup table."""
    return ModelTable(Rule(name, model.upstream, model.model) for name, model in config.models.items())


def model_targets(config: Config, parts: Parts) -> dict[str, tuple[Target, ...]]:
    """The target and the fallbacks of each entry of `models:`."""
    return {
        name: (parts.target(model.upstream, model.model), *parts.fallbacks(model.fallbacks))
        for name, model in config.models.items()
        if model.upstream in parts.upstreams
    }


def resilience_of(route: Route, parts: Parts) -> Resilience | None:
    """Compile the features of a route; None if one plain attempt is sufficient."""
    by_model = route.upstream == "by_model"
    live = parts.upstreams.get(route.upstream or "")
    if live is None and not by_model:
        return None
    upstream_protocol = registry.PLAIN if live is None else live.spec.protocol
    dialect = parts.dialects.get(route.protocol or upstream_protocol)
    if by_model and dialect is None:
        dialect = registry.load(registry.DEFAULT)
    split: list[tuple[float, Target]] = []
    if live is not None:
        canary = route.canary if route.canary is not None and route.canary.upstream in parts.upstreams else None
        split.append((100.0 - (0.0 if canary is None else canary.weight), parts.target(live.name)))
        if canary is not None and canary.weight:
            split.append((canary.weight, parts.target(canary.upstream)))
    fallbacks = parts.fallbacks(route.fallbacks)
    mirror = route.mirror if route.mirror is not None and route.mirror.upstream in parts.upstreams else None
    gate = parts.gates.get(f"route {route.name}")
    targets = [target for _, target in split]
    policies = [target.upstream.retries.spec for target in (*targets, *fallbacks)]
    retries = any(policy.attempts > 1 for policy in policies)
    needs_translation = dialect is not None and any(
        target.dialect is not None and target.dialect is not dialect for target in (*targets, *fallbacks)
    )
    if (
        dialect is None and gate is None and mirror is None and not retries and not fallbacks
        and not route.tells_attempts and len(split) < 2
        and targets[0].gate is None and targets[0].upstream.affinity is None
    ):
        return None
    keepalive = route.keepalive
    return Resilience(
        dialect=dialect, by_model=by_model, split=tuple(split), fallbacks=fallbacks,
        mirror=None if mirror is None else parts.target(mirror.upstream),
        mirror_share=0.0 if mirror is None else mirror.share,
        gate=gate,
        needs_body=(
            by_model or needs_translation or (retries and dialect is not None) or bool(fallbacks) or mirror is not None
            or any(target.upstream.affinity is not None and target.upstream.affinity.needs_body for target in targets)
        ),
        keepalive_s=15.0 if keepalive is None else float(keepalive),
        passthrough_keepalive_s=0.0 if keepalive is None else float(keepalive),
        tells_attempts=route.tells_attempts,
        counts_models=any(
            one is not None and one.by_model for one in (
                parts.limit_sets.get(f"route {route.name}"),
                *(target.limit_set for target in (*targets, *fallbacks)),
            )
        ),
        serves_websocket=dialect is not None and dialect.websocket is not None and not route.upgrade,
    )
