"""The prices of the file become those of the plan."""

from __future__ import annotations

from relayd.config.prices import TOKENS, ModelPrice, PriceList
from relayd.limits.prices import price
from relayd.plan.prices import prices_of
from relayd.schema import Money


def test_without_prices_nothing_has_a_cost() -> None:
    assert prices_of(None) is None


def test_every_price_of_the_file_arrives_and_an_omitted_one_follows_its_kind() -> None:
    whole = ModelPrice(**{key: Money(place) for place, key in enumerate((*TOKENS, "request", "image"), 1)})
    found = prices_of(PriceList(
        currency="EUR", models={"a": whole, "b": ModelPrice(input=Money(5), output=Money(7))},
        upstreams={"u": {"a": ModelPrice(request=Money(9))}},
    ))
    assert found is not None
    assert found.currency == "EUR"
    assert found.price("x", "a") == price(
        input=1, output=2, cached_read=3, cache_write=4, reasoning=5, request=6, image=7)
    assert found.price("x", "b") == price(input=5, output=7, cached_read=5, cache_write=5, reasoning=7)
    assert found.price("u", "a") == price(request=9)
