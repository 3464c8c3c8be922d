"""The whole configuration: rules between sections."""

from __future__ import annotations

import pathlib

import pytest

from relayd.config.load import load_text
from relayd.config.model import unknown
from relayd.errors import ConfigError
from tests.unit.config.section_case import accepted, faults

UPSTREAMS = "{web: {endpoints: 'http://127.0.0.1:1'}, chat: {endpoints: 'https://a/v1', protocol: openai_chat}}"


def test_a_listener_is_needed_and_each_address_is_used_once() -> None:
    assert list(faults(listeners="{}")) == ["listeners"]
    assert list(faults(listeners="{a: {address: 'a:1'}, b: {address: 'a:1'}}")) == ["listeners.b.address"]
    assert list(faults(listeners="{a: {address: 'unix:/run/relayd/admin.sock'}}")) == ["listeners.a.address"]
    accepted(listeners="{a: {address: 'a:0'}, b: {address: 'a:0'}, c: {address: 'systemd:x'}}")


def test_names_that_routes_use_must_be_there() -> None:
    found = faults(upstreams=UPSTREAMS, routes="[{name: r, upstream: wbe, allow: [team]}, {name: r, upstream: demo}]")
    assert found == {
        "routes[0].upstream": "unknown upstream 'wbe'; did you mean web?",
        "routes[0].allow[0]": "unknown consumer or group 'team'; known: none",
        "routes[1].name": "routes[0] has this name too",
    }


def test_a_built_in_upstream_cannot_be_replaced() -> None:
    assert list(faults(upstreams="{demo: {endpoints: 'http://a'}}")) == ["upstreams.demo"]


def test_names_are_words_that_metrics_can_carry() -> None:
    assert list(faults(upstreams="{'a b': {endpoints: 'http://a'}}", consumers="{'c/d': {bearer: {env: NOT_SET_ANYWHERE}}}")) == [
        "upstreams.a b", "consumers.c/d.bearer.env"]


def test_a_model_goes_to_an_upstream_that_is_there() -> None:
    assert list(faults(models="{m: nowhere}")) == ["models.m.upstream"]
    _, warnings = accepted(models="{m: chat}", upstreams=UPSTREAMS)
    assert not warnings
    assert list(faults(models="{m: {upstream: chat, fallbacks: [nowhere]}}", upstreams=UPSTREAMS)) == [
        "models.m.fallbacks[0].upstream"]


def test_only_one_key_can_be_sent(tmp_path: pathlib.Path) -> None:
    (tmp_path / "k").write_text("k")
    (tmp_path / "k").chmod(0o600)
    found = faults(upstreams=f"{{u: {{endpoints: 'https://a', auth: {{bearer: {{file: {tmp_path}/k}}}}}}}}",
                   routes="[{name: r, upstream: u, pass_client_key: true}]")
    assert list(found) == ["routes[0].pass_client_key"]


def test_what_cannot_be_translated_is_a_fault() -> None:
    _, warnings = accepted(upstreams=UPSTREAMS, routes="""
  - {name: same, match: {path: /a}, upstream: chat, protocol: openai_chat}
  - {name: other, match: {path: /b}, upstream: chat, protocol: anthropic_messages}
  - {name: inherited, upstream: chat}""")
    assert not warnings
    found = faults(upstreams=UPSTREAMS, routes="""
  - {name: gemini, match: {path: /a}, upstream: chat, protocol: gemini}
  - {name: small, match: {path: /b}, upstream: web, protocol: simple_chat}
  - {name: nobody, match: {path: /c}, upstream: by_model}
  - {name: away, match: {path: /d}, upstream: chat, fallbacks: [nowhere], mirror: nobody, canary: {upstream: no, weight: 1}}""")
    assert set(found) == {
        "routes[0].upstream", "routes[1].upstream", "routes[2].upstream", "routes[3].fallbacks[0].upstream",
        "routes[3].mirror.upstream", "routes[3].canary.upstream"}


