"""Usage, finish reason and model as this dialect's answers report them."""

from __future__ import annotations

from relayd.protocols.anthropic_messages.usage import TAP, read_usage
from relayd.protocols.dialect import AnswerFacts
from relayd.usage import Usage


def test_cached_tokens_are_added_to_the_input_and_stay_known() -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 7,
             "output_tokens_details": {"thinking_tokens": 4}}  # fmt: skip
    assert read_usage(usage) == Usage(input=10, output=7, cached_read=5, cache_creation=2, reasoning=4)


def test_a_message_is_read_alone_and_inside_an_event() -> None:
    message = {"model": "m", "stop_reason": "end_turn", "usage": {"input_tokens": 3}}
    for value in (message, {"type": "message_start", "message": message}):
        assert TAP.facts(value) == AnswerFacts("m", "end_turn", {"input_tokens": 3})
    assert TAP.facts({"delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 1}}) == AnswerFacts(
        "", "refusal", {"output_tokens": 1}
    )
    assert TAP.facts({"delta": 7, "message": 7, "usage": 7}) == AnswerFacts()
