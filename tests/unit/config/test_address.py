"""Addresses are read strictly, and a URL is never repeated in a fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.address import (
    AddressError,
    EndpointAddress,
    ListenAddress,
    fault_of,
    parse_endpoint,
    parse_listen,
)


@pytest.mark.parametrize(("text", "address"), [
    ("127.0.0.1:8282", ListenAddress("tcp", "127.0.0.1", 8282)), ("[::1]:80", ListenAddress("tcp", "::1", 80)),
    ("[::]:443", ListenAddress("tcp", "::", 443)), ("localhost:0", ListenAddress("tcp", "localhost", 0)),
    ("unix:/run/a.sock", ListenAddress("unix", "/run/a.sock")), ("systemd:web", ListenAddress("systemd", "web")),
])
def test_a_listener_is_a_host_and_port_a_socket_or_a_name_of_systemd(text: str, address: ListenAddress) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", [
    "", "8282", ":8282", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:8o", "::1:80", "[::1]",
    "[::g]:80", "1.2.3:80", "1.2.3.256:80", "unix:", "unix:a", "unix:/a/../b", "unix:/a/", "unix:/" + "a" * 107, "systemd:",
    "systemd:a b", "http://a:80", "a b:80", "127.0.0.1:٨٠", "127.0.0.1:80\n", "*:80",
])
def test_a_listener_that_could_not_be_bound_is_refused(text: str) -> None:
    assert fault_of(parse_listen, text)


@pytest.mark.parametrize(("text", "address", "authority"), [
    ("http://a", EndpointAddress("http", "a", 80, ""), "a"), ("https://A.example/v1", EndpointAddress("https", "a.example", 443, "/v1"), "a.example"),
    ("http://127.0.0.1:9001", EndpointAddress("http", "127.0.0.1", 9001, ""), "127.0.0.1:9001"),
    ("https://[::1]:8443/x%20y/", EndpointAddress("https", "::1", 8443, "/x%20y/"), "[::1]:8443"),
    ("http://a_b:443", EndpointAddress("http", "a_b", 443, ""), "a_b:443"),
    ("unix:/run/a.sock", EndpointAddress("http", "localhost", 80, "", "/run/a.sock"), "localhost"),
    ("unix:/run/a.sock:/v1", EndpointAddress("http", "localhost", 80, "/v1", "/run/a.sock"), "localhost"),
])
def test_an_endpoint_is_a_url_or_a_socket_with_a_path(text: str, address: EndpointAddress, authority: str) -> None:
    assert parse_endpoint(text) == address
    assert parse_endpoint(text).authority == authority


@pytest.mark.parametrize("text", [
    "", "a", "ftp://a", "http:/a", "http:a", "http://", "http:///a", "http://u:sk-4711@a", "http://sk-4711@a/", "http://a?key=sk-4711",
    "http://a/#sk-4711", "http://a:b/sk-4711", "http://a:0", "http://a:99999", "http://a/sk-4711 b", "http://a/\u00e4", "http://a/../b",
    "http://a/%zz", "http://[::1", "http://a:", "HTTP://a", "http://a\\@b", "http://a/<b>", "unix:/a:b", "unix:a", "http://a?", "http://a#",
])
def test_an_endpoint_that_hides_something_is_refused_without_being_repeated(text: str) -> None:
    fault = fault_of(parse_endpoint, text)
    assert fault
    assert "4711" not in fault


@given(st.text(max_size=60) | st.text(alphabet="htps:/[]@?#.%0123456789abunixsyem-", max_size=40))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    for parse in (parse_listen, parse_endpoint):
        try:
            parse(text)
        except AddressError as fault:
            assert str(fault)
