"""Google's error object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Failure
from relayd.protocols.gemini import DIALECT
from relayd.protocols.gemini.errors import failure_in

QUOTA = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"},
        ],
    }
}


def read(status: int, value: Any, **headers: str) -> Failure:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return DIALECT.read_error(status, {key.replace("_", "-"): text for key, text in headers.items()}, body)


def test_status_message_and_delay_are_preserved_alone_and_in_a_list() -> None:
    expected = Failure(429, "You exceeded your current quota.", "rate_limit_exceeded", "RESOURCE_EXHAUSTED", None, 7.5)
    assert read(429, QUOTA) == read(429, [QUOTA]) == expected
    assert read(429, QUOTA, retry_after="60") == expected


def test_the_header_applies_if_the_body_has_no_delay() -> None:
    assert read(503, {"error": {"message": "x", "status": "UNAVAILABLE"}}, retry_after="3").retry_after_s == 3
    assert read(503, b"<html>", retry_after="3").retry_after_s == 3


def test_an_invalid_key_is_distinguished_from_a_bad_request() -> None:
    error: dict[str, Any] = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    assert read(400, {"error": error}).status == 400
    error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    failure = read(400, [{"error": error}])
    assert (failure.status, failure.code, failure.message) == (401, "invalid_api_key", "API key not valid.")


def test_too_long_a_context_has_the_code_that_clients_know() -> None:
    text = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
    failure = read(400, {"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}})
    assert failure.code == "context_length_exceeded" and failure.message == text


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"{}", b"[]", b"null", b'{"error":{}}', b"\xff"])
def test_a_body_without_a_message_gets_relayds_message(body: bytes) -> None:
    failure = read(500, body)
    assert failure.status in (500, 502) and failure.message and "<" not in failure.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["error", "code", "message", "status", "details", "@type", "reason", "retryDelay"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.integers(100, 700), VALUES)
def test_any_value_is_a_failure_with_a_status_and_a_message(status: int, value: Any) -> None:
    failure = read(status, value)
    assert 400 <= failure.status <= 599 and isinstance(failure.message, str) and failure.message
    inner = failure_in(value)
    assert inner is None or (400 <= inner.status <= 599 and inner.message)


def test_an_error_is_written_as_google_writes_it_and_read_back() -> None:
    failure = Failure(429, "Busy.", retry_after_s=2.5)
    rendered = DIALECT.render_error(failure, "r-1")
    assert rendered.status == 429 and dict(rendered.headers)["Retry-After"] == "3"
    error = json.loads(rendered.body)["error"]
    assert (error["code"], error["status"], error["message"]) == (429, "RESOURCE_EXHAUSTED", "Busy.")
    assert error["details"][0]["retryDelay"] == "2.5s"
    assert read(429, rendered.body).retry_after_s == 2.5


@pytest.mark.parametrize(("status", "name"), [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (404, "NOT_FOUND"),
    (413, "INVALID_ARGUMENT"), (502, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED"), (529, "UNAVAILABLE"), (599, "INTERNAL")])  # fmt: skip
def test_each_status_has_googles_name(status: int, name: str) -> None:
    assert json.loads(DIALECT.render_error(Failure(status, "x"), "").body)["error"]["status"] == name
