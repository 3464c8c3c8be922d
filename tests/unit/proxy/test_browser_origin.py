"""Which pages may use an application inside relayd."""

from __future__ import annotations

import pytest

from relayd.proxy.browser_origin import can_be_rebound, host_of, is_browser, is_cross_site, is_local_host


@pytest.mark.parametrize(
    ("fetch_site", "origin", "host", "cross"),
    [
        (None, None, b"a.test", False),  # not a browser
        (b"same-origin", None, b"a.test", False),
        (b"none", None, b"a.test", False),  # the user typed the address
        (b"cross-site", None, b"a.test", True),
        (b"same-site", b"https://b.test", b"a.test", True),
        (b"same-origin", b"https://public.test", b"internal:8282", False),  # a proxy has replaced Host
        (None, b"http://a.test:8282", b"A.test:8282", False),
        (None, b"http://a.test", b"a.test:8282", True),
        (None, b"https://evil.test", b"a.test", True),
        (None, b"null", b"a.test", True),
        (None, b"null", b"", True),
    ],
)
def test_a_request_in_the_name_of_another_site_is_recognised(
    fetch_site: bytes | None, origin: bytes | None, host: bytes, cross: bool
) -> None:
    assert is_cross_site(fetch_site, origin, host) is cross


@pytest.mark.parametrize(
    ("authority", "host", "local", "rebound"),
    [
        ("", "", True, False), ("LocalHost:8080", "localhost", True, False), ("127.0.0.1", "127.0.0.1", True, False),
        ("[::1]:80", "::1", True, False), ("192.0.2.1:9100", "192.0.2.1", False, False),
        ("[2001:db8::1]:8080", "2001:db8::1", False, False), ("evil.test:8080", "evil.test", False, True),
        ("relayd", "relayd", False, True), ("evil.test.", "evil.test", False, True), ("a.localhost", "a.localhost", False, False),
        ("1.2.3.4.evil.test", "1.2.3.4.evil.test", False, True), ("0x7f.1", "0x7f.1", False, True),
    ],
)
def test_only_names_can_be_rebound(authority: str, host: str, local: bool, rebound: bool) -> None:
    assert (host_of(authority), is_local_host(host), can_be_rebound(host)) == (host, local, rebound)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, False), ({b"user-agent": b"curl/8.0"}, False), ({b"user-agent": b"Mozilla/5.0"}, True),
        ({b"user-agent": b"curl/8.0", b"accept-language": b""}, True), ({b"origin": b"null"}, True),
        ({b"sec-fetch-site": b"none"}, True),
    ],
)
def test_a_browser_is_known_by_fields_that_a_page_cannot_remove(fields: dict[bytes, bytes], found: bool) -> None:
    assert is_browser(fields.get) is found
