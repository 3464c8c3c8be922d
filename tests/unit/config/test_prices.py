"""The price file: a section with its faults at their lines, and prices that no request can reach."""

from __future__ import annotations

import pathlib

import pytest

from relayd.config.load import Loaded, load
from relayd.config.prices import SHOWN
from relayd.errors import ConfigError
from relayd.schema import Money
from tests.unit.config.section_case import accepted, faults

CONFIG = """\
listeners: {a: {address: "127.0.0.1:1"}}
upstreams: {provider: {protocol: openai_chat, endpoints: ["http://127.0.0.1:9/v1"]}}
models: {"gpt-*": provider, fast: {upstream: provider, model: mini}}
prices: prices.yaml
routes: [{name: llm, upstream: by_model}]
"""


def loaded(folder: pathlib.Path, prices: str, config: str = CONFIG) -> Loaded:
    (folder / "prices.yaml").write_text(prices)
    (folder / "relayd.yaml").write_text(config)
    return load(str(folder / "relayd.yaml"))


def refused(folder: pathlib.Path, prices: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, prices)
    return [str(one) for one in caught.value.findings if one.level == "error"]


def test_prices_stand_beside_the_currency_or_under_models(tmp_path: pathlib.Path) -> None:
    texts = (
        'currency: EUR\n"gpt-*": {input: 2.50, output: 10, cached_read: 1.25, cache_write: 3.75}\nfast: {request: 0.01}\n',
        'currency: EUR\nmodels: {"gpt-*": {input: 2.50, output: 10, cached_read: 1.25, cache_write: 3.75}, fast: {request: 0.01}}\n',
        'currency: EUR\nfast: {request: 0.01}\nmodels: {"gpt-*": {input: 2.50, output: 10, cached_read: 1.25, cache_write: 3.75}}\n',
    )
    for text in texts:
        found = loaded(tmp_path, text)
        prices = found.config.prices
        assert not found.warnings
        assert prices is not None
        assert prices.currency == "EUR"
        assert prices.file == "prices.yaml"
        assert prices.models["gpt-*"].input == Money(2_500_000_000)
        assert prices.models["gpt-*"].cached_read == Money(1_250_000_000)
        assert prices.models["fast"].request == Money(10_000_000)


def test_a_typing_error_is_found_with_file_line_and_column(tmp_path: pathlib.Path) -> None:
    found = refused(tmp_path, "currency: USD\nfast:\n  input: 2\n  outptu: 3\n")
    assert found == [
        f"{tmp_path}/prices.yaml:4:3: error: prices.models.fast.outptu: unknown key 'outptu' (did you mean output?)"
    ]
    assert refused(tmp_path, "fast: {input: [}\n")[0].startswith(f"{tmp_path}/prices.yaml:1:16: error: YAML: ")
    assert refused(tmp_path, "fast: {input: -1}\n")[0].startswith(f"{tmp_path}/prices.yaml:1:15: error: ")
    assert "needs a price" in refused(tmp_path, "fast: {}\n")[0]
    assert "is not a code of three capital letters" in refused(tmp_path, "currency: dollars\nfast: {input: 1}\n")[0]


def test_a_model_with_two_prices_is_a_fault_that_names_both(tmp_path: pathlib.Path) -> None:
    (found,) = refused(tmp_path, "models: {fast: {input: 1}}\nfast: {input: 2}\n")
    assert found.startswith(f"{tmp_path}/prices.yaml:2:1: ")
    assert "also in line 1" in found


def test_a_price_file_that_cannot_be_read_is_a_fault_of_the_key(tmp_path: pathlib.Path) -> None:
    (tmp_path / "relayd.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "relayd.yaml"))
    (found,) = caught.value.findings
    assert str(found).startswith(f"{tmp_path}/relayd.yaml:4:9: ")
    assert "prices.yaml cannot be read: No such file" in found.message


def test_prices_of_an_unknown_upstream_are_a_fault(tmp_path: pathlib.Path) -> None:
    (found,) = refused(tmp_path, "upstreams: {providr: {fast: {input: 1}}}\n")
    assert found.startswith(f"{tmp_path}/prices.yaml:1:13: ")
    assert "did you mean provider?" in found


def test_a_price_that_no_request_can_reach_is_a_warning_that_guesses_the_name(tmp_path: pathlib.Path) -> None:
    found = loaded(tmp_path, "fsat: {input: 1}\nmini: {input: 1}\ngpt-4o: {input: 1}\n'*-turbo': {input: 1}\n")
    assert [str(one) for one in found.warnings] == [
        f"{tmp_path}/prices.yaml:1:1: warning: prices.models.fsat: no request can reach this model; did you mean fast?"
    ]


def test_many_unused_prices_are_a_few_warnings(tmp_path: pathlib.Path) -> None:
    found = loaded(tmp_path, "".join(f"model-{number}: {{input: 1}}\n" for number in range(SHOWN + 3)))
    assert len(found.warnings) == SHOWN + 1
    assert "no request can reach 3 further models" in {one.message for one in found.warnings}


def test_a_route_to_an_upstream_reaches_every_model(tmp_path: pathlib.Path) -> None:
    config = CONFIG.replace("upstream: by_model", "upstream: provider")
    assert not loaded(tmp_path, "anything: {input: 1}\nupstreams: {provider: {more: {input: 1}}}\n", config).warnings


def test_a_price_per_token_instead_of_per_million_is_a_warning(tmp_path: pathlib.Path) -> None:
    (found,) = loaded(tmp_path, "fast: {input: 0.0000025}\n").warnings
    assert "per million tokens" in found.message
    assert not loaded(tmp_path, "fast: {input: 0, request: 0.00001}\n").warnings


def test_prices_may_stand_in_the_configuration_itself() -> None:
    config, _ = accepted(prices="{currency: EUR, models: {m: {input: 1}}}")
    assert config.prices is not None
    assert config.prices.models["m"].input == Money(10**9)
    assert list(faults(prices="[1]")) == ["prices"]


def test_a_price_list_of_thousands_of_models_is_accepted(tmp_path: pathlib.Path) -> None:
    line = "{input: 1, output: 2, cached_read: 0.5, cache_write: 3, request: 0.1, image: 0.2}"
    found = loaded(tmp_path, "".join(f"vendor/model-{number}: {line}\n" for number in range(4000)))
    assert found.config.prices is not None
    assert len(found.config.prices.models) == 4000


def test_the_example_of_the_package_is_accepted_without_a_warning(tmp_path: pathlib.Path) -> None:
    example = pathlib.Path(__file__).resolve().parents[3] / "conf" / "prices.yaml"
    config = CONFIG.replace("upstream: by_model", "upstream: provider")
    assert not loaded(tmp_path, example.read_text(), config).warnings
