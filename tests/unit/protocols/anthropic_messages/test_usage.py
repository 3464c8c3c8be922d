"""Usage, finish reason and model as this dialect's answers report them."""

from __future__ import annotations

from typing import Any

from relayd.protocols.anthropic_messages.usage import TAP, merge_usage, read_usage
from relayd.protocols.dialect import ResponseFacts
from relayd.usage import Usage


def test_cached_tokens_are_added_to_the_input_and_stay_known() -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 7,
             "output_tokens_details": {"thinking_tokens": 4}}  # fmt: skip
    assert read_usage(usage) == Usage(input=10, output=7, cached_read=5, cache_creation=2, reasoning=4)


def test_a_message_is_read_alone_and_inside_an_event() -> None:
    message = {"model": "m", "stop_reason": "end_turn", "usage": {"input_tokens": 3}}
    for value in (message, {"type": "message_start", "message": message}):
        assert TAP.facts(value) == ResponseFacts("m", "end_turn", {"input_tokens": 3})
    assert TAP.facts({"delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 1}}) == ResponseFacts(
        "", "refusal", {"output_tokens": 1}
    )
    assert TAP.facts({"delta": 7, "message": 7, "usage": 7}) == ResponseFacts()


def test_a_zero_of_a_later_event_wipes_nothing_out() -> None:
    known: dict[str, Any] = {}
    merge_usage(known, {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1})
    merge_usage(known, {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 7, "cache_creation_input_tokens": 0})
    assert read_usage(known) == Usage(input=15, output=7, cached_read=5)
    merge_usage(known, {"input_tokens": 12})
    assert read_usage(known).input == 17
