"""What Ollama's clients ask the server itself."""

from __future__ import annotations

import json

import pytest

from relayd.protocols.dialect import RequestContext
from relayd.protocols.ollama.local import local
from tests.aids.memories import Forgetful


def ask(method: str, path: str) -> RequestContext:
    return RequestContext(method, path, "", {}, "req-1", Forgetful())


@pytest.mark.parametrize(("path", "key"), [("/api/version", "version"), ("/team/api/ps/", "models")])
def test_what_names_no_model_is_answered(path: str, key: str) -> None:
    told = local(ask("GET", path), b"")
    assert told is not None and told.status == 200 and json.loads(told.body).keys() == {key}


def test_the_root_says_that_it_is_there() -> None:
    for method in ("GET", "HEAD"):
        told = local(ask(method, "/"), b"")
        assert told is not None and told.body == b"Ollama is running"


def test_everything_else_goes_on() -> None:
    assert local(ask("POST", "/api/show"), b"{}") is None
    assert local(ask("GET", "/api/tags"), b"") is None
