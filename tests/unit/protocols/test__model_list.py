"""Lists of models as endpoints tell them: each dialect's shape, its pages, and what is no list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._model_list import LONGEST_NAME, MOST_MODELS, SOURCES, Page, read_page
from tests.docs import pairs as _pairs


def test_every_endpoints_dialect_says_where_its_list_is() -> None:
    assert set(SOURCES) == {one.name for one in _pairs.backs()}


@pytest.mark.parametrize(
    ("protocol", "told", "page"),
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
def test_a_page_gives_the_names_that_requests_have(protocol: str, told: Any, page: Page) -> None:
    assert read_page(protocol, json.dumps(told).encode()) == page


@pytest.mark.parametrize("protocol", sorted(SOURCES))
@pytest.mark.parametrize("body", [b"", b"<html>", b"7", b"null", b"{}", b'{"data":7,"models":{}}', b"[" * 5000, b"\xff"])
def test_what_is_no_list_is_said_to_be_none(protocol: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_page(protocol, body)


@pytest.mark.parametrize("protocol", sorted(SOURCES))
def test_names_and_their_number_are_bounded(protocol: str) -> None:
    odd: list[Any] = [None, 7, {}, {"id": 7, "name": [], "model": {}}, *(dict.fromkeys(("id", "name", "model"), bad)
                      for bad in ("", "x" * (LONGEST_NAME + 1), "a\nb", "\x00"))]  # fmt: skip
    many = [dict.fromkeys(("id", "name", "model"), f"m{number}") for number in range(MOST_MODELS + 9)]
    page = read_page(protocol, json.dumps({"data": odd + many, "models": odd + many}).encode())
    assert len(page.names) == MOST_MODELS and page.names[0] == "m0"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                        st.sampled_from(["data", "models", "id", "name", "has_more", "last_id", "nextPageToken"]), inner))  # fmt: skip


@given(st.sampled_from(sorted(SOURCES)), JSON)
def test_whatever_comes_is_a_page_or_no_list(protocol: str, value: Any) -> None:
    try:
        page = read_page(protocol, json.dumps(value).encode())
    except ValueError:
        return
    assert all(isinstance(name, str) and name for name in page.names) and page.next.isascii()
