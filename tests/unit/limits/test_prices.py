"""Prices: what a request costs is exact, and computed here a second time with decimal numbers."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.prices import MAX_CACHED, Price, Prices, price
from relayd.usage import Usage

NANO = Decimal(10) ** 9
DEAR, CHEAP, OWN = price(input=30), price(input=2), price(input=1)


def expected_nano(prices: dict[str, Decimal], usage: Usage, images: int) -> int:
    """The cost by the words of the manual. `prices` are in units of the currency."""
    plain_input = max(0, usage.input - usage.cached_read - usage.cache_creation)
    tokens = {
        "input": plain_input, "cached_read": usage.cached_read, "cache_write": usage.cache_creation,
        "output": max(0, usage.output - usage.reasoning), "reasoning": usage.reasoning,
    }
    otherwise = {"cached_read": "input", "cache_write": "input", "reasoning": "output"}
    total = Decimal(0)
    for kind, count in tokens.items():
        rate = prices.get(kind, prices.get(otherwise.get(kind, kind), Decimal(0)))
        total += rate * count / Decimal(1_000_000)
    total += prices.get("request", Decimal(0)) + prices.get("image", Decimal(0)) * images
    return int((total * NANO).to_integral_value(ROUND_CEILING))


COUNTS = st.integers(min_value=0, max_value=10**7)
KINDS = ("input", "output", "cached_read", "cache_write", "reasoning", "request", "image")


def price_of(nano: dict[str, int]) -> Price:
    return price(**nano)


@given(
    st.dictionaries(st.sampled_from(KINDS), st.integers(min_value=0, max_value=10**12)),
    st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS), st.integers(min_value=0, max_value=20),
)
def test_the_cost_is_that_of_decimal_arithmetic_rounded_up_once(nano: dict[str, int], usage: Usage, images: int) -> None:
    in_units = {kind: Decimal(amount) / NANO for kind, amount in nano.items()}
    assert price_of(nano).cost(usage, images) == expected_nano(in_units, usage, images)


@given(
    st.dictionaries(st.sampled_from(KINDS), st.integers(min_value=0, max_value=10**12)),
    COUNTS, COUNTS, st.integers(0, 9), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
)
def test_no_request_of_that_size_costs_more_than_the_most(
    nano: dict[str, int], tokens: int, output: int, images: int, read: float, written: float, thought: float
) -> None:
    cached = int(tokens * read)
    usage = Usage(tokens, output, cached, int((tokens - cached) * written), int(output * thought))
    found = price_of(nano)
    assert found.cost(usage, images) <= found.most(tokens, output, images)


def test_an_exact_name_comes_before_patterns_and_the_longest_pattern_before_others() -> None:
    prices = Prices("USD", [("*", DEAR), ("gpt-*", CHEAP), ("gpt-4o", OWN)])
    found = [prices.price("any", model) for model in ("gpt-4o", "gpt-4o-mini", "other")]
    assert found == [OWN, CHEAP, DEAR]


def test_the_prices_of_the_upstream_come_before_those_of_all() -> None:
    prices = Prices("USD", [("gpt-4o", DEAR)], {"reseller": [("gpt-*", CHEAP)]})
    assert prices.price("reseller", "gpt-4o") is CHEAP
    assert prices.price("provider", "gpt-4o") is DEAR
    assert prices.price("reseller", "o3") is None


def test_the_name_at_the_endpoint_comes_before_the_name_of_the_client() -> None:
    prices = Prices("USD", [("fast", DEAR), ("gpt-mini", CHEAP)])
    assert prices.price("any", "gpt-mini", "fast") is CHEAP
    assert prices.price("any", "unknown", "fast") is DEAR
    assert prices.price("any", "") is None


def test_an_unknown_price_is_no_cost_rather_than_none_at_all() -> None:
    prices = Prices("USD", [("free", price())])
    assert prices.cost("any", "free", Usage(5, 5)) == 0
    assert prices.cost("any", "unknown", Usage(5, 5)) is None
    assert prices.most("any", "unknown", 5, 5) is None


def test_names_that_clients_choose_do_not_fill_the_memory() -> None:
    prices = Prices("USD", [("*", CHEAP)])
    for number in range(MAX_CACHED + 10):
        prices.price("any", f"model-{number}")
    assert len(prices._cache) <= MAX_CACHED


def test_a_price_without_tokens_says_so() -> None:
    assert not price(request=5, image=3).has_token_prices
    assert price(reasoning=1).has_token_prices
