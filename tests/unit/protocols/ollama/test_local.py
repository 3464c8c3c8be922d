"""What Ollama's clients ask the server itself."""

from __future__ import annotations

import json

import pytest

from relayd.protocols.dialect import RequestContext
from relayd.protocols.ollama.local import local
from tests.aids.memories import Forgetful


def context(method: str, path: str) -> RequestContext:
    return RequestContext(method, path, "", {}, "req-1", Forgetful())


@pytest.mark.parametrize(("path", "key"), [("/api/version", "version"), ("/team/api/ps/", "models")])
def test_what_names_no_model_is_answered(path: str, key: str) -> None:
    received = local(context("GET", path), b"")
    assert received is not None and received.status == 200 and json.loads(received.body).keys() == {key}


def test_the_root_answers_a_liveness_probe() -> None:
    for method in ("GET", "HEAD"):
        received = local(context(method, "/"), b"")
        assert received is not None and received.body == b"Ollama is running"


def test_everything_else_goes_on() -> None:
    assert local(context("POST", "/api/show"), b"{}") is None
    assert local(context("GET", "/api/tags"), b"") is None
