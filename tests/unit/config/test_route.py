"""`routes:`"""

from __future__ import annotations

import pytest

from tests.unit.config.section_case import accepted, faults

UPSTREAMS = "{u: {endpoints: 'http://127.0.0.1:1'}}"


def route_faults(rest: str) -> list[str]:
    return [path.removeprefix("routes[0]").removeprefix(".") for path in faults(routes=f"[{{name: r, {rest}}}]", upstreams=UPSTREAMS)]


def test_a_route_does_exactly_one_thing() -> None:
    assert route_faults("upgrade: false") == [""]
    assert route_faults("upstream: u, respond: 200") == [""]
    config, _ = accepted(routes="[{name: r, redirect: 'https://{host}{path}{query}'}]")
    assert config.routes[0].redirect is not None
    assert config.routes[0].redirect.status == 308


@pytest.mark.parametrize(("rest", "path"), [
    ("match: {path: /a, prefix: /b}", "match"), ("match: {path: a}", "match.path"), ("match: {regex: '('}", "match.regex"),
    ("match: {regex: '(a+)+'}", "match.regex"), ("match: {host: 'a:80'}", "match.host[0]"), ("match: {method: get}", "match.method[0]"),
    ("match: {header: {'a b': c}}", "match.header.a b"), ("match: {header: {X-A: b, x-a: c}}", "match.header.x-a"),
    ("match: {path: '/a?b'}", "match.path"), ("match: {prefix: '/a#b'}", "match.prefix"), ("match: {prefix: /a/..}", "match.prefix"),
    ("match: {host: a..b}", "match.host[0]"), ("match: {method: TRACE}", "match.method[0]"), ("match: {model: ''}", "match.model[0]"),
    ("match: {prefix: /a}, strip_prefix: '/a?'", "strip_prefix"), ("cors: {origins: ['https://a.example/']}", "cors.origins[0]"),
    ("cors: {origins: ['https://a.example:443']}", "cors.origins[0]"), ("strip_prefix: /a, rewrite: /b", "rewrite"),
    ("match: {prefix: /a}, strip_prefix: /b", "strip_prefix"), ("match: {regex: '/(a)'}, rewrite: '/\\2'", "rewrite"),
    ("admin_write: true", "admin_write"), ("cors: {origins: [a.example]}", "cors.origins[0]"), ("body_limit: -1", "body_limit"),
    ("cors: {credentials: true}", "cors.credentials"), ("request_headers: {set: {Host: a}}", "request_headers.set.Host"),
    ("request_headers: {remove: 'a b'}", "request_headers.remove[0]"), ("response_headers: {add: {a: \"b\\nc\"}}", "response_headers.add.a"),
    ("response_headers: {remove: Content-Length}", "response_headers.remove[0]"), ("on_disconnect: wait", "on_disconnect"),
])
def test_a_rule_that_cannot_be_meant_is_a_fault(rest: str, path: str) -> None:
    assert route_faults(f"upstream: u, {rest}") == [path]


@pytest.mark.parametrize(("rest", "path"), [
    ("redirect: ''", "redirect.location"), ("redirect: 'https://a b/'", "redirect.location"), ("redirect: 'https://bücher.example/'", "redirect.location"), ("redirect: '/{user}'", "redirect.location"), ("redirect: {location: /, status: 200}", "redirect.status"),
    ("respond: 99", "respond.status"), ("respond: {status: 204, body: a}", "respond.body"), ("respond: {headers: {te: a}}", "respond.headers.te"),
    ("respond: 200, upgrade: true", "upgrade"),
])
def test_an_answer_that_cannot_be_given_is_a_fault(rest: str, path: str) -> None:
    assert route_faults(rest) == [path]


def test_a_path_that_is_not_written_as_requests_have_it_is_warned_of() -> None:
    _, warnings = accepted(routes="[{name: r, match: {prefix: /café/}, upstream: u}, {name: s, match: {path: /f//g}, upstream: u}]", upstreams=UPSTREAMS)
    assert "/caf%C3%A9/" in warnings["routes[0].match.prefix"] and "/f/g" in warnings["routes[1].match.path"]


def test_a_prefix_to_strip_is_compared_in_normal_form() -> None:
    accepted(routes="[{name: r, match: {prefix: /caf%C3%A9/}, strip_prefix: /café, upstream: u}]", upstreams=UPSTREAMS)


def test_a_location_that_is_read_as_relative_is_warned_of() -> None:
    _, warnings = accepted(routes="[{name: r, redirect: 'a.example/x'}]")
    assert "https://" in warnings["routes[0].redirect.location"]


def test_a_body_may_have_several_lines() -> None:
    config, _ = accepted(routes='[{name: r, respond: {body: "a\\nb"}}]')
    assert config.routes[0].respond is not None
    assert config.routes[0].respond.body == "a\nb"


def test_a_key_among_the_fields_is_warned_of() -> None:
    _, warnings = accepted(routes="[{name: r, upstream: u, request_headers: {set: {authorization: a}}}]", upstreams=UPSTREAMS)
    assert list(warnings) == ["routes[0].request_headers.set.authorization"]


def test_writing_actions_for_everybody_are_warned_of() -> None:
    _, warnings = accepted(routes="[{name: r, upstream: admin, admin_write: true}]")
    assert "EVERY CLIENT" in warnings["routes[0].admin_write"]
