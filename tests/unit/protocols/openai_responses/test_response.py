"""The Response object and its usage and error objects."""

from __future__ import annotations

from relayd.protocols.canon import Failure, Usage
from relayd.protocols.openai_responses.response import error_in_response, response_object, usage_object
from relayd.protocols.openai_responses.response_settings import settings_of
from tests.aids.responses_grammar import RESPONSE_MEMBERS, check_response
from tests.unit.protocols.openai_responses.harness import read


def test_the_object_is_whole_in_every_state() -> None:
    echo = settings_of(read()).echo
    for response in (
        response_object(echo, "resp_1", 1, "in_progress", [], None),
        response_object(echo, "resp_1", 1, "failed", [], Usage(1, 2), error={"code": "a", "message": "b"}),
    ):
        check_response(response)
        assert set(response) == RESPONSE_MEMBERS


def test_usage_has_all_five_members() -> None:
    assert usage_object(Usage(5, 3, 2, 0, 1)) == {
        "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0}, "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 8,
    }  # fmt: skip


def test_a_retry_delay_is_stated_once_in_whole_seconds() -> None:
    assert error_in_response(Failure(503, "Busy.", retry_after_s=0.2))["message"] == "Busy. Please try again in 1s."
    message = "Please try again in 7s."
    assert error_in_response(Failure(429, message, retry_after_s=7))["message"] == message
    assert error_in_response(Failure(502, "Gone."))["message"] == "Gone."


def test_a_rate_limit_has_the_code_that_clients_know() -> None:
    assert error_in_response(Failure(429, "x"))["code"] == "rate_limit_exceeded"
    assert error_in_response(Failure(429, "x", "insufficient_quota"))["code"] == "insufficient_quota"
    assert error_in_response(Failure(400, "x", "context_length_exceeded"))["code"] == "context_length_exceeded"
    assert error_in_response(Failure(500, "x"))["code"] == "server_error"
