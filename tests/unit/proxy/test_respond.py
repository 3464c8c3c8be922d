"""Responses of relayd itself."""

from __future__ import annotations

import json

import pytest

from relayd.errors import KINDS, ExchangeError
from relayd.proxy.respond import Answer, answer, error_answer, fixed_answer, redirect_answer
from relayd.wire.http1 import parse_head
from tests.unit.proxy.fakes import UPSTREAM, head_for, plan_of

PLAN = plan_of(UPSTREAM + """
routes:
  - {name: openai, match: {path: /o}, upstream: web, errors: openai}
  - {name: problem, match: {path: /p}, upstream: web, errors: problem}
  - {name: text, match: {path: /t}, upstream: web, errors: text}
  - {name: auto, match: {path: /a}, upstream: web}
  - {name: away, match: {path: /r}, redirect: {location: "https://{host}{path}{query}", status: 307}}
  - {name: here, match: {path: /h}, redirect: "{path}{query}"}
  - {name: fixed, match: {path: /f}, respond: {status: 203, body: hallo, content_type: text/x, headers: {X-A: b}}}
  - {name: none, match: {path: /n}, respond: 204}
""")
ROUTES = {route.name: route for route in PLAN.routes}


def field(made: Answer, name: str) -> str | None:
    for line in made.response.keep:
        key, _, value = line.decode().partition(": ")
        if key.lower() == name:
            return value.removesuffix("\r\n")
    return None


@pytest.mark.parametrize("code", sorted(code for code, kind in KINDS.items() if kind.status != 499))
def test_every_error_has_each_of_the_three_shapes(code: str) -> None:
    fault = ExchangeError(code, "10.0.0.1 sk-secret", (("Retry-After", "7"),))
    kind = KINDS[code]
    for name in ("openai", "problem", "text"):
        made = error_answer(fault, ROUTES[name], head_for(), "id-1")
        assert (made.response.status, made.response.length) == (kind.status, len(made.body))
        assert field(made, "retry-after") == "7"
        assert b"id-1" in made.body and code.encode() in made.body and kind.message.encode() in made.body
        assert b"10.0.0.1" not in made.body and b"secret" not in made.body


def test_openai_clients_find_their_error_object() -> None:
    made = error_answer(ExchangeError("unauthorized"), ROUTES["openai"], head_for(), "id-1")
    assert field(made, "content-type") == "application/json"
    assert json.loads(made.body) == {"request_id": "id-1", "error": {
        "message": "A valid key is required.", "type": "authentication_error", "param": None, "code": "unauthorized"}}


@pytest.mark.parametrize(("code", "error_type"), [
    ("upstream_closed", "upstream_error"), ("internal", "server_error"), ("header_too_large", "invalid_request_error"),
    ("draining", "overloaded_error"), ("first_byte_timeout", "timeout_error"), ("body_too_large", "request_too_large"),
])
def test_the_type_of_an_error_shows_its_origin(code: str, error_type: str) -> None:
    assert json.loads(error_answer(ExchangeError(code), ROUTES["openai"], None, "i").body)["error"]["type"] == error_type


def test_elsewhere_an_error_is_a_problem() -> None:
    made = error_answer(ExchangeError("no_route"), None, None, "id-1")
    assert field(made, "content-type") == "application/problem+json"
    assert json.loads(made.body) == {"type": "urn:relayd:no_route", "title": "No route matches this request.", "status": 404,
                                     "code": "no_route", "request_id": "id-1"}


@pytest.mark.parametrize(("accept", "text"), [
    ("text/plain", True), ("text/html", True), ("text/html, */*", False), ("application/json", False), ("text/html, application/json", False),
])
def test_who_takes_only_text_gets_text(accept: str, text: bool) -> None:
    made = error_answer(ExchangeError("no_route"), ROUTES["auto"], head_for(f"Accept: {accept}"), "i")
    assert (field(made, "content-type") == "text/plain; charset=utf-8") is text
    if text:
        assert made.body == b"404 no_route: No route matches this request. (request i)\n"


def test_an_openai_route_stays_openai_for_a_browser() -> None:
    made = error_answer(ExchangeError("no_endpoint"), ROUTES["openai"], head_for("Accept: text/html"), "i")
    assert field(made, "content-type") == "application/json"


def test_a_redirect_holds_the_requests_own_bytes() -> None:
    made = redirect_answer(ROUTES["away"], head_for(start="GET /a%2Fb?c=%20 HTTP/1.1", host="Www.example:81"))
    assert made.response.status == 307 and made.response.length == 0 and made.body == b""
    assert field(made, "location") == "https://Www.example:81/a%2Fb?c=%20"


def test_a_redirect_takes_nothing_that_a_client_sends_for_a_placeholder_or_a_host() -> None:
    made = redirect_answer(ROUTES["away"], head_for(start="GET /{query}{scheme}?a HTTP/1.1", host="b"))
    assert field(made, "location") == "https://b/{query}{scheme}?a"
    made = redirect_answer(ROUTES["here"], head_for(start="GET //evil.example/x HTTP/1.1"))
    assert field(made, "location") == "/evil.example/x"


def test_a_redirect_that_needs_a_host_is_refused_to_a_request_without_one() -> None:
    asked = parse_head(b"GET /r HTTP/1.0\r\n\r\n")
    with pytest.raises(ExchangeError) as refused:
        redirect_answer(ROUTES["away"], asked)
    assert refused.value.kind.status == 400 and "Host" in refused.value.detail
    assert field(redirect_answer(ROUTES["here"], asked), "location") == "/r"


def test_a_fixed_answer_is_as_written() -> None:
    made = fixed_answer(ROUTES["fixed"])
    assert (made.response.status, made.body, made.response.length) == (203, b"hallo", 5)
    assert (field(made, "content-type"), field(made, "x-a")) == ("text/x", "b")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_body_has_neither_length_nor_type(status: int) -> None:
    made = answer(status, "text/plain", b"x", (("X-A", "1"),))
    assert (made.body, made.response.length, field(made, "content-type"), field(made, "x-a")) == (b"", None, None, "1")
    assert fixed_answer(ROUTES["none"]).body == b""
