"""Price lists of other programs as prices of relayd: LiteLLM's price map and OpenRouter's list of models.

Amounts are converted exactly, from a price per token to a price per million tokens. What relayd cannot express (other
prices above a length of the prompt, prices of audio, web searches) is named, and nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from decimal import Decimal, InvalidOperation
from typing import Any

from relayd.config.prices import KEYS
from relayd.dataclass import dataclass
from relayd.money import AMOUNT_PATTERN
from relayd.schema.show import show_text

MILLION = 1_000_000
PLACES = Decimal(1).scaleb(-9)
EXAMPLE_NAME = "sample_spec"  # LiteLLM's explanation of its own fields
# The prices of relayd, and those of the list per token, per request or per image.
LITELLM = {
    "input": "input_cost_per_token", "output": "output_cost_per_token", "cached_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost", "reasoning": "output_cost_per_reasoning_token",
    "request": "input_cost_per_request", "image": "input_cost_per_image",
}
GENERATED_IMAGE = "output_cost_per_image"
OPENROUTER = {
    "input": "prompt", "output": "completion", "cached_read": "input_cache_read", "cache_write": "input_cache_write",
    "reasoning": "internal_reasoning", "request": "request", "image": "image",
}
PER_TOKEN = ("input", "output", "cached_read", "cache_write", "reasoning")

Amounts = dict[str, Decimal]


class PriceListFault(ValueError):
    """The file is no price list that is known."""


@dataclass(slots=True)
class PriceList:
    """The prices by model, in units of the currency. `skipped` counts models without a price that relayd can express,
    by reason; `ignored` the other prices of models, by name."""

    source: str
    models: dict[str, Amounts] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)


def read_price_list(raw: bytes) -> PriceList:
    """The prices of a file. Raises PriceListFault."""
    try:
        data = json.loads(raw, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as fault:
        raise PriceListFault(f"is not JSON: {fault}") from None
    listed = data.get("data") if isinstance(data, dict) else None
    if isinstance(listed, list):
        found = PriceList("OpenRouter's list of models")
        entries: Iterator[tuple[str, Any]] = (
            (str(one["id"]), one["pricing"]) for one in listed
            if isinstance(one, dict) and isinstance(one.get("id"), str) and isinstance(one.get("pricing"), dict)
        )
        _add(found, entries, OPENROUTER, lambda name: name not in ("discount",))
    elif isinstance(data, dict):
        found = PriceList("LiteLLM's price map")
        entries = ((name, one) for name, one in data.items() if isinstance(one, dict) and name != EXAMPLE_NAME)
        _add(found, entries, LITELLM, lambda name: "cost" in name)
    else:
        raise PriceListFault("is neither LiteLLM's price map nor OpenRouter's list of models")
    if not found.models:
        raise PriceListFault("contains no prices of LiteLLM's price map or of OpenRouter's list of models")
    return found


def _add(
    found: PriceList, entries: Iterator[tuple[str, Any]], names: Mapping[str, str], is_price: Callable[[str], bool]
) -> None:
    for model, listed in entries:
        if not model.isprintable() or not model or len(model) > 200 or model in KEYS:
            found.skipped["its name cannot be written"] += 1
            continue
        known = dict(names)
        if GENERATED_IMAGE in listed and names is LITELLM:
            known["image"] = GENERATED_IMAGE
        made, fault = _amounts(listed, known)
        if made:
            found.models[model] = made
        else:
            found.skipped[fault or "no price per token, request or image"] += 1
        used = set(known.values())
        found.ignored.update(
            name for name, value in listed.items() if name not in used and is_price(name) and _decimal(value)
        )


def _amounts(listed: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Amounts, str]:
    """The prices of one model; empty with the reason if one of them cannot be used."""
    made: Amounts = {}
    for key, name in names.items():
        if listed.get(name) is None:
            continue
        value = _decimal(listed[name])
        if value is None:  # without it the model would be cheaper than it is
            return {}, "its price is no number"
        if value < 0:
            return {}, "its price is not fixed"
        amount = value * MILLION if key in PER_TOKEN else value
        try:
            amount = amount.quantize(PLACES)
        except InvalidOperation:  # more digits than a decimal number has here
            return {}, "its price is too large"
        if re.fullmatch(AMOUNT_PATTERN, _text(amount)) is None:
            return {}, "its price is too large"
        if amount or key in ("input", "output"):
            made[key] = amount
    return made, ""


def _decimal(value: Any) -> Decimal | None:
    """A price in the list; None if the value is no number."""
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    try:
        found = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() else None


def price_file(prices: PriceList, models: Mapping[str, Amounts], name: str) -> Iterator[str]:
    """The lines of a price file with these models of a list; `name` is that of its file."""
    yield f"# Prices of {prices.source}, made by `relayd prices import {name}`."
    yield "# Per million tokens; request and image: each."
    yield "currency: USD"
    for model, amounts in sorted(models.items()):
        yield f"{show_text(model)}: {{{', '.join(f'{key}: {_text(amount)}' for key, amount in amounts.items())}}}"


def _text(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
