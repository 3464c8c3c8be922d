"""Usage, finish reason and model as this dialect's answers report them."""

from __future__ import annotations

from relayd.protocols.dialect import ResponseFacts
from relayd.protocols.gemini.usage import TAP, read_usage
from relayd.usage import Usage


def test_thoughts_are_added_to_the_output() -> None:
    counts = {"promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "cachedContentTokenCount": 5}
    assert read_usage(counts) == Usage(input=9, output=5, cached_read=5, reasoning=3)


def test_a_chunk_is_read() -> None:
    chunk = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 9}, "modelVersion": "m"}
    assert TAP.facts(chunk) == ResponseFacts("m", "STOP", {"promptTokenCount": 9})
    assert TAP.facts({"candidates": [7, {}], "usageMetadata": []}) == ResponseFacts()
