"""The rates and budgets of one object (consumer, group, route, upstream), and its counters for a request."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from relayd.limits.counter import REQUESTS, Counter, Rule
from relayd.limits.ledger import Ledger
from relayd.wire.glob import without_case


class Selectors(NamedTuple):
    """The properties of a request on which counters depend. `consumer` is empty without one, `client` an address."""

    model: str
    consumer: str
    client: str

    def value(self, each: str) -> str:
        """The value of one kind of `each`."""
        if each == "model":
            return without_case(self.model)
        return self.consumer if each == "consumer" and self.consumer else network_of(self.client)


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The address of one client: an IPv6 address is that of its network of 64 bits, because a host has all of them."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class LimitSet:
    """Compiled for a plan, or for a key of the key store. `always` are the counters of every request, `early` those of
    them that can refuse it before its body is read; `selective` are the rules whose counters depend on the request,
    with the counter of those without `each`. `by_tokens` is true if some counter needs an estimate of tokens."""

    __slots__ = ("_ledger", "always", "by_tokens", "early", "rules", "selective")

    def __init__(self, rules: Iterable[Rule], ledger: Ledger) -> None:
        self.rules = tuple(rules)
        self._ledger = ledger
        self.by_tokens = any(rule.measure != REQUESTS for rule in self.rules)
        fixed = {rule: ledger.counter(rule) for rule in self.rules if rule.each == "none"}
        self.always = tuple(counter for rule, counter in fixed.items() if not rule.model)
        self.selective = tuple((rule, fixed.get(rule)) for rule in self.rules if rule.model or rule.each != "none")
        self.early = tuple(counter for counter in self.always if not counter.counts_only and not counter.rule.wait_s)

    @property
    def by_model(self) -> bool:
        """True if a counter depends on the model of a request."""
        return any(rule.model or rule.each == "model" for rule in self.rules)

    def fixed(self) -> list[Counter]:
        """The counters that do not depend on the request."""
        return [*self.always, *[counter for _, counter in self.selective if counter is not None]]

    def counters(self, selectors: Selectors) -> tuple[Counter, ...]:
        """The counters of a request."""
        return (*self.always, *[
            self._ledger.counter_of(rule, selectors.value(rule.each)) if counter is None else counter
            for rule, counter in self.selective if rule.selects(selectors.model)
        ])

    def used_up(self) -> Counter | None:
        """A counter that refuses every request now, whatever its model. Nothing is reserved."""
        for counter in self.early:
            limit = counter.limit  # no time is needed as long as there is room: what is used only becomes less with it
            if counter.window.used >= limit and counter.advance(self._ledger.now()) >= limit:
                return counter
        return None
