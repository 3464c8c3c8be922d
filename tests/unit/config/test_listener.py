"""`listeners:` and `admin:`."""

from __future__ import annotations

import pathlib

import pytest

from relayd.schema import Duration, Size
from tests.unit.config.section_case import accepted, faults


def test_a_listener_needs_nothing_but_an_address() -> None:
    config, warnings = accepted()
    listener = config.listeners["a"]
    assert (listener.tls, listener.timeouts.header, listener.limits.header, listener.mode) == (None, Duration(10), Size(65536), "0660")
    assert warnings == {}


@pytest.mark.parametrize("address", ["8282", ":8282", "a:b", "unix:x", "http://a"])
def test_an_address_that_cannot_be_bound_is_a_fault(address: str) -> None:
    assert list(faults(listeners=f"{{a: {{address: '{address}'}}}}")) == ["listeners.a.address"]


def test_trusted_proxies_are_networks_or_unix() -> None:
    config, _ = accepted(listeners="{a: {address: '[::1]:1', trusted_proxies: [10.0.0.0/8, '::1', unix], proxy_protocol: yes}}")
    assert config.listeners["a"].trusted_proxies == ("10.0.0.0/8", "::1", "unix")
    found = faults(listeners="{a: {address: '[::1]:1', trusted_proxies: [10.0.0.1/8, host]}}")
    assert list(found) == ["listeners.a.trusted_proxies[0]", "listeners.a.trusted_proxies[1]"]


def test_the_proxy_protocol_needs_somebody_to_trust() -> None:
    assert list(faults(listeners="{a: {address: 'a:1', proxy_protocol: true}}")) == ["listeners.a.proxy_protocol"]


def test_a_certificate_that_cannot_be_read_is_a_fault(tmp_path: pathlib.Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    found = faults(listeners=f"{{a: {{address: 'a:1', tls: {{certificates: {{cert: {tmp_path}/c.pem, key: {tmp_path}/k.pem}}}}}}}}")
    assert list(found) == ["listeners.a.tls.certificates[0].key"]
    assert list(faults(listeners="{a: {address: 'a:1', tls: {certificates: []}}}")) == ["listeners.a.tls.certificates"]


def test_limits_have_bounds_and_times_can_be_switched_off() -> None:
    config, _ = accepted(listeners="{a: {address: 'a:1', timeouts: {keepalive: off}, limits: {header: 1MiB}}}")
    assert config.listeners["a"].timeouts.keepalive == Duration(0)
    assert config.listeners["a"].limits.header == 1 << 20
    assert list(faults(listeners="{a: {address: 'a:1', limits: {header: 1KiB, fields: 5}}}")) == [
        "listeners.a.limits.header", "listeners.a.limits.fields"]


def test_a_unix_socket_has_a_mode_and_an_owner() -> None:
    config, _ = accepted(listeners="{a: {address: 'unix:/run/a', mode: 0666, owner: ':www-data'}}")
    assert (config.listeners["a"].mode, config.listeners["a"].owner) == ("0666", ":www-data")
    assert list(faults(listeners="{a: {address: 'unix:/run/a', mode: 888, owner: 'a b'}}")) == ["listeners.a.mode", "listeners.a.owner"]


def test_the_admin_application_is_on_a_unix_socket_only() -> None:
    assert list(faults(admin="{address: '127.0.0.1:1'}")) == ["admin.address"]
    assert list(faults(admin="{address: 'unix:/a/'}")) == ["admin.address"]
