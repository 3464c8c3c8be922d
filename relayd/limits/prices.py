"""The prices of models, and the cost of an exchange.

1. All arithmetic is on whole numbers of nano-units (10^-9 of the currency), so that sums are exact.
2. The cost of an exchange is rounded up to the next nano-unit, once.
3. A price is looked up by the model's name at the endpoint, then by the client's name for it. For each name, the prices
   of the upstream come before those of all upstreams; among these an exact name comes before a pattern, and the pattern
   with the most literal text before the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.usage import Usage
from relayd.wire.glob import Glob, without_case

MILLION = 1_000_000
MAX_CACHED = 4096


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model in nano-units: per million tokens of each kind, per request and per image.

    `input` and `output` apply to the tokens that have no price of their own kind: input tokens that were neither read
    from the provider's prompt cache (`cached_read`) nor written to it (`cache_write`), and output tokens that were not
    spent on thinking (`reasoning`). See `price` for omitted prices. `highest_input` and `highest_output` are those of
    the most expensive kind.
    """

    input: int
    output: int
    cached_read: int
    cache_write: int
    reasoning: int
    request: int
    image: int
    highest_input: int = field(init=False, compare=False, repr=False, default=0)
    highest_output: int = field(init=False, compare=False, repr=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "highest_input", max(self.input, self.cached_read, self.cache_write))
        object.__setattr__(self, "highest_output", max(self.output, self.reasoning))

    @property
    def has_token_prices(self) -> bool:
        """False if the cost does not depend on tokens."""
        return bool(self.input or self.output or self.cached_read or self.cache_write or self.reasoning)

    def cost(self, usage: Usage, images: int = 0) -> int:
        """The cost in nano-units of one request with these token counts and this number of images."""
        input_tokens, output_tokens, reasoning = usage.input, usage.output, usage.reasoning
        per_million = 0
        if usage.cached_read or usage.cache_creation:
            input_tokens = usage.uncached_input
            per_million = usage.cached_read * self.cached_read + usage.cache_creation * self.cache_write
        if reasoning:
            output_tokens = max(0, output_tokens - reasoning)
            per_million += reasoning * self.reasoning
        per_million += input_tokens * self.input + output_tokens * self.output
        return -(-per_million // MILLION) + self.request + images * self.image

    def most(self, input_tokens: int, output_tokens: int, images: int = 0) -> int:
        """The highest possible cost in nano-units of one request, whatever its tokens are spent on."""
        per_million = input_tokens * self.highest_input + output_tokens * self.highest_output
        return -(-per_million // MILLION) + self.request + images * self.image


def price(
    *, input: int = 0, output: int = 0, cached_read: int | None = None, cache_write: int | None = None,
    reasoning: int | None = None, request: int = 0, image: int = 0,
) -> Price:
    """A price from its given parts in nano-units. Omitted, `cached_read` and `cache_write` cost as much as `input`, and
    `reasoning` as much as `output`."""
    return Price(
        input, output, input if cached_read is None else cached_read, input if cache_write is None else cache_write,
        output if reasoning is None else reasoning, request, image,
    )


_NEVER_SOUGHT = price()


class Prices:
    """All prices of one configuration, in one currency. Immutable except for a bounded cache of look-ups."""

    __slots__ = ("_cache", "_general", "_upstreams", "counts_images", "currency", "refuses_unpriced")

    def __init__(
        self, currency: str, models: Iterable[tuple[str, Price]],
        upstreams: Mapping[str, Iterable[tuple[str, Price]]] | None = None, *, refuses_unpriced: bool = False,
    ) -> None:
        """`models` has the prices by name or pattern of the model, in the order of the file; `upstreams` those that
        apply to one upstream only. `refuses_unpriced`: a request without a price is refused if a budget applies."""
        self.currency, self.refuses_unpriced = currency, refuses_unpriced
        self._general = _Table(models)
        self._upstreams = {name: _Table(rules) for name, rules in (upstreams or {}).items()}
        #: True if a price depends on the number of images.
        self.counts_images = any(table.has_image_prices for table in (self._general, *self._upstreams.values()))
        self._cache: dict[tuple[str, str, str], Price | None] = {}

    def price(self, upstream: str, model: str, public: str = "") -> Price | None:
        """The price of a model at an upstream, None if it is unknown. `public` is the client's name for the model."""
        key = (upstream, model, public)
        found = self._cache.get(key, _NEVER_SOUGHT)
        if found is not _NEVER_SOUGHT:
            return found
        if len(self._cache) >= MAX_CACHED:  # clients choose names: bounded
            self._cache.clear()
        found = self._cache[key] = self._find(upstream, (model, public))
        return found

    def _find(self, upstream: str, names: Iterable[str]) -> Price | None:
        own = self._upstreams.get(upstream)
        for name in names:
            for table in (own, self._general):
                if name and table is not None and (found := table.find(name)) is not None:
                    return found
        return None

    def cost(self, upstream: str, model: str, usage: Usage, *, public: str = "", images: int = 0) -> int | None:
        """The cost in nano-units of a request with these token counts; None if the price is unknown."""
        found = self.price(upstream, model, public)
        return None if found is None else found.cost(usage, images)

    def most(
        self, upstream: str, model: str, input_tokens: int, output_tokens: int, *, public: str = "", images: int = 0
    ) -> int | None:
        """The highest possible cost in nano-units of a request with these numbers of tokens, for a reservation; None if
        the price is unknown."""
        found = self.price(upstream, model, public)
        return None if found is None else found.most(input_tokens, output_tokens, images)


class _Table:
    """Prices by name or pattern."""

    __slots__ = ("_exact", "_patterns", "has_image_prices")

    def __init__(self, rules: Iterable[tuple[str, Price]]) -> None:
        self._exact: dict[str, Price] = {}
        patterns: list[tuple[str, Price]] = []
        self.has_image_prices = False
        for name, found in rules:
            self.has_image_prices = self.has_image_prices or found.image > 0
            if "*" in name:
                patterns.append((name, found))
            else:
                self._exact.setdefault(without_case(name), found)
        patterns.sort(key=lambda rule: rule[0].count("*") - len(rule[0]))  # a stable sort keeps the file's order
        self._patterns = tuple((Glob.of_model(name), found) for name, found in patterns)

    def find(self, name: str) -> Price | None:
        if (exact := self._exact.get(without_case(name))) is not None:
            return exact
        return next((found for glob, found in self._patterns if glob.match(name) is not None), None)
