"""What browsers are answered, after the Fetch standard."""

from __future__ import annotations

import pytest

from relayd.access.cors import preflight, refusal, response_fields
from relayd.config.route import Cors

ANY = Cors()
NAMED = Cors(
    origins=("https://app.example", "https://b.example/"), methods=("GET", "POST"), headers=("Content-Type", "X-A"),
    expose=("X-Request-ID",), credentials=True,
)


def test_a_public_route_grants_every_origin_method_and_field_asked_for() -> None:
    fields = dict(preflight(ANY, "https://x.example", "PATCH", "authorization, x-b") or [])
    assert fields["Access-Control-Allow-Origin"] == "*"
    assert fields["Access-Control-Allow-Methods"] == "PATCH"
    assert fields["Access-Control-Allow-Headers"] == "authorization, x-b"
    assert fields["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in fields


def test_a_named_origin_is_granted_with_credentials() -> None:
    fields = dict(preflight(NAMED, "https://app.example", "POST", "x-a") or [])
    assert fields["Access-Control-Allow-Origin"] == "https://app.example"
    assert fields["Access-Control-Allow-Credentials"] == "true"
    assert fields["Access-Control-Allow-Headers"] == "Content-Type, X-A"
    assert fields["Vary"].startswith("Origin")


@pytest.mark.parametrize(("origin", "method", "headers"), [
    ("https://evil.example", "GET", ""), ("https://app.example.evil", "GET", ""), ("http://app.example", "GET", ""),
    ("null", "GET", ""), ("https://app.example", "DELETE", ""), ("https://app.example", "post", ""),
    ("https://app.example", "GET", "x-b"), ("https://app.example", "GET", "x-a, bad name"),
])
def test_a_preflight_that_is_not_allowed_is_not_granted(origin: str, method: str, headers: str) -> None:
    assert preflight(NAMED, origin, method, headers) is None


@pytest.mark.parametrize(("method", "headers"), [("GET\r\nX: y", ""), ("", ""), ("GET", "a\r\nb"), ("GET", "a b")])
def test_nothing_that_is_not_a_token_is_reflected(method: str, headers: str) -> None:
    assert preflight(ANY, "https://x.example", method, headers) is None


def test_a_response_varies_by_origin_also_where_it_is_not_granted() -> None:
    assert response_fields(NAMED, None) == [("Vary", "Origin")]
    assert response_fields(NAMED, "https://evil.example") == [("Vary", "Origin")]
    assert refusal(NAMED)[0][0] == "Vary"


def test_a_granted_response_lists_the_exposed_fields() -> None:
    fields = response_fields(NAMED, "https://b.example")
    assert ("Access-Control-Allow-Origin", "https://b.example") in fields
    assert ("Access-Control-Expose-Headers", "X-Request-ID") in fields
    assert ("Vary", "Origin") in fields


def test_a_public_response_is_the_same_for_all_and_varies_by_nothing() -> None:
    public = [("Access-Control-Allow-Origin", "*")]
    assert response_fields(ANY, None) == response_fields(ANY, "https://x.example") == public
