"""Errors in the words of Messages clients."""

from __future__ import annotations

import json

import pytest

from relayd.protocols.anthropic_messages import errors
from relayd.protocols.canon import Failure


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (413, "request_too_large"), (422, "invalid_request_error"),
        (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"),
        (504, "timeout_error"), (529, "overloaded_error"),
    ],
)  # fmt: skip
def test_the_type_follows_from_the_status(status: int, kind: str) -> None:
    answer = errors.render_error(Failure(status, "why", code="a", type="b"), "req_9")
    assert answer.status == status
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": kind, "message": "why"},
        "request_id": "req_9",
    }
    assert ("request-id", "req_9") in answer.headers


def test_what_is_no_status_of_an_error_is_a_bad_gateway() -> None:
    assert errors.render_error(Failure(200, "odd"), "").status == 502


def test_the_time_to_wait_is_passed_on() -> None:
    assert ("Retry-After", "8") in errors.render_error(Failure(429, "slow", retry_after_s=7.2), "r").headers


def test_the_field_at_fault_is_in_the_message() -> None:
    assert errors.client_message(Failure(400, "too small.", param="max_tokens")) == "max_tokens: too small."
    assert errors.client_message(Failure(400, "max_tokens is small", param="max_tokens")) == "max_tokens is small"


def test_an_overflow_has_the_text_that_claude_code_recognises() -> None:
    openai = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. "
        "Please reduce the length of the messages."
    )
    assert errors.client_message(Failure(400, openai, code="context_length_exceeded")) == (
        f"prompt is too long: 9001 tokens > 8192 maximum ({openai})"
    )
    assert errors.client_message(Failure(400, "the request exceeds the available context size")).startswith(
        "prompt is too long: the request"
    )
    own = "prompt is too long: 210000 tokens > 200000 maximum"
    assert errors.client_message(Failure(400, own)) == own
    assert errors.client_message(Failure(500, openai)) == openai


def test_an_error_of_the_endpoint_keeps_its_type_and_message() -> None:
    body = b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow."},"request_id":"req_x"}'
    failure = errors.read_error(429, {"retry-after": "12"}, body)
    assert failure == Failure(429, "Slow.", type="rate_limit_error", retry_after_s=12.0)


def test_an_overloaded_endpoint_has_a_retry_delay() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    failure = errors.read_error(529, {}, body)
    assert (failure.status, failure.type, failure.retry_after_s) == (529, "overloaded_error", 5.0)


def test_a_prompt_that_is_too_long_has_the_code_of_the_other_dialects() -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8"}}'
    assert errors.read_error(400, {}, body).code == "context_length_exceeded"


def test_markup_is_not_shown() -> None:
    failure = errors.read_error(503, {"content-type": "text/html"}, b"<html>secret</html>")
    assert failure.status == 503 and "secret" not in failure.message


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 500), ("invalid_request_error", 400),
     ("something_new", 502)],
)  # fmt: skip
def test_an_error_in_the_stream_has_the_status_of_its_type(kind: str, status: int) -> None:
    failure = errors.failure_in_stream({"type": "error", "error": {"type": kind, "message": "m"}})
    assert (failure.status, failure.type, failure.message) == (status, kind, "m")


def test_an_error_in_the_stream_without_a_message_is_still_an_error() -> None:
    assert errors.failure_in_stream({"type": "error"}).status == 502
