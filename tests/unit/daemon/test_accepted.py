"""The fallback of a start with an invalid file: the newest configuration that is still valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.daemon.accepted import last_accepted
from relayd.daemon.generations import Generations
from relayd.daemon.keeper import KEEPER_VARIABLE, SUCCESSOR_VARIABLE

GOOD = "listeners: {public: {address: \"127.0.0.1:8282\"}}\nroutes: [{name: all, respond: {status: 204}}]\n"


@pytest.fixture
def generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generations:
    """The generations of a service with a keeper."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv(KEEPER_VARIABLE, "7")
    monkeypatch.delenv(SUCCESSOR_VARIABLE, raising=False)
    return Generations.of_service()


def save(generations: Generations, text: str, number: int = 1) -> None:
    assert generations.save(number, 0, (("/etc/relayd.yaml", text),)) == ""


def test_the_last_accepted_configuration_is_loaded(generations: Generations) -> None:
    assert last_accepted() is None, "nothing was accepted yet"
    save(generations, GOOD)
    loaded = last_accepted()
    assert loaded is not None and loaded.texts == (("/etc/relayd.yaml", GOOD),)
    assert [route.name for route in loaded.config.routes] == ["all"]


@pytest.mark.parametrize("text", [
    "listeners: [\n", "listeners: {}\nunknown: 1\n",
    GOOD.replace('8282"', '8282", tls: {certificate: /nowhere/c.pem, key: /nowhere/k.pem}'),
])  # fmt: skip
def test_one_that_cannot_be_used_any_more_is_none(generations: Generations, text: str) -> None:
    save(generations, text)
    assert last_accepted() is None


def test_without_a_keeper_and_in_an_upgrade_the_start_fails_instead(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(generations, GOOD)
    monkeypatch.setenv(SUCCESSOR_VARIABLE, "1")
    assert last_accepted() is None
    monkeypatch.delenv(SUCCESSOR_VARIABLE)
    monkeypatch.delenv(KEEPER_VARIABLE)
    assert last_accepted() is None
