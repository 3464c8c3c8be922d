"""One relayd before scripted back-ends of every dialect, for programs that people use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.functional.harness.dialects.gateway import Gateway, gateway
from tests.functional.harness.relay import LIVE

GOOGLE = {
    "name": "google", "match": {"regex": "/v1(?:beta)?/models/[^/]+:[A-Za-z]+"}, "protocol": "gemini", "upstream": "by_model",
}  # fmt: skip
TAGS = {"name": "tags", "match": {"path": "/api/tags"}, "upstream": "by_model"}


@pytest.fixture(scope="session")
def session_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("clients"), strict=False, routes=[GOOGLE, TAGS]) as running:
        yield running


@pytest.fixture
def running(session_gateway: Gateway) -> Iterator[Gateway]:
    """Clean before each test; what a strict back-end refused fails the test, and so does a traceback of relayd."""
    session_gateway.fresh()
    yield session_gateway
    session_gateway.check()
    for relay in LIVE:
        relay.check_output()
