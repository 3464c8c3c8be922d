"""Lists of models: as endpoints give them, and as each provider's clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols.dialect import ModelListShape, ModelListSource, Page
from relayd.protocols.model_list import (
    ANTHROPIC,
    GEMINI,
    LONGEST_NAME,
    MOST_MODELS,
    OLLAMA,
    OPENAI,
    page,
    read_page,
    shape_for,
)
from tests.docs import pairs as _pairs

SOURCES = {one.name: one.model_list for one in _pairs.backs() if one.model_list is not None}


def read(protocol: str, body: bytes) -> Page:
    source: ModelListSource = SOURCES[protocol]
    return read_page(source, body)


def test_every_endpoints_dialect_has_a_model_list() -> None:
    assert set(SOURCES) == {one.name for one in _pairs.backs()}


@pytest.mark.parametrize(
    ("protocol", "received", "names"),
    [
        ("openai_chat", {"object": "list", "data": [{"id": "a"}, {"id": "org/b:free"}, {"id": "a"}]}, Page(("a", "org/b:free"))),
        ("openai_chat", [{"id": "bare"}], Page(("bare",))),
        ("openai_responses", {"data": []}, Page(())),
        ("anthropic_messages", {"data": [{"id": "c-1"}], "has_more": False, "last_id": "c-1"}, Page(("c-1",))),
        ("anthropic_messages", {"data": [{"id": "c-1"}], "has_more": True, "last_id": "c&1"},
         Page(("c-1",), "limit=1000&after_id=c%261")),
        ("gemini", {"models": [{"name": "models/g-1", "supportedGenerationMethods": ["generateContent"]},
                               {"name": "models/e-1", "supportedGenerationMethods": ["embedContent"]}, {"name": "g-2"}],
                    "nextPageToken": "t="}, Page(("g-1", "g-2"), "pageSize=1000&pageToken=t%3D")),
        ("ollama", {"models": [{"name": "qwen3:8b", "model": "qwen3:8b"}, {"name": "old:1b"}]}, Page(("qwen3:8b", "old:1b"))),
    ],
)  # fmt: skip
def test_a_page_gives_the_names_that_requests_have(protocol: str, received: Any, names: Page) -> None:
    assert read(protocol, json.dumps(received).encode()) == names


@pytest.mark.parametrize("protocol", sorted(SOURCES))
@pytest.mark.parametrize("body", [b"", b"<html>", b"7", b"null", b"{}", b'{"data":7,"models":{}}', b"[" * 5000, b"\xff"])
def test_a_response_that_is_not_a_list_raises(protocol: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read(protocol, body)


@pytest.mark.parametrize("protocol", sorted(SOURCES))
def test_names_and_their_number_are_bounded(protocol: str) -> None:
    odd: list[Any] = [None, 7, {}, {"id": 7, "name": [], "model": {}}, *(dict.fromkeys(("id", "name", "model"), bad)
                      for bad in ("", "x" * (LONGEST_NAME + 1), "a\nb", "\x00"))]  # fmt: skip
    many = [dict.fromkeys(("id", "name", "model"), f"m{number}") for number in range(MOST_MODELS + 9)]
    found = read(protocol, json.dumps({"data": odd + many, "models": odd + many}).encode())
    assert len(found.names) == MOST_MODELS and found.names[0] == "m0"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                        st.sampled_from(["data", "models", "id", "name", "has_more", "last_id", "nextPageToken"]), inner))  # fmt: skip


@given(st.sampled_from(sorted(SOURCES)), JSON)
def test_whatever_comes_is_a_page_or_no_list(protocol: str, value: Any) -> None:
    try:
        found = read(protocol, json.dumps(value).encode())
    except ValueError:
        return
    assert all(isinstance(name, str) and name for name in found.names) and found.next.isascii()


# ---- written for clients

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
    received = page(ANTHROPIC, MODELS, 7, "limit=1000")
    assert (received["has_more"], received["first_id"], received["last_id"]) == (False, "a/b", "c")
    assert json.dumps(page(ANTHROPIC, [], 7, "")) == '{"data": [], "has_more": false, "first_id": null, "last_id": null}'


@pytest.mark.parametrize(("query", "names", "more"), [
    ("limit=2", "ab", True), ("limit=2&after_id=b", "cd", False), ("limit=2&before_id=d", "bc", True),
    ("limit=9&before_id=c", "ab", False), ("after_id=nobody", "abcd", False), ("after_id=d", "", False),
    ("limit=0", "a", True), ("limit=x", "abcd", False), ("before_id=a", "", False),
])
def test_anthropics_pages_go_both_ways(query: str, names: str, more: bool) -> None:
    received = page(ANTHROPIC, MANY, 0, query)
    assert "".join(one["id"] for one in received["data"]) == names and received["has_more"] is more


def test_googles_in_pages_that_follow_each_other() -> None:
    assert GEMINI.one("a/b", "u", 7)["name"] == "models/a/b"
    names, query, asked = [], "pageSize=3", 0
    while True:
        received = page(GEMINI, MANY, 7, query)
        names += [one["name"] for one in received["models"]]
        asked += 1
        if "nextPageToken" not in received:
            break
        query = f"pageSize=3&pageToken={received['nextPageToken']}"
    assert names == [f"models/{name}" for name in "abcd"] and asked == 2
    assert page(GEMINI, MANY, 7, "pageToken=99") == {"models": []}


def test_ollamas() -> None:
    received = page(OLLAMA, MODELS, 7, "")
    assert [one["name"] for one in received["models"]] == ["a/b", "c"] == [one["model"] for one in received["models"]]
    assert received["models"][0]["modified_at"] == AT


@pytest.mark.parametrize(("dialect", "path", "headers", "shape"), [
    ("openai_chat", "/v1/models", {}, OPENAI), ("openai_responses", "/v1/models", {}, OPENAI),
    ("openai_chat", "/v1/models", {"anthropic-version": "2023-06-01"}, ANTHROPIC),
    ("anthropic_messages", "/v1/models", {}, ANTHROPIC), ("gemini", "/v1beta/models", {}, GEMINI),
    ("openai_chat", "/v1beta/models", {"x-goog-api-key": "k"}, GEMINI),
    ("openai_chat", "/api/tags", {}, OLLAMA), ("ollama", "/api/tags", {}, OLLAMA), ("ollama", "/v1/models", {}, OPENAI),
    ("gemini", "/v1beta/openai/models", {}, OPENAI),
])
def test_a_client_is_known_by_its_dialect_or_by_what_it_sends(
    dialect: str, path: str, headers: dict[str, Any], shape: ModelListShape
) -> None:
    assert shape_for(registry.load(dialect), path, headers) is shape
