"""What a start goes on with when its file cannot be used: the newest configuration that still can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.daemon.accepted import accepted_before
from relayd.daemon.generations import Generations
from relayd.daemon.keeper import SUCCESSOR, VARIABLE

GOOD = "listeners: {public: {address: \"127.0.0.1:8282\"}}\nroutes: [{name: all, respond: {status: 204}}]\n"


@pytest.fixture
def generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generations:
    """Those of a service with a keeper."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "7")
    monkeypatch.delenv(SUCCESSOR, raising=False)
    return Generations.of_service()


def keep(generations: Generations, text: str, number: int = 1) -> None:
    assert generations.keep(number, 0, (("/etc/relayd.yaml", text),)) == ""


def test_the_configuration_that_was_in_force_last_is_loaded_again(generations: Generations) -> None:
    assert accepted_before() is None, "nothing was accepted yet"
    keep(generations, GOOD)
    loaded = accepted_before()
    assert loaded is not None and loaded.texts == (("/etc/relayd.yaml", GOOD),)
    assert [route.name for route in loaded.config.routes] == ["all"]


@pytest.mark.parametrize("text", [
    "listeners: [\n", "listeners: {}\nunknown: 1\n",
    GOOD.replace('8282"', '8282", tls: {certificate: /nowhere/c.pem, key: /nowhere/k.pem}'),
])  # fmt: skip
def test_one_that_cannot_be_used_any_more_is_none(generations: Generations, text: str) -> None:
    keep(generations, text)
    assert accepted_before() is None


def test_without_a_keeper_and_in_an_upgrade_the_start_fails_instead(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(generations, GOOD)
    monkeypatch.setenv(SUCCESSOR, "1")
    assert accepted_before() is None
    monkeypatch.delenv(SUCCESSOR)
    monkeypatch.delenv(VARIABLE)
    assert accepted_before() is None
