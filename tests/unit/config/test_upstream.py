"""`upstreams:`."""

from __future__ import annotations

import pathlib

import pytest

from relayd.schema import Duration
from tests.unit.config.section_case import accepted, faults


def test_an_upstream_is_as_short_as_one_address() -> None:
    config, warnings = accepted(upstreams="{u: {endpoints: 'http://127.0.0.1:9001'}}")
    upstream = config.upstreams["u"]
    assert [one.url for one in upstream.endpoints] == ["http://127.0.0.1:9001"]
    assert (upstream.protocol, upstream.auth, upstream.tls.verify, upstream.timeouts.connect) == ("plain", None, True, Duration(5))
    assert warnings == {}


@pytest.mark.parametrize("url", ["a:80", "http://u:sk-4711@a", "http://a?key=sk-4711", "http://a/#b", "ftp://a"])
def test_an_endpoint_that_hides_a_key_is_a_fault_and_is_not_repeated(url: str) -> None:
    found = faults(upstreams=f"{{u: {{endpoints: ['{url}']}}}}")
    assert list(found) == ["upstreams.u.endpoints[0].url"]
    assert "4711" not in str(found)


def test_endpoints_are_there_and_each_once() -> None:
    assert list(faults(upstreams="{u: {endpoints: []}, v: {}, w: {endpoints: ['http://a', 'http://a']}}")) == [
        "upstreams.u.endpoints", "upstreams.v.endpoints", "upstreams.w.endpoints[1]"]


def test_one_key_is_added_and_only_as_a_reference(tmp_path: pathlib.Path) -> None:
    key = tmp_path / "k"
    key.write_text("sk-4711")
    key.chmod(0o600)
    config, _ = accepted(upstreams=f"{{u: {{endpoints: 'https://a', auth: {{header: {{name: x-api-key, value: {{file: {key}}}}}}}}}}}")
    auth = config.upstreams["u"].auth
    assert auth is not None
    assert auth.header is not None
    assert [key.reveal() for key in auth.header.value] == ["sk-4711"]
    assert "4711" not in repr(config)
    found = faults(upstreams=f"{{u: {{endpoints: 'https://a', auth: {{bearer: {{file: {key}}}, query: {{name: k, value: sk-4712}}}}}}}}")
    assert list(found) == ["upstreams.u.auth.query.value[0]"]
    found = faults(upstreams=f"{{u: {{endpoints: 'https://a', auth: {{bearer: {{file: {key}}}, query: {{name: k, value: {{file: {key}}}}}}}}}}}")
    assert list(found) == ["upstreams.u.auth"]


def test_a_bearer_key_is_one_visible_word(tmp_path: pathlib.Path) -> None:
    (tmp_path / "k").write_text("two words")
    found = faults(upstreams=f"{{u: {{endpoints: 'https://a', auth: {{bearer: {{file: {tmp_path}/k}}}}}}}}")
    assert list(found) == ["upstreams.u.auth.bearer[0]"]
    assert "two" not in str(found)


def test_a_key_field_is_not_one_of_the_framing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "k").write_text("k")
    found = faults(upstreams=f"{{u: {{endpoints: 'https://a', auth: {{header: {{name: Host, value: {{file: {tmp_path}/k}}}}}}}}}}")
    assert list(found) == ["upstreams.u.auth.header.name"]


def test_a_key_over_an_open_network_is_warned_of_and_at_home_it_is_not(tmp_path: pathlib.Path) -> None:
    (tmp_path / "k").write_text("k")
    (tmp_path / "k").chmod(0o600)
    auth = f"auth: {{bearer: {{file: {tmp_path}/k}}}}"
    _, warnings = accepted(upstreams=f"{{u: {{endpoints: 'http://a', {auth}}}, v: {{endpoints: 'http://127.0.0.1:1', {auth}}}}}")
    assert list(warnings) == ["upstreams.u.auth"]


def test_tls_without_verification_is_warned_of_loudly() -> None:
    _, warnings = accepted(upstreams="{u: {endpoints: 'https://a', tls: {verify: false}}}")
    assert "NOT VERIFIED" in warnings["upstreams.u.tls.verify"]


def test_certificate_and_key_belong_together_and_can_be_read() -> None:
    assert list(faults(upstreams="{u: {endpoints: 'https://a', tls: {cert: /nowhere/c.pem, ca: ca.pem}}}")) == [
        "upstreams.u.tls.cert", "upstreams.u.tls.ca"]


def test_what_protects_both_sides_is_in_force() -> None:
    _, warnings = accepted(upstreams="{u: {endpoints: 'https://a', balance: random, limits: {requests: 3}, retries: {attempts: 2}, breaker: {failures: 1}}}")
    assert not [path for path in warnings if "limits" not in path]


def test_only_a_dialect_has_a_list_of_models() -> None:
    config, _ = accepted(upstreams="{u: {endpoints: 'http://a', protocol: ollama, list_models: yes}}")
    assert config.upstreams["u"].list_models
    assert list(faults(upstreams="{u: {endpoints: 'http://a', list_models: yes}}")) == ["upstreams.u.list_models"]
