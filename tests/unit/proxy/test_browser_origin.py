"""Which pages may use an application inside relayd."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.proxy.browser_origin import can_be_rebound, fault_of_page, host_of, is_browser, is_cross_site, is_local_host
from tests.unit.proxy.fakes import UPSTREAM, Client, head_for, plan_of, run_through_phases


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


BROWSER = "User-Agent: Mozilla/5.0"
BY_ADDRESS = (
    f"{UPSTREAM}consumers: {{office: {{addresses: [192.0.2.0/24]}}, ops: {{bearer: {{file: FILE}}}}}}\n"
    "routes: [{name: pages, match: {prefix: /, MATCH}, upstream: admin, admin_write: true, allow: [office, ops]}]\n"
)


def fault(
    tmp_path: Path, *lines: str, method: str = "GET", host: str = "relay.example", tls: bool = False, match: str = "",
) -> str:
    """Why a page at this host may not use the admin application; the consumer is known by the address of the client."""
    (tmp_path / "ops").write_text("sk-of-ops")
    plan = plan_of(BY_ADDRESS.replace("FILE", str(tmp_path / "ops")).replace("MATCH", match))
    head = head_for(*lines, start=f"{method} /status HTTP/1.1", host=host)
    _, exchange, _ = run_through_phases(plan, head, Client(tls=tls))
    assert exchange.route is not None and exchange.identity is not None
    return fault_of_page(exchange, host.encode())


@pytest.mark.parametrize(("host", "reason"), [
    ("evil.test", "wrong_host"), ("evil.test:8080", "wrong_host"), ("127.0.0.1:8282", ""), ("localhost", ""), ("192.0.2.1", ""),
])
def test_a_page_under_a_name_that_may_be_rebound_is_refused(tmp_path: Path, host: str, reason: str) -> None:
    assert fault(tmp_path, BROWSER, host=host) == reason
    assert fault(tmp_path, "User-Agent: curl/8.0", host=host) == "", "not a browser"


def test_a_name_of_the_route_or_of_a_certificate_is_genuine(tmp_path: Path) -> None:
    assert fault(tmp_path, BROWSER, match="host: [relay.example]") == ""
    assert fault(tmp_path, BROWSER, tls=True) == ""


@pytest.mark.parametrize(("method", "lines", "reason"), [
    ("GET", ("Sec-Fetch-Site: cross-site",), "cross_site"),
    ("GET", ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), ""),  # a link
    ("POST", ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), "cross_site"),
    ("POST", ("Sec-Fetch-Site: same-origin",), ""),
    ("POST", ("Origin: http://evil.test",), "cross_site"),
    ("POST", ("Origin: http://127.0.0.1",), ""),
    ("POST", (), "cross_site"),  # a browser names the page that sends an action
    ("GET", (), ""),
])
def test_an_action_of_another_site_is_refused(tmp_path: Path, method: str, lines: tuple[str, ...], reason: str) -> None:
    assert fault(tmp_path, BROWSER, *lines, method=method, host="127.0.0.1") == reason


def test_a_key_is_proof_for_any_page(tmp_path: Path) -> None:
    assert fault(tmp_path, BROWSER, "Authorization: Bearer sk-of-ops", host="evil.test", method="POST") == ""
