"""Fallbacks: which class an outcome belongs to, and who is next."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.upstream.classify import classify
from relayd.upstream.fallback import (
    BODY_BYTES,
    CLASSES,
    FallbackSpec,
    fallback_class,
    fallback_class_of_body,
    next_fallback,
)


def error(**words: object) -> bytes:
    return json.dumps({"error": words}).encode()


@pytest.mark.parametrize(("verdict", "expected"), [
    (classify("connect_failed", 0), "unavailable"),
    (classify("first_byte_timeout", 0), "unavailable"),
    (classify("upstream_cut", 200, in_stream=True), "unavailable"),
    (classify("", 500), "unavailable"),
    (classify("", 401, own_key=True), "unavailable"),
    (classify("", 429), "overloaded"),
    (classify("", 503, retry_after_s=1.0), "overloaded"),
    (classify("", 529), "overloaded"),
    (classify("", 400), ""),
    (classify("", 401), ""),
    (classify("client_gone", 0), ""),
])
def test_a_status_or_a_code_tells_the_class(verdict: object, expected: str) -> None:
    assert fallback_class(verdict) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [
    error(code="context_length_exceeded", type="invalid_request_error", message="..."),
    error(type="invalid_request_error", message="prompt is too long: 205177 tokens > 200000 maximum"),
    error(code=400, status="INVALID_ARGUMENT", message="The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
    error(code=400, message="This model's maximum context length is 4096 tokens. However, you requested 5000"),
    error(code=400, type="exceed_context_size_error", message="the request exceeds the available context size"),
    json.dumps({"object": "error", "message": "This model's maximum context length is 8192 tokens", "code": 400}).encode(),
    json.dumps({"error": "input is too long for this model"}).encode(),
])
def test_a_prompt_that_does_not_fit_is_told_in_every_dialect(body: bytes) -> None:
    assert fallback_class(classify("", 400), body) == "context_length"


@pytest.mark.parametrize("body", [
    error(code="content_policy_violation", message="..."),
    error(code="content_filter", message="...", innererror={"code": "ResponsibleAIPolicyViolation"}),
    error(code=None, type=None, innererror={"code": "ResponsibleAIPolicyViolation"}),
    error(type="invalid_request_error", message="Your request was rejected as a result of our safety system."),
])
def test_refused_content_is_told_in_every_dialect(body: bytes) -> None:
    assert fallback_class(classify("", 400), body) == "refused_content"


def test_a_prompt_that_was_blocked_under_status_200_is_refused_content() -> None:
    assert fallback_class(classify("", 200), b'{"promptFeedback": {"blockReason": "SAFETY"}}') == "refused_content"
    assert fallback_class(classify("", 200), b'{"promptFeedback": {}, "candidates": [{}]}') == ""


@pytest.mark.parametrize(("body", "expected"), [
    (json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}).encode(), "overloaded"),
    (json.dumps([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]).encode(), "overloaded"),
    (error(code="insufficient_quota"), "unavailable"),
    (error(code="model_not_found"), "unavailable"),
])
def test_other_words_tell_the_class_too(body: bytes, expected: str) -> None:
    assert fallback_class_of_body(body) == expected


def test_the_body_says_more_than_the_status() -> None:
    assert fallback_class(classify("", 429), error(code="insufficient_quota")) == "unavailable"
    assert fallback_class(classify("", 500), error(code="context_length_exceeded")) == "context_length"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 5000, b'{"error": 5}', b"<html>", b" " * BODY_BYTES + b"{}"])
def test_a_body_that_says_nothing_leaves_the_word_to_the_status(body: bytes) -> None:
    assert fallback_class(classify("", 500), body) == "unavailable"


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(("error", "code", "type", "message", "innererror", "status", "promptFeedback", "object")), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode()))
def test_no_body_is_beyond_reading(body: bytes) -> None:
    assert fallback_class_of_body(body) in ("", *CLASSES)


LIST = (
    FallbackSpec("a", on=frozenset(("overloaded",))),
    FallbackSpec("b", "large", on=frozenset(("context_length",))),
    FallbackSpec("c", on=frozenset(("any",))),
)


@pytest.mark.parametrize(("place", "fault", "expected"), [
    (0, "overloaded", 0), (0, "context_length", 1), (0, "refused_content", 2), (0, "unavailable", 2),
    (1, "overloaded", 2), (3, "overloaded", None), (0, "", None),
])
def test_the_next_entry_that_takes_the_class_is_tried(place: int, fault: str, expected: int | None) -> None:
    assert next_fallback(LIST, place, fault) == expected


def test_without_fallbacks_there_is_none() -> None:
    assert next_fallback((), 0, "unavailable") is None
