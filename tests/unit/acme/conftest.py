"""A pebble for the tests of a module, and a fresh state for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.acme.state import State
from tests.aids.pebble import Pebble


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with Pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> State:
    one = State(str(tmp_path / "acme"))
    one.prepare()
    return one
