"""`relayd prices`: a list that is converted, and the prices of a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relayd.cli.main import main

LIST = {
    "vendor/a": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "input_cost_per_second": 1},
    "a": {"input_cost_per_token": 3e-06, "output_cost_per_token": 4e-06},
    "vendor/b": {"input_cost_per_token": 5e-06, "output_cost_per_token": 6e-06},
}


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "model_prices.json"
    path.write_text(json.dumps(LIST))
    return path


def test_a_list_becomes_a_price_file(listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "import", str(listed)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[2:] == [
        "currency: USD", "a: {input: 3, output: 4}", "vendor/a: {input: 1, output: 2}", "vendor/b: {input: 5, output: 6}",
    ]
    assert shown.err.splitlines() == [
        "3 models of LiteLLM's price map", "input_cost_per_second of 1 models has no counterpart and is left out",
    ]
    target = tmp_path / "prices.yaml"
    assert main(["prices", "import", str(listed), "-o", str(target)]) == 0
    assert target.read_text() == shown.out


def test_an_existing_file_is_replaced_only_if_asked_to(listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "prices.yaml"
    target.write_text("mine")
    assert main(["prices", "import", str(listed), "-o", str(target)]) == 1
    assert target.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["prices", "import", str(listed), "-o", str(target), "--force"]) == 0
    assert target.read_text() != "mine"


def test_models_are_selected_and_lose_a_prefix_but_never_replace_another(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "import", str(listed), "--strip", "vendor/"]) == 0
    assert capsys.readouterr().out.splitlines()[3:] == ["a: {input: 3, output: 4}", "b: {input: 5, output: 6}"]
    assert main(["prices", "import", str(listed), "--model", "*/b"]) == 0
    assert capsys.readouterr().out.splitlines()[3:] == ["vendor/b: {input: 5, output: 6}"]
    assert main(["prices", "import", str(listed), "--model", "nothing"]) == 1


def test_a_file_that_is_no_list_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("{}")
    assert main(["prices", "import", str(tmp_path / "x")]) == 1
    assert main(["prices", "import", str(tmp_path / "absent")]) == 1
    assert main(["prices", "import"]) == 2
    assert main(["prices", "list", str(tmp_path / "x")]) == 2


def test_the_prices_of_the_configuration_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "relayd.yaml"
    config.write_text("""
listeners: {a: {address: "127.0.0.1:1"}}
upstreams: {up: {protocol: openai_chat, endpoints: ["http://127.0.0.1:9/v1"]}}
prices: {currency: EUR, models: {"gpt-*": {input: 2.50, cached_read: 0}}, upstreams: {up: {m: {request: 0.01}}}}
routes: [{name: r, upstream: up}]
""")
    assert main(["prices", "list", "-c", str(config)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:3]] == [
        ["*", "gpt-*", "2.5", "-", "0", "-", "-", "-", "-"], ["up", "m", "-", "-", "-", "-", "-", "0.01", "-"],
    ]
    assert main(["prices", "list", "-c", str(config), "--json", "--model", "m"]) == 0
    assert json.loads(capsys.readouterr().out) == {"currency": "EUR", "prices": [{"upstream": "up", "model": "m", "request": "0.01"}]}
    config.write_text("listeners: {a: {address: '127.0.0.1:1'}}\nroutes: [{name: r, respond: 200}]\n")
    assert main(["prices", "list", "-c", str(config)]) == 1
    config.write_text("prices: [1]\n")
    assert main(["prices", "list", "-c", str(config)]) == 78
