"""Price lists of other programs: what is converted, exactly, and what is named as left out."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from relayd.cli.price_lists import PriceListFault, price_file, read_price_list
from relayd.config.load import load
from relayd.config.prices import KEYS
from relayd.schema import Money

LITELLM = {
    "sample_spec": {"input_cost_per_token": 0.0, "litellm_provider": "one of the providers", "mode": "one of: chat, embedding"},
    "chat-large": {
        "litellm_provider": "somebody", "mode": "chat", "max_tokens": 16384, "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.25e-06, "cache_creation_input_token_cost": 3.125e-06, "output_cost_per_reasoning_token": 1.2e-05,
        "input_cost_per_token_above_200k_tokens": 5e-06, "search_context_cost_per_query": {"search_context_size_low": 0.03}, "supports_vision": True,
    },
    "vendor/chat-small": {"mode": "chat", "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "input_cost_per_audio_token": 1e-06},
    "painter": {"mode": "image_generation", "output_cost_per_image": 0.04},
    "eyes": {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "input_cost_per_image": 0.0013},
    "free": {"mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0.0},
    "listener": {"mode": "audio_transcription", "input_cost_per_second": 0.0001},
    "tiny": {"mode": "chat", "input_cost_per_token": 1.2345e-16, "output_cost_per_token": 1e-10},
    "dear": {"mode": "chat", "input_cost_per_token": 1e9, "output_cost_per_token": 1},
    "dearest": {"mode": "chat", "input_cost_per_token": 1e300},
}
OPENROUTER = {"data": [
    {"id": "vendor/large", "name": "Large", "context_length": 200000, "pricing": {
        "prompt": "0.000003", "completion": "0.000015", "request": "0", "image": "0.0048", "web_search": "0.01", "internal_reasoning": "0",
        "input_cache_read": "0.0000003", "input_cache_write": "0.00000375"}},
    {"id": "router/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
    {"id": "vendor/free:free", "pricing": {"prompt": "0", "completion": "0", "request": "0.005"}},
    {"id": "no/prices"}, "no model",
]}  # fmt: skip


def test_litellms_prices_per_token_become_exact_prices_per_million() -> None:
    found = read_price_list(json.dumps(LITELLM).encode())
    assert found.models["chat-large"] == {
        "input": Decimal("2.5"), "output": Decimal(10), "cached_read": Decimal("1.25"), "cache_write": Decimal("3.125"), "reasoning": Decimal(12),
    }
    assert found.models["vendor/chat-small"] == {"input": Decimal("0.15"), "output": Decimal("0.6")}
    assert found.models["painter"] == {"image": Decimal("0.04")}
    assert found.models["eyes"]["image"] == Decimal("0.0013")
    assert found.models["free"] == {"input": 0, "output": 0}
    assert "sample_spec" not in found.models and "listener" not in found.models


def test_what_has_no_counterpart_is_counted() -> None:
    found = read_price_list(json.dumps(LITELLM).encode())
    assert found.skipped == {"no price per token, request or image": 1, "its price is too large": 2}
    assert found.ignored == {
        "input_cost_per_token_above_200k_tokens": 1, "input_cost_per_audio_token": 1, "input_cost_per_second": 1,
    }


def test_openrouters_prices_are_texts_and_a_variable_price_is_none() -> None:
    found = read_price_list(json.dumps(OPENROUTER).encode())
    assert found.models["vendor/large"] == {
        "input": 3, "output": 15, "cached_read": Decimal("0.3"), "cache_write": Decimal("3.75"), "image": Decimal("0.0048"),
    }
    assert found.models["vendor/free:free"] == {"input": 0, "output": 0, "request": Decimal("0.005")}
    assert found.skipped == {"its price is not fixed": 1}
    assert found.ignored == {"web_search": 1}


@pytest.mark.parametrize("listed", [LITELLM, OPENROUTER], ids=["litellm", "openrouter"])
def test_relayd_accepts_the_price_file_with_the_same_amounts(listed: object, tmp_path: Path) -> None:
    found = read_price_list(json.dumps(listed).encode())
    (tmp_path / "prices.yaml").write_text("\n".join(price_file(found, found.models, "list.json")))
    (tmp_path / "relayd.yaml").write_text(
        "listeners: {a: {address: '127.0.0.1:1'}}\nprices: prices.yaml\nroutes: [{name: r, respond: 200}]\n")
    prices = load(str(tmp_path / "relayd.yaml")).config.prices
    assert prices is not None
    assert prices.currency == "USD"
    assert prices.models.keys() == found.models.keys()
    for name, amounts in found.models.items():
        for key, amount in amounts.items():
            assert getattr(prices.models[name], key) == Money(int((amount * 10**9).to_integral_value())), (name, key)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"data": []}', '{"a": {"b": 1}}', "[" * 100_000, '{"data": [{"id": "x", "pricing": {"prompt": "NaN"}}]}'])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(PriceListFault):
        read_price_list(text.encode())


@pytest.mark.parametrize("value", ["NaN", '"abc"', "true", "[1]", "Infinity", '"nan"'])
def test_a_model_with_a_price_that_is_no_number_is_left_out(value: str) -> None:
    """Without this price, requests would count as cheaper than they are."""
    found = read_price_list(f'{{"good": {{"input_cost_per_token": 1e-6, "output_cost_per_token": null}}, "bad": {{"input_cost_per_token": 1e-6, "output_cost_per_token": {value}}}}}'.encode())
    assert list(found.models) == ["good"] and found.skipped == {"its price is no number": 1}


@pytest.mark.parametrize("name", KEYS)
def test_a_model_that_is_called_like_a_key_of_the_file_is_left_out(name: str) -> None:
    found = read_price_list(f'{{"m": {{"input_cost_per_token": 1e-6}}, "{name}": {{"input_cost_per_token": 1e-6}}}}'.encode())
    assert list(found.models) == ["m"] and found.skipped == {"its name cannot be written": 1}
