"""What is compared with requests can equal one, and costs linear time."""

from __future__ import annotations

import pytest

from relayd.config.patterns import (
    fault_of_host,
    fault_of_location,
    fault_of_origin,
    fault_of_path,
    fault_of_regex,
    not_normal,
)


def test_a_regex_is_proven_linear_or_refused() -> None:
    assert fault_of_regex("/v1/(chat|responses)/.*") is None
    assert "character 11" in (fault_of_regex("/files/.*a.*a.*z") or "")


def test_a_path_is_a_fault_where_no_request_can_equal_it_and_a_warning_where_it_is_written_otherwise() -> None:
    assert fault_of_path("/x?y=1", whole=True) and not_normal("/x?y=1", whole=True) is None
    assert fault_of_path("/café/", whole=False) is None
    assert "/caf%C3%A9/" in (not_normal("/café/", whole=False) or "")
    assert not_normal("/v1/", whole=False) is None


@pytest.mark.parametrize(("host", "good"), [
    ("example.org", True), ("*.example.org", True), ("localhost", True), ("10.0.0.1", True), ("[::1]", True), ("a_b", True), ("ADMIN.test", True),
    ("admin.test.", True), ("[0:0:0:0:0:0:0:1]", True),
    ("example.org:80", False), ("*", False), ("a.*.b", False), ("", False), ("http://a", False), ("a b", False), ("a..b", False), ("admin.test..", False),
    (".admin.test", False), ("%61dmin.test", False), ("admin.test.:80", False), ("[::1]:80", False), ("[:::]", False), ("[::1", False), ("bücher.example", False),
    ("*.", False), (".", False),
])
def test_a_host_is_one_that_a_request_can_have(host: str, good: bool) -> None:
    assert (fault_of_host(host) is None) is good


@pytest.mark.parametrize(("host", "why"), [
    ("admin.test..", "empty label"), ("%61dmin.test", "escape"), ("admin.test:80", "port"), ("bücher.example", "xn--"), ("[:::]", "IPv6"),
])
def test_the_fault_of_a_host_names_its_cause(host: str, why: str) -> None:
    assert why in (fault_of_host(host) or "")


@pytest.mark.parametrize("origin", ["*", "null", "https://app.example", "http://localhost:3000", "https://[::1]:8443", "chrome-extension://abcdef", "https://xn--bcher-kva.example"])
def test_an_origin_that_browsers_send_is_accepted(origin: str) -> None:
    assert fault_of_origin(origin) is None


@pytest.mark.parametrize(("origin", "why"), [
    ("https://app.example/", "did you mean https://app.example?"), ("https://App.example", "did you mean https://app.example?"),
    ("https://app.example/path", "without a path"), ("https://app.example:443", "write https://app.example"), ("http://a:80", "write http://a"),
    ("app.example", "scheme://host"), ("https://*.example", "scheme://host"), ("https://a:99999", "port"), ("https://a:0443", "port"), ("https://a:", "scheme://host"),
    ("https://[::0:1]", "[::1]"), ("https://a..b", "empty label"), ("https://bücher.example", "scheme://host"), ("", "scheme://host"),
])
def test_an_origin_that_no_browser_sends_is_refused(origin: str, why: str) -> None:
    assert why in (fault_of_origin(origin) or "")


@pytest.mark.parametrize(("location", "good"), [
    ("https://{host}{path}{query}", True), ("/new{path}", True), ("https://a.example/%C3%A9?x=y#z", True), ("", False), ("https://a b/", False),
    ("https://bücher.example/", False), ("/a\r\nX: y", False), ("/100%", False),
])
def test_a_location_is_a_reference_to_a_uri(location: str, good: bool) -> None:
    assert (fault_of_location(location) is None) is good
