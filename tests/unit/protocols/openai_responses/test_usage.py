"""Usage, finish reason and model in answers of this dialect."""

from __future__ import annotations

from relayd.protocols.dialect import ResponseFacts
from relayd.protocols.openai_responses.usage import TAP, read_usage
from relayd.usage import Usage


def test_a_response_is_read_alone_and_inside_an_event() -> None:
    response = {"object": "response", "model": "m", "status": "incomplete", "usage": {"input_tokens": 3},
                "incomplete_details": {"reason": "max_output_tokens"}}  # fmt: skip
    for value in (response, {"type": "response.incomplete", "response": response}):
        assert TAP.facts(value) == ResponseFacts("m", "max_output_tokens", {"input_tokens": 3})
    assert TAP.facts({"item": {"status": "completed"}, "status": "completed"}) == ResponseFacts()


def test_details_are_parts_of_the_sums() -> None:
    usage = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 1},
             "output_tokens_details": {"reasoning_tokens": 2}}  # fmt: skip
    assert read_usage(usage) == Usage(9, 4, 5, 1, 2)
