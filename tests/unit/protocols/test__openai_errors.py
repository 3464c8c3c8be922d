"""OpenAI's error object: read from whatever comes, written in one shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._openai_errors import MOST_MESSAGE_CHARS, read_error, render_error, status_in
from relayd.protocols.canon import Failure

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (
            400,
            {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "bad_n"}},
            Failure(400, "no", "bad_n", "invalid_request_error", "n"),
        ),
        (500, {"error": {"message": "no", "type": None, "param": None, "code": None}}, Failure(500, "no")),
        (404, {"error": "model not found"}, Failure(404, "model not found")),
        (400, {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
         Failure(400, "too long", "400", "BadRequestError")),
        (429, {"error": {"message": "slow", "code": 1302}}, Failure(429, "slow", "1302")),
        (422, {"detail": "nope"}, Failure(422, "nope")),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "field required"}, {"msg": "b"}]},
         Failure(422, "field required; b")),
        (400, [{"error": {"code": 400, "message": "bad key", "status": "INVALID_ARGUMENT"}}],
         Failure(400, "bad key", "INVALID_ARGUMENT")),
        (429, [{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED",
                          "details": [{"@type": "x.RetryInfo", "retryDelay": "9s"}]}}],
         Failure(429, "slow", "RESOURCE_EXHAUSTED", retry_after_s=9.0)),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
         Failure(529, "Overloaded", "", "overloaded_error")),
        (500, "it broke", Failure(500, "it broke")),
        (200, {"error": {"message": "hidden"}}, Failure(502, "hidden")),
    ],
)  # fmt: skip
def test_an_error_is_read_in_every_form(status: int, body: Any, failure: Failure) -> None:
    assert read_error(status, JSON, json.dumps(body).encode()) == failure


@pytest.mark.parametrize(
    ("status", "stored"), [(500, 502), (502, 502), (503, 503), (504, 504), (529, 529), (404, 404), (429, 429), (302, 502)]
)
@pytest.mark.parametrize("body", [b"", b"<html><body>nginx 10.1.2.3</body></html>", b"{}", b"null", b"[]", b"\xff\x00"])
def test_a_body_that_is_no_error_becomes_a_text_of_our_own(status: int, stored: int, body: bytes) -> None:
    failure = read_error(status, {"content-type": "text/html", "retry-after": "3"}, body)
    assert failure.status == stored and failure.retry_after_s == 3.0
    assert "upstream" in failure.message and "nginx" not in failure.message


def test_a_short_plain_text_is_the_upstreams_own_message() -> None:
    assert read_error(429, {"content-type": "text/plain"}, b"Too many requests\n").message == "Too many requests"


def test_a_wait_is_read_from_the_head() -> None:
    assert read_error(429, {"retry-after-ms": "1500"}, b'{"error":{"message":"m"}}').retry_after_s == 1.5


def test_the_error_object_has_its_four_members_and_the_status_its_rules() -> None:
    answer = render_error(Failure(529, "later", retry_after_s=2.5), "r-1")
    assert answer.status == 503
    assert json.loads(answer.body) == {
        "error": {"message": "later", "type": "overloaded_error", "param": None, "code": None}, "request_id": "r-1",
    }  # fmt: skip
    assert answer.headers == (("Retry-After", "3"), ("retry-after-ms", "2500"))
    stored = render_error(Failure(400, "m", "c", "t", "p"), "")
    assert stored.status == 400
    assert json.loads(stored.body) == {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}
    assert render_error(Failure(200, "m"), "").status == 502


@given(st.text(min_size=1), st.text(), st.text(), st.none() | st.text(min_size=1))
def test_what_is_written_is_read_again(message: str, code: str, kind: str, param: str | None) -> None:
    failure = Failure(400, message[:MOST_MESSAGE_CHARS], code, kind or "x", param)
    if message.strip() and max(map(len, (code, kind, param or ""))) <= 256:
        assert read_error(400, JSON, render_error(failure, "").body) == failure


@given(
    st.integers(100, 999),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "detail", "details", "param", "type"]), inner),
        max_leaves=8,
    ),
)
def test_no_json_value_raises_and_every_failure_has_a_message(status: int, value: Any) -> None:
    failure = read_error(status, {}, json.dumps(value).encode())
    assert 400 <= failure.status <= 599 and failure.message and isinstance(failure.code, str)
    assert 400 <= status_in(value, 502) <= 599


def test_a_long_message_is_cut() -> None:
    failure = read_error(400, JSON, json.dumps({"error": {"message": "x" * 100_000}}).encode())
    assert len(failure.message) < MOST_MESSAGE_CHARS + 10


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"error": {"code": 429}}, 429), ({"error": {"code": "503"}}, 503), ({"error": {"type": "rate_limit_exceeded"}}, 429),
        ({"type": "error", "error": {"type": "overloaded_error"}}, 503), ({"error": {"code": "context_length_exceeded"}}, 400),
        ({"error": "x"}, 502), ({}, 502), ({"error": {"code": 7}}, 502),
        ({"error": "slow", "code": 429}, 429), ({"error": {"message": "slow"}, "status": "429"}, 429),
        ({"error": {"code": 503}, "code": 429}, 503), ({"error": "too_many_requests"}, 429),
        ({"error": "The word overloaded was not found"}, 502), ({"error": ["slow"], "code": 429}, 429),
    ],
)  # fmt: skip
def test_an_error_in_a_stream_names_its_status(error: Any, status: int) -> None:
    assert status_in(error, 502) == status
