"""Consumers that are not known by a key: what their sections accept, and what they are warned about."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.config.load import load_text
from relayd.errors import ConfigError
from tests.aids.certificates import made

TEXT = """listeners: {p: {address: "127.0.0.1:1"%s}}
upstreams: {u: {endpoints: ["http://127.0.0.1:2"]}}
consumers:
  one: %s
routes: [{name: all, upstream: u, allow: [one]}]
"""


def faults(consumer: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(TEXT % ("", consumer), "relayd.yaml")
    return [str(one) for one in caught.value.findings]


@pytest.mark.parametrize(("consumer", "fault"), [
    ('{addresses: ["10.0.0.1/8"]}', "relayd.yaml:4:21: error: consumers.one.addresses[0]: has bits outside its mask; the network is 10.0.0.0/8"),
    ("{addresses: []}", "relayd.yaml:4:8: error: consumers.one.addresses: is empty"),
    ("{none: false}", "relayd.yaml:4:8: error: consumers.one.none: has a meaning only as `none: true`"),
    ("{mtls: {}}", "relayd.yaml:4:15: error: consumers.one.mtls: needs subject or san"),
    ('{mtls: {san: ["example.org"]}}', "consumers.one.mtls.san[0]: needs one of DNS:"),
    ('{mtls: {subject: ["XY=a"]}}', "consumers.one.mtls.subject[0]: unknown attribute"),
    ("{basic: {user: \"a:b\", password: {env: HOME}}}", "consumers.one.basic.user"),
    ("{limits: 3}", "consumers.one: needs addresses, basic, bearer, header, jwt, key, mtls or none"),
])
def test_a_bad_section_is_a_fault_with_its_place(consumer: str, fault: str) -> None:
    assert any(fault in one or fault.split(": ", 2)[-1] in one for one in faults(consumer)), faults(consumer)


def test_certificates_that_no_listener_asks_for_are_warned_about(tmp_path: Path) -> None:
    consumer = "{mtls: {subject: [CN=a]}}"
    (warning,) = [str(one) for one in load_text(TEXT % ("", consumer), "relayd.yaml").warnings]
    assert "consumers.one.mtls: recognises nobody: no listener has tls.client_ca" in warning
    pair = made(tmp_path, "a", "a.test")
    tls = f", tls: {{certificates: [{{cert: {pair.cert}, key: {pair.key}}}], client_ca: {pair.cert}}}"
    assert not load_text(TEXT % (tls, consumer), "relayd.yaml").warnings


def test_a_required_certificate_needs_an_authority(tmp_path: Path) -> None:
    pair = made(tmp_path, "a", "a.test")
    tls = f", tls: {{certificates: [{{cert: {pair.cert}, key: {pair.key}}}], client_certificate: required}}"
    with pytest.raises(ConfigError, match="client_certificate: needs client_ca"):
        load_text(TEXT % (tls, "{none: true}"), "relayd.yaml")
