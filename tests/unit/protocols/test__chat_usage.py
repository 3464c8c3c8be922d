"""Usage in Chat answers, as OpenAI and its imitators report it."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.protocols._chat_usage import TAP, read_usage, usage_of
from relayd.protocols.dialect import ResponseFacts
from relayd.usage import Usage


@pytest.mark.parametrize(("usage", "read"), [
    ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
      "completion_tokens_details": {"reasoning_tokens": 1}}, Usage(9, 4, 5, 2, 1)),
    ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 8}, Usage(9, 4, 8)),
    ({"prompt_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}, Usage(9, 0, 3, 2)),
    ({"input_tokens": 9, "output_tokens": 4}, Usage(9, 4)),
    ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 8,
      "completion_tokens_details": {}, "reasoning_tokens": 2}, Usage(9, 0, 8, 0, 2)),
    ({"prompt_tokens": "9", "completion_tokens": None, "prompt_tokens_details": 7}, Usage()),
])  # fmt: skip
def test_imitators_are_read_too(usage: dict[str, Any], read: Usage) -> None:
    assert read_usage(usage) == read


@pytest.mark.parametrize("chunk", [
    {"usage": {"prompt_tokens": 1}}, {"usage": None, "x_groq": {"usage": {"prompt_tokens": 1}}},
    {"choices": [7, {"usage": {"prompt_tokens": 1}}]},
])
def test_usage_is_found_wherever_an_imitator_puts_it(chunk: dict[str, Any]) -> None:
    assert usage_of(chunk) == {"prompt_tokens": 1}


def test_what_a_chunk_does_not_say_is_empty() -> None:
    assert TAP.facts({"model": 7, "choices": "x", "usage": []}) == ResponseFacts()
    assert TAP.facts({"model": "m", "choices": [{"finish_reason": "stop"}]}) == ResponseFacts("m", "stop")