def test_a_route_by_model_needs_one_model_that_it_can_reach() -> None:
    upstreams = "{c: {protocol: openai_chat, endpoints: 'http://a'}, g: {protocol: gemini, endpoints: 'http://b'}}"
    route = "[{name: google, protocol: gemini, upstream: by_model}]"
    _, warnings = accepted(upstreams=upstreams, models="{m: c, n: g}", routes=route)
    assert not warnings
    assert list(faults(upstreams=upstreams, models="{m: c}", routes=route)) == ["routes[0].upstream"]


def test_a_route_that_hides_all_behind_it_is_warned_of() -> None:
    _, warnings = accepted(routes="[{name: all, respond: 200}, {name: never, respond: 200}]")
    assert list(warnings) == ["routes[0]"]
    _, warnings = accepted(routes="[]")
    assert list(warnings) == ["routes"]


def test_memory_for_request_bodies_is_bounded_by_default_and_a_route_that_takes_more_is_warned_of() -> None:
    config, warnings = accepted()
    assert config.daemon.request_buffers.size == 256 * 1024 * 1024 and not warnings
    by_model = {"upstreams": "{a: {endpoints: [\"http://127.0.0.1:1\"], protocol: openai_chat}}", "models": "{m: a}"}
    for route, warned in (("upstream: by_model", True), ("upstream: by_model, body_limit: 1MiB", False), ("respond: 200", False)):
        routes = f"[{{name: r, {route}}}]"
        _, warnings = accepted(routes=routes, daemon="{request_buffers: 16MiB}", **by_model)
        assert (list(warnings) == ["routes[0].body_limit"]) is warned
    _, warnings = accepted(routes="[{name: r, upstream: by_model}]", daemon="{request_buffers: 0}", **by_model)
    assert not warnings
    assert "daemon.request_buffers.size" in faults(daemon="{request_buffers: 4KiB}")


def test_fields_of_the_house_have_names_of_their_own() -> None:
    config, _ = accepted(headers="{via: off, real_ip: off, request_id: X-Trace}")
    assert (config.headers.via, config.headers.request_id) == ("off", "X-Trace")
    assert list(faults(headers="{real_ip: 'a b', proxy_by: Connection, forwarded: x-forwarded-for}")) == [
        "headers.real_ip", "headers.proxy_by", "headers.forwarded"]


def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    assert unknown("upstream", "zzz", ["a", "b"]) == "unknown upstream 'zzz'; known: a, b"


@pytest.mark.parametrize(("first", "second", "hidden"), [
    ("prefix: /v1/", "prefix: /v1/chat", True), ("prefix: /v1/", "path: /v1/x", True), ("path: /a", "path: /a", True),
    ("prefix: /v1/", "prefix: /v1", False), ("path: /a", "prefix: /a", False), ("regex: /a.*", "path: /ab", False),
    ("host: [a.org]", "host: [a.org], path: /x", True), ("host: [a.org]", "path: /x", False),
    ("host: [a.org, b.org]", "host: [b.org]", True), ("method: [GET], prefix: /", "method: [GET], path: /x", True),
    ("header: {x-a: '1'}, prefix: /", "path: /x", False), ("prefix: /", "header: {x-a: '1'}, path: /x", True),
    ("model: [a], prefix: /", "path: /x", False),
])
def test_a_route_that_can_never_be_reached_is_warned_of(first: str, second: str, hidden: bool) -> None:
    _, warnings = accepted(routes=f"[{{name: a, match: {{{first}}}, respond: 200}}, {{name: b, match: {{{second}}}, respond: 200}}]")
    assert list(warnings) == (["routes[1]"] if hidden else [])


def test_a_mirror_of_another_name_that_leads_to_the_same_address_is_a_fault() -> None:
    text = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {a: {endpoints: ["http://e:1"]}, b: {endpoints: ["http://f:1", "http://e:1"]}}
routes: [{name: all, upstream: a, mirror: b}]
"""
    with pytest.raises(ConfigError) as refused:
        load_text(text, "relayd.yaml")
    (finding,) = refused.value.findings
    assert (finding.path, "http://e:1" in finding.message) == ("routes[0].mirror.upstream", True)
