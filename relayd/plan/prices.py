"""Compiles `prices:` into the prices that exchanges use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.config.prices import ModelPrice, PriceList
from relayd.limits.prices import Price, Prices, price


def prices_of(section: PriceList | None) -> Prices | None:
    """The prices of a configuration, None without any."""
    if section is None:
        return None
    upstreams = {name: _rules(models) for name, models in section.upstreams.items()}
    return Prices(
        section.currency, _rules(section.models), upstreams, refuses_unpriced=section.unpriced == "refuse"
    )


def _rules(models: Mapping[str, ModelPrice]) -> Iterator[tuple[str, Price]]:
    for name, one in models.items():
        yield name, price(
            input=one.input or 0, output=one.output or 0, cached_read=one.cached_read, cache_write=one.cache_write,
            reasoning=one.reasoning, request=one.request or 0, image=one.image or 0,
        )
