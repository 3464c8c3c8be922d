"""The rates and budgets of a configuration, by the object that has them."""

from __future__ import annotations

from collections.abc import Iterator

from relayd.config.model import Config
from relayd.config.rates import rules_of
from relayd.limits.counter import Rule
from relayd.limits.ledger import Ledger
from relayd.limits.limit_set import LimitSet


def limit_sets(config: Config, ledger: Ledger) -> dict[str, LimitSet]:
    """The limit sets of `upstream NAME`, `route NAME`, `group NAME` and `consumer NAME`, for those with limits."""
    return {scope: LimitSet(rules, ledger) for scope, rules in _rules(config) if rules}


def _rules(config: Config) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    for name, upstream in config.upstreams.items():
        yield f"upstream {name}", rules_of(f"upstream {name}", upstream.rates, upstream.budget)
    for route in config.routes:
        yield f"route {route.name}", rules_of(f"route {route.name}", route.rates, route.budget)
    for name, group in config.groups.items():
        yield f"group {name}", rules_of(f"group {name}", group.rates, group.budget)
    for name, consumer in config.consumers.items():
        yield f"consumer {name}", rules_of(f"consumer {name}", consumer.rates, consumer.budget)
