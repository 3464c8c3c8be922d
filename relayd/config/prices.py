"""`prices:` what requests to AI endpoints cost: a file with prices per model.

The loader reads the file in place of its path, so that its contents are a section like any other, with faults at their
lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from relayd.config.route import Route
from relayd.config.upstream import Model, Upstream
from relayd.protocols import registry
from relayd.schema import Money, section, setting
from relayd.schema import nodes as tree
from relayd.schema.scalars import meant
from relayd.wire.glob import Glob, without_case

KEYS = ("currency", "unpriced", "models", "upstreams")
LEAST_LIKELY = Money(100_000)  # 0.0001 per million tokens: no endpoint is that cheap
SHOWN = 5
ANY = "*"
TOKENS = ("input", "output", "cached_read", "cache_write", "reasoning")

Report = Callable[[tree.Mark, str, str, str], object]


@section()
class ModelPrice:
    """The price of a model. Prices of tokens are per million tokens. An omitted price of cached tokens is that of other
    input, an omitted price of reasoning that of other output; every other omitted price is 0."""

    input: Money | None = setting(default=None, doc="Input tokens, except those that have a price of their own.", example=Money(2_500_000_000))
    output: Money | None = setting(default=None, doc="Output tokens, except those that have a price of their own.", example=Money(10_000_000_000))
    cached_read: Money | None = setting(default=None, doc="Input tokens that the endpoint read from its prompt cache.", example=Money(1_250_000_000))
    cache_write: Money | None = setting(default=None, doc="Input tokens that the endpoint wrote to its prompt cache.", example=Money(3_750_000_000))
    reasoning: Money | None = setting(default=None, doc="Output tokens that the model spent on thinking.", example=Money(10_000_000_000))
    request: Money | None = setting(default=None, doc="Each request.", example=Money(5_000_000))
    image: Money | None = setting(default=None, doc="Each image in the request, and each image that is requested from an API that generates images.", example=Money(40_000_000))

    def check(self) -> Iterable[tuple[str, str]]:
        if all(getattr(self, key) is None for key in (*TOKENS, "request", "image")):
            yield "", "needs a price; a model that costs nothing has input: 0"

    def caution(self) -> Iterable[tuple[str, str]]:
        for key in TOKENS:
            price = getattr(self, key)
            if price is not None and 0 < price < LEAST_LIKELY:
                yield key, "is less than 0.0001; prices are per million tokens"


@section(shorthand="file")
class PriceList:
    """The prices of models, usually in a file of their own: `prices: /etc/relayd/prices.yaml`. `relayd prices import` makes
    the file from a price list of LiteLLM or OpenRouter. With prices, the cost of each request is in the access log and
    in the metrics, and is added up for `relayd spend`.

    A name of a model may contain `*`, which matches any text. An exact name comes first, then the pattern with the most
    literal text. The price is looked up by the name of the model at the endpoint, then by the name that the client used,
    then by the name that the response reports. A request without a price has no cost; `relayd spend` counts it as
    unpriced. The cost of a request whose tokens were not reported is an estimate (relayd-rates(7)), and marked as such.
    """

    file: str | None = setting(default=None, doc="Path of a file with the other keys of this section. In this file, the models may also stand beside `currency`, without `models`.")
    currency: str = setting(default="USD", doc="The currency of all prices, as a code of ISO 4217.", pattern="[A-Z]{3}", form="a code of three capital letters", example="EUR")
    unpriced: Literal["allow", "refuse"] = setting(default="allow", doc="Requests to which a budget applies, but whose model has no price at the upstream: `allow` lets them through at no cost and logs `model_unpriced`, at most once a day for each model; `refuse` answers them 403 (unpriced_model). A budget with `shadow` refuses nothing.")
    models: Mapping[str, ModelPrice] = setting(factory=dict, doc="Prices by name or pattern of the model.")
    upstreams: Mapping[str, Mapping[str, ModelPrice]] = setting(factory=dict, doc="Prices of one upstream by name or pattern of the model; they come before those in `models`.")


def file_of(main: tree.Mapping) -> tree.Scalar | None:
    """The path of the price file in the tree of relayd.yaml, None without one. Other values are left to the schema."""
    found = main.find("prices")
    node = None if found is None else found[1]
    if isinstance(node, tree.Mapping):
        inner = node.find("file")
        node = inner[1] if inner is not None and len(node.entries) == 1 else None
    return node if isinstance(node, tree.Scalar) and not node.null else None


def with_prices(main: tree.Mapping, path: tree.Scalar, prices: tree.Mapping, report: Report) -> tree.Mapping:
    """The tree of relayd.yaml with the contents of the price file in place of its path."""
    entries: list[tuple[tree.Scalar, tree.Node]] = [(tree.Scalar("file", True, path.mark), path)]
    entries += [entry for entry in prices.entries if entry[0].text in KEYS]
    beside = [entry for entry in prices.entries if entry[0].text not in KEYS]
    explicit = prices.find("models")
    if explicit is None:
        entries.append((tree.Scalar("models", True, prices.mark), tree.Mapping(tuple(beside), prices.mark)))
    elif isinstance(explicit[1], tree.Mapping):
        for key, _ in beside:
            if (first := explicit[1].find(key.text)) is not None:
                report(key.mark, f"prices.models.{key.text[:80]}", "is written twice", f"also in line {first[0].mark.line}")
        models = tree.Mapping((*explicit[1].entries, *beside), explicit[1].mark)
        entries = [(key, models if key.text == "models" else value) for key, value in entries]
    spliced = tree.Mapping(tuple(entries), prices.mark)
    return tree.Mapping(
        tuple((key, spliced if key.text == "prices" else value) for key, value in main.entries), main.mark
    )


def unreached(
    prices: PriceList, models: Mapping[str, Model], routes: Sequence[Route], upstreams: Mapping[str, Upstream]
) -> Iterator[tuple[str, str]]:
    """Prices of models that no request can reach, with the reason: the name may have a typing error."""
    reachable = set(reachable_names(models, routes, upstreams))
    tables = [("models", "", prices.models)]
    tables += [(f"upstreams.{name}", name, inner) for name, inner in prices.upstreams.items()]
    for at, upstream, table in tables:
        names = {name for where, name in reachable if upstream in ("", where)}
        if ANY in names:
            continue
        found = [name for name in table if not any(overlap(name, other) for other in names)]
        for name in found[:SHOWN]:
            near = meant(name, names)
            yield f"prices.{at}.{name}", "no request can reach this model" + (f"; {near}" if near else "")
        if len(found) > SHOWN:
            yield f"prices.{at}", f"no request can reach {len(found) - SHOWN} further models"


def reachable_names(
    models: Mapping[str, Model], routes: Sequence[Route], upstreams: Mapping[str, Upstream]
) -> Iterator[tuple[str, str]]:
    """Upstreams, and the names of models by which a price for a request to them could be looked up; * for any."""
    for name, model in models.items():
        for upstream, there in ((model.upstream, model.model), *((one.upstream, one.model) for one in model.fallbacks)):
            yield upstream, name
            yield upstream, there or name
    for route in routes:
        targets = [(one.upstream, one.model) for one in route.fallbacks]
        if route.canary is not None:
            targets.append((route.canary.upstream, None))
        if route.upstream is not None and route.upstream != "by_model":
            targets.append((route.upstream, None))
        for upstream, there in targets:
            section_of_it = upstreams.get(upstream)
            if section_of_it is not None and registry.dialect(section_of_it.protocol) is not None:
                yield upstream, there or ANY


def overlap(first: str, second: str) -> bool:
    """True if a name could match both patterns. For two patterns only their beginnings and ends are compared."""
    if "*" not in first or "*" not in second:
        pattern, name = (first, second) if "*" in first else (second, first)
        return Glob.of_model(pattern).match(name) is not None
    first, second = without_case(first), without_case(second)
    starts = first.partition("*")[0], second.partition("*")[0]
    ends = first.rpartition("*")[2], second.rpartition("*")[2]
    return (starts[0].startswith(starts[1]) or starts[1].startswith(starts[0])) and (
        ends[0].endswith(ends[1]) or ends[1].endswith(ends[0])
    )
