"""Each condition of a route: when it holds, and what it says when it does not."""

from __future__ import annotations

import pytest

from relayd.routing.matchers import ModelWanted, host_name, matcher, risky, show
from relayd.wire.http1 import RequestHead, parse_head
from tests.aids.growth import linear


def head(method: str = "GET", path: str = "/", host: str = "a.example", **fields: str) -> RequestHead:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return parse_head(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())


def holds(rule: dict[str, object], request: RequestHead) -> bool:
    made = matcher(**rule)  # type: ignore[arg-type]
    return made.failing(request, request.path) is None


def test_nothing_written_matches_every_request() -> None:
    assert holds({}, head("DELETE", "/anything"))


@pytest.mark.parametrize(("host", "expected"), [
    ("example.org", True), ("EXAMPLE.org:8080", True), ("example.org.", True), ("a.example.org", False),
    ("x.test", False), ("b.test", False), ("a.b.test", True), ("c.a.b.test", True), ("evilb.test", False),
])
def test_hosts_match_without_port_case_and_trailing_dot(host: str, expected: bool) -> None:
    assert holds({"host": ["Example.org", "*.b.test"]}, head(host=host)) is expected


def test_a_host_that_is_not_ascii_is_compared_in_its_wire_form() -> None:
    assert host_name("Bücher.example") == b"xn--bcher-kva.example"


@pytest.mark.parametrize("name", ["*", "a.*.example", "", "*.*.example"])
def test_a_wildcard_elsewhere_than_in_front_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="host"):
        host_name(name)


def test_methods_are_compared_exactly_on_the_wire() -> None:
    assert holds({"method": ["get"]}, head("GET"))
    assert not holds({"method": ["GET"]}, head("get"))
    assert not holds({"method": ["GET"]}, head("HEAD"))


def test_a_preflight_is_judged_by_the_method_it_announces() -> None:
    asks = head("OPTIONS", Origin="https://a", Access_Control_Request_Method="POST")
    assert holds({"method": ["POST"], "preflight": True}, asks)
    assert not holds({"method": ["POST"]}, asks)
    assert not holds({"method": ["PUT"], "preflight": True}, asks)
    assert not holds({"method": ["POST"], "preflight": True}, head("OPTIONS", Access_Control_Request_Method="POST"))


def test_a_header_must_have_its_value_or_be_present_for_an_asterisk() -> None:
    assert holds({"header": {"X-Tenant": "blue"}}, head(x_tenant=" blue "))
    assert not holds({"header": {"X-Tenant": "blue"}}, head(x_tenant="Blue"))
    assert holds({"header": {"X-Tenant": "*"}}, head(x_tenant=""))
    assert not holds({"header": {"X-Tenant": "*"}}, head())


def test_a_regex_must_match_the_whole_path() -> None:
    assert holds({"regex": "/v[12]/.*"}, head(path="/v1/x"))
    assert not holds({"regex": "/v[12]"}, head(path="/v1/x"))
    assert not holds({"regex": "v1"}, head(path="/v1"))


def test_a_model_condition_asks_for_the_model_and_then_holds_or_not() -> None:
    rule = matcher(model=["mistral-*", "fast"])
    test = rule.test()
    asked = head()
    assert test is not None
    with pytest.raises(ModelWanted):
        test(asked, b"/")
    for model, holds in (("mistral-7b", True), ("fast", True), ("faster", False), ("", False), ("a-mistral-b", False)):
        asked.model = model
        assert test(asked, b"/") is holds
        assert (rule.failing(asked, b"/") is None) is holds
    assert rule.failing(asked, b"/") == ("model", "'a-mistral-b' is not among mistral-*, fast")


def test_a_model_is_asked_for_only_where_everything_else_holds() -> None:
    test = matcher(model=["m"], method=["POST"]).test()
    assert test is not None and not test(head(), b"/")


@pytest.mark.parametrize(("rule", "condition", "words"), [
    ({"path": "/x"}, "path", "/ is not /x"),
    ({"prefix": "/x/"}, "prefix", "does not begin with /x/"),
    ({"regex": "/x.*"}, "regex", "does not match /x.*"),
    ({"host": ["b.example"]}, "host", "a.example is not among b.example"),
    ({"method": ["PUT", "POST"]}, "method", "GET is not among POST, PUT"),
    ({"header": {"X-A": "1"}}, "header", "x-a is absent"),
])
def test_the_first_condition_that_fails_is_told_in_words(rule: dict[str, object], condition: str, words: str) -> None:
    made = matcher(**rule)  # type: ignore[arg-type]
    failing = made.failing(head(), b"/")
    assert failing is not None and failing[0] == condition and words in failing[1]


def test_a_value_that_came_is_never_told() -> None:
    failing = matcher(header={"Authorization": "x"}).failing(head(authorization="Bearer sk-1234"), b"/")
    assert failing is not None and "sk-1234" not in failing[1]


@pytest.mark.parametrize("pattern", [
    "(a+)+", "/(x*)*", "/(?:[a-z]+/?)+", "/((a|b+)c?)*", "/(a{2,})+", "/(.*x){3,}", "/(a+){2}", r"/(a)\1", "/(", "/ü",
    "[",
])
def test_a_regex_that_may_stand_the_loop_still_or_cannot_work_is_refused(pattern: str) -> None:
    assert risky(pattern)
    with pytest.raises(ValueError, match="regex"):
        matcher(regex=pattern)


@pytest.mark.parametrize("pattern", [
    "/v1/.*", "/(a|b)+/x", r"/[^/]+/[0-9]{3}", r"/\(+\)*", "/[(+*]+", "/(ab?)+", "/(a+)?", "/(a{1,3})x*", "/x(?:a+){1}",
])
def test_an_ordinary_regex_is_let_through(pattern: str) -> None:
    assert risky(pattern) is None


def test_looking_for_risk_is_linear() -> None:
    assert linear(lambda size: risky("(a" * 90 + ")" * 90 + "[" + "x" * size + "]"), 3_000)
    assert linear(lambda size: risky("(a" * size + ")" * size), 5)


def test_bytes_are_shown_without_control_bytes() -> None:
    assert show(b"/a\x1b[0m\xff") == "/a\\x1b[0m\\xff"
