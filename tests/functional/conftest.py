"""Fixtures of the functional tests: one upstream and one relayd per module, watched for tracebacks after every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.gateway import Gateway, gateway
from tests.functional.harness.relay import LIVE, Relay
from tests.functional.harness.upstream import Upstream


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(module_upstream: Upstream) -> Iterator[Upstream]:
    module_upstream.fresh()
    yield module_upstream
    assert not module_upstream.faults, module_upstream.faults


@pytest.fixture(scope="module")
def relay(
    module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Relay]:
    """The relayd of a module. A module's CONFIG is merged over the default; it may be a function of (folder, url)."""
    folder = tmp_path_factory.mktemp("relay")
    change: Any = getattr(request.module, "CONFIG", {})
    if callable(change):
        change = change(folder, module_upstream.url)
    with Relay(folder, module_upstream.url, change) as running:
        yield running


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A relayd before one back-end of each dialect. A module that wants other settings has a fixture of this name."""
    with gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def running(module_gateway: Gateway) -> Iterator[Gateway]:
    """The gateway of the module, clean before each test; what a strict back-end refused fails the test."""
    module_gateway.fresh()
    yield module_gateway
    module_gateway.check()


@pytest.fixture(autouse=True)
def nothing_went_wrong_inside() -> Iterator[None]:
    yield
    ended = [running for running in LIVE if running.process is None or running.process.poll() is not None]
    for running in ended:  # the tests after this one need it
        running.start()
    for running in LIVE:
        running.check_output()
    assert not ended, "relayd ended"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Short enough for the path of a Unix socket."""
    return tmp_path
