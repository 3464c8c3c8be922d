"""Estimates of tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.limits.estimate import IMAGE_TOKENS, MOST_MARKS, SEARCHED_BYTES, input_tokens, output_tokens

MEDIA = "QUJD" * 5000
MARGIN_TOKENS = 60


def body(*parts: dict[str, Any]) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": list(parts)}]}).encode()


def test_a_token_is_four_bytes_of_a_request_or_four_characters_of_a_response() -> None:
    assert [input_tokens(one) for one in (None, b"", b"1234", b"12345")] == [0, 0, 1, 2]
    assert [output_tokens(count) for count in (0, 1, 4, 5)] == [0, 1, 1, 2]


@pytest.mark.parametrize("part", [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MEDIA}"}},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": MEDIA}},
])
def test_media_cost_the_same_however_large_they_are(part: dict[str, Any]) -> None:
    for count in (1, 3):
        found = input_tokens(body(*[part] * count))
        assert count * IMAGE_TOKENS < found < count * (IMAGE_TOKENS + MARGIN_TOKENS)


def test_a_short_text_that_looks_like_media_counts_as_text() -> None:
    text = body({"type": "text", "text": "x" * 4000}, {"type": "tool_result", "data": "QUJD"})
    assert input_tokens(text) == -(-len(text) // 4)


def test_media_without_an_end_count_as_text() -> None:
    cut = b'{"a":"data:image/png;base64,' + MEDIA.encode()
    assert input_tokens(cut) == -(-len(cut) // 4)


def test_the_search_is_bounded_and_what_it_does_not_reach_counts_as_text() -> None:
    text, image = {"type": "text", "text": "x" * (SEARCHED_BYTES * 3 // 5)}, {"type": "image", "data": MEDIA}
    found = body(text, image, text, image)
    assert IMAGE_TOKENS < input_tokens(found) - (len(found) - len(MEDIA)) // 4 < IMAGE_TOKENS + MARGIN_TOKENS
    many = body(*[{"data": "x" * 1024}] * (MOST_MARKS + 10))
    assert input_tokens(many) > MOST_MARKS * IMAGE_TOKENS + 10 * 1024 // 4
    assert input_tokens(many) < (MOST_MARKS + 1) * IMAGE_TOKENS + 10 * 1024 // 4 + 2000
