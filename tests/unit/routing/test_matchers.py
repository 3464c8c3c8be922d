"""Each condition of a route: when it holds, and what it says when it does not."""

from __future__ import annotations

import pytest

from relayd.errors import ExchangeError
from relayd.routing.matchers import ModelWanted, host_name, matcher, show
from relayd.wire.http1 import RequestHead, parse_head
from relayd.wire.path import MAX_PATH_BYTES


def head(method: str = "GET", path: str = "/", host: str = "a.example", **fields: str) -> RequestHead:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return parse_head(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())


def holds(rule: dict[str, object], request: RequestHead) -> bool:
    made = matcher(**rule)  # type: ignore[arg-type]
    return made.failing(request, request.path) is None


def test_a_matcher_without_conditions_matches_every_request() -> None:
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
    assert not holds({"method": ["GET"]}, head("HEAD"))


def test_a_preflight_matches_by_the_method_it_announces() -> None:
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
    assert not holds({"regex": "/1"}, head(path="/v/1"))


def test_a_model_condition_needs_the_model() -> None:
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


def test_the_model_is_needed_only_if_all_other_conditions_hold() -> None:
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
def test_the_first_failed_condition_is_explained(rule: dict[str, object], condition: str, words: str) -> None:
    made = matcher(**rule)  # type: ignore[arg-type]
    failing = made.failing(head(), b"/")
    assert failing is not None and failing[0] == condition and words in failing[1]


def test_a_received_value_is_never_shown() -> None:
    failing = matcher(header={"Authorization": "x"}).failing(head(authorization="Bearer sk-1234"), b"/")
    assert failing is not None and "sk-1234" not in failing[1]


@pytest.mark.parametrize("pattern", ["/(a+)+", "/files/.*a.*a.*z", r"/(a)\1", "/(", "/ü", "[", "v1", "/a b"])
def test_a_regex_that_may_block_the_loop_or_cannot_match_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regex"):
        matcher(regex=pattern)


def test_a_path_too_long_for_a_regex_is_refused_and_does_not_bypass_it() -> None:
    rule = matcher(regex="/secret/.*")
    test = rule.test()
    assert test is not None
    longest = b"/secret/" + b"x" * (MAX_PATH_BYTES - 8)
    assert test(head(), longest)
    with pytest.raises(ExchangeError) as refused:
        test(head(), longest + b"x")
    assert refused.value.kind.status == 414
    assert rule.failing(head(), longest + b"x") is not None


@pytest.mark.parametrize(("written", "asked"), [("/café/", b"/caf%C3%A9/x"), ("/a b/", b"/a%20b/x"), ("/f//g/", b"/f/g/x"), ("/d/../e/", b"/e/x"), ("/p%2fq/", b"/p/q/x")])
def test_a_path_of_the_configuration_is_compared_in_normal_form(written: str, asked: bytes) -> None:
    assert matcher(prefix=written).failing(head(), asked) is None
    assert matcher(path=written).failing(head(), asked[:-1]) is None


@pytest.mark.parametrize("rule", [{"path": "/x?y"}, {"prefix": "/#"}, {"prefix": "/a/.."}])
def test_a_path_that_no_request_can_equal_is_refused(rule: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"contains|ends"):
        matcher(**rule)  # type: ignore[arg-type]


def test_an_address_in_brackets_is_compared_in_its_shortest_form() -> None:
    for host in ("[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]:80"):
        assert holds({"host": ["[0::1]"]}, head(host=host))


def test_a_field_repeated_with_other_values_is_refused() -> None:
    asked = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX-Team: red\r\nx-team: blue\r\n\r\n")
    rule = matcher(header={"X-Team": "blue"})
    with pytest.raises(ExchangeError) as refused:
        rule.headers_hold(asked, b"/")
    assert refused.value.kind.status == 400
    assert "repeated" in (rule.failing(asked, b"/") or ("", ""))[1]
    assert matcher(header={"X-Team": "*"}).headers_hold(asked, b"/")
    assert not matcher(header={"X-Team": "green"}).headers_hold(asked, b"/")
    for spelling in (b"X_Team", b"x_team"):
        alike = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + spelling + b": blue\r\n\r\n")
        for one in (rule, matcher(header={"X-Team": "*"})):
            with pytest.raises(ExchangeError):
                one.headers_hold(alike, b"/")
        assert not matcher(header={"X-Team": "red"}).headers_hold(alike, b"/")
        assert matcher(header={spelling.decode(): "blue"}).headers_hold(alike, b"/")
    twice = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX-Team: blue\r\nx-team: blue\r\n\r\n")
    assert rule.headers_hold(twice, b"/")


@pytest.mark.parametrize(
    ("wanted", "lines", "expected"),
    [
        # a list in one line is decided as its lines would be
        ("red", ["red, blue"], None), ("red", ["blue,red"], None), ("red", ["blue", "green ,red"], None),
        ("red", ["blue, green"], False), ("red", ["redder, blue"], False), ("red", ["red, red"], True), ("red", ["red", "red"], True),
        ("red", ["red; q=1, blue"], False), ("red", [","], False),
        # a value with a comma of its own
        ("red, blue", ["red, blue"], True), ("red, blue", ["red, blue", "red, blue"], True), ("red, blue", ["red"], False),
        ("red, blue", ["red", "blue"], None), ("red, blue", ["red,blue"], None), ("red, blue", ["red, blue", "green"], None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", ["Sun, 06 Nov 1994 08:49:37 GMT"], True),
        ("Sun, 06 Nov 1994 08:49:37 GMT", ["Mon, 07 Nov 1994 08:49:37 GMT"], False),
        ("*", ["red, blue"], True), ("*", ["red", "blue"], True),
    ],
)  # fmt: skip
def test_a_list_is_decided_as_the_lines_that_it_stands_for(wanted: str, lines: list[str], expected: bool | None) -> None:
    fields = "".join(f"X-Team: {line}\r\n" for line in lines)
    asked = parse_head(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
    rule = matcher(header={"X-Team": wanted})
    if expected is None:
        with pytest.raises(ExchangeError) as refused:
            rule.headers_hold(asked, b"/")
        assert refused.value.kind.status == 400
    else:
        assert rule.headers_hold(asked, b"/") is expected


def test_bytes_are_shown_without_control_bytes() -> None:
    assert show(b"/a\x1b[0m\xff") == "/a\\x1b[0m\\xff"
