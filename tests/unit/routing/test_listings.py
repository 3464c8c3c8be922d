"""The list of models as each maker's clients read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.routing.listings import ANTHROPIC, GEMINI, OLLAMA, OPENAI, Shape, page, shape_for

MODELS = [("a/b", "u"), ("c", "v")]
MANY = [(name, "u") for name in "abcd"]
AT = "1970-01-01T00:00:07Z"


def test_openais() -> None:
    assert page(OPENAI, MODELS, 7, "") == {"object": "list", "data": [
        {"id": "a/b", "object": "model", "created": 7, "owned_by": "u"},
        {"id": "c", "object": "model", "created": 7, "owned_by": "v"}]}  # fmt: skip
    assert OPENAI.one("c", "v", 7) == {"id": "c", "object": "model", "created": 7, "owned_by": "v"}


def test_anthropics() -> None:
    assert ANTHROPIC.one("a/b", "u", 7) == {"type": "model", "id": "a/b", "display_name": "a/b", "created_at": AT}
    told = page(ANTHROPIC, MODELS, 7, "limit=1000")
    assert (told["has_more"], told["first_id"], told["last_id"]) == (False, "a/b", "c")
    assert json.dumps(page(ANTHROPIC, [], 7, "")) == '{"data": [], "has_more": false, "first_id": null, "last_id": null}'


@pytest.mark.parametrize(("query", "names", "more"), [
    ("limit=2", "ab", True), ("limit=2&after_id=b", "cd", False), ("limit=2&before_id=d", "bc", True),
    ("limit=9&before_id=c", "ab", False), ("after_id=nobody", "abcd", False), ("after_id=d", "", False),
    ("limit=0", "a", True), ("limit=x", "abcd", False), ("before_id=a", "", False),
])
def test_anthropics_pages_go_both_ways(query: str, names: str, more: bool) -> None:
    told = page(ANTHROPIC, MANY, 0, query)
    assert "".join(one["id"] for one in told["data"]) == names and told["has_more"] is more


def test_googles_in_pages_that_follow_each_other() -> None:
    assert GEMINI.one("a/b", "u", 7)["name"] == "models/a/b"
    names, query, asked = [], "pageSize=3", 0
    while True:
        told = page(GEMINI, MANY, 7, query)
        names += [one["name"] for one in told["models"]]
        asked += 1
        if "nextPageToken" not in told:
            break
        query = f"pageSize=3&pageToken={told['nextPageToken']}"
    assert names == [f"models/{name}" for name in "abcd"] and asked == 2
    assert page(GEMINI, MANY, 7, "pageToken=99") == {"models": []}


def test_ollamas() -> None:
    told = page(OLLAMA, MODELS, 7, "")
    assert [one["name"] for one in told["models"]] == ["a/b", "c"] == [one["model"] for one in told["models"]]
    assert told["models"][0]["modified_at"] == AT


@pytest.mark.parametrize(("dialect", "path", "headers", "shape"), [
    ("openai_chat", "/v1/models", {}, OPENAI), ("openai_responses", "/v1/models", {}, OPENAI),
    ("openai_chat", "/v1/models", {"anthropic-version": "2023-06-01"}, ANTHROPIC),
    ("anthropic_messages", "/v1/models", {}, ANTHROPIC), ("gemini", "/v1beta/models", {}, GEMINI),
    ("openai_chat", "/v1beta/models", {"x-goog-api-key": "k"}, GEMINI),
    ("openai_chat", "/api/tags", {}, OLLAMA), ("ollama", "/api/tags", {}, OLLAMA), ("ollama", "/v1/models", {}, OPENAI),
    ("gemini", "/v1beta/openai/models", {}, OPENAI),
])
def test_a_client_is_known_by_its_dialect_or_by_what_it_sends(
    dialect: str, path: str, headers: dict[str, Any], shape: Shape
) -> None:
    assert shape_for(dialect, path, headers) is shape
