"""Traefik: rules, priorities, middlewares, services and entry points, in YAML and TOML."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.importers import Conversion, converted
from relayd.importers._toml import toml_tree
from relayd.importers._traefik_rule import parse_rule
from relayd.schema.nodes import Mapping, Scalar, Sequence

SERVICE = "  services: {app: {loadBalancer: {servers: [{url: 'http://a:1'}]}}}\n"


def traefik(text: str, *more: tuple[str, str]) -> Conversion:
    return converted("traefik", [("dynamic.yml", text), *more], named=lambda pattern, beside: [], read=lambda path: "")


def router(rule: str, rest: str = "", middlewares: str = "") -> Conversion:
    return traefik(f"http:\n  routers:\n    r:\n      rule: \"{rule}\"\n      service: app\n{rest}{middlewares}{SERVICE}")


def routes(result: Conversion) -> list[dict[str, Any]]:
    return [dict(one) if isinstance(one, dict) else dict(one.value) for one in result.draft.document("/k").get("routes", [])]


def section(result: Conversion, name: str) -> dict[str, Any]:
    return {key: one.value for key, one in result.draft.document("/k").get(name, {}).items()}


@pytest.mark.parametrize(("rule", "matches"), [
    ("Host(`a.org`)", [{"host": ["a.org"]}]), ("Host(`a.org`, `B.org`)", [{"host": ["a.org", "b.org"]}]), ("Path(`/a`, `/b`)", [{"path": "/a"}, {"path": "/b"}]),
    ("PathPrefix(`/a`) && Method(`get`)", [{"prefix": "/a", "method": ["GET"]}]), ("(Host(`a`) || Host(`b`)) && Path(`/x`)", [{"host": ["a"], "path": "/x"}, {"host": ["b"], "path": "/x"}]),
    ("Headers(`X-A`, `b`)", [{"header": {"X-A": "b"}}]), ("PathRegexp(`^/v[0-9]+$`)", [{"regex": "/v[0-9]+"}]), ('Host("a.org")', [{"host": ["a.org"]}]),
    ("HostRegexp(`{sub:[a-z]+}.a.org`)", [{"host": ["*.a.org"]}]), ("HostRegexp(`^.+\\.a\\.org$`)", [{"host": ["*.a.org"]}]), ("Host(`a`) && Host(`b`)", []),
])
def test_rules_that_relayd_can_express(rule: str, matches: list[Any]) -> None:
    found = parse_rule(rule)
    assert (found.matches, found.fault) == (matches, "")


@pytest.mark.parametrize(("rule", "superset"), [
    ("!Path(`/x`) && Host(`a`)", [{"host": ["a"]}]), ("Query(`a`, `b`) && PathPrefix(`/a`)", [{"prefix": "/a"}]), ("ClientIP(`10.0.0.0/8`)", [{}]),
    ("PathPrefix(`/a`) && Path(`/a/b`)", [{"path": "/a/b"}]), ("Path(`/{id}`)", [{}]), ("Host(`a", [{}]), ("Headers(`X-Api-Key`, `k`)", [{}]), ("PathRegexp(`(a+)+$`)", [{}]),
    ("Host(`a`) )", [{}]),
])
def test_rules_that_relayd_cannot_express_close_a_superset(rule: str, superset: list[Any]) -> None:
    found = parse_rule(rule)
    assert found.fault and found.matches == superset


def test_routers_are_ordered_by_priority_and_by_the_length_of_their_rules() -> None:
    result = traefik("http:\n  routers:\n    short: {rule: 'Path(`/a`)', service: app}\n    long: {rule: 'PathPrefix(`/abcdef`)', service: app}\n"
                     "    first: {rule: 'Path(`/z`)', service: app, priority: 1000}\n" + SERVICE)
    assert [one["name"] for one in routes(result)] == ["first", "long", "short"]


@pytest.mark.parametrize(("middleware", "values"), [
    ("{stripPrefix: {prefixes: [/a]}}", {"strip_prefix": "/a", "request_headers": {"set": {"X-Forwarded-Prefix": "/a"}}}), ("{addPrefix: {prefix: /x}}", {"rewrite": "/x/a"}), ("{replacePath: {path: /x}}", {"rewrite": "/x"}),
    ("{headers: {customRequestHeaders: {X-A: b, X-C: ''}}}", {"request_headers": {"set": {"X-A": "b"}, "remove": ["X-C"]}}),
    ("{buffering: {maxRequestBodyBytes: 1000}}", {"body_limit": 1000}), ("{inFlightReq: {amount: 5}}", {"limits": {"requests": 5}}),
    ("{redirectScheme: {scheme: https, permanent: true}}", {"redirect": {"location": "https://{host}{path}{query}", "status": 301}}),
    ("{basicAuth: {users: ['a:b']}}", None), ("{ipAllowList: {sourceRange: [10.0.0.0/8]}}", None), ("{rateLimit: {average: 5}}", None), ("{stripPrefix: {prefixes: [/other]}}", None),
    ("{circuitBreaker: {expression: x}}", None),
])
def test_middlewares_change_or_close_the_route(middleware: str, values: dict[str, Any] | None) -> None:
    result = router("PathPrefix(`/a`)", "      middlewares: [m@file]\n", f"  middlewares: {{m: {middleware}}}\n")
    found = routes(result)[0]
    if values is None:
        assert found["respond"]["status"] == 501
    else:
        assert {key: found[key] for key in values} == values


def test_a_middleware_that_is_not_in_the_files_closes_the_route() -> None:
    assert routes(router("Path(`/a`)", "      middlewares: [gone]\n"))[0]["respond"]["status"] == 501


def test_retries_belong_to_the_upstream() -> None:
    result = router("Path(`/a`)", "      middlewares: [m]\n", "  middlewares: {m: {retry: {attempts: 3}}}\n")
    assert section(result, "upstreams")["app"]["retries"] == {"attempts": 3}


@pytest.mark.parametrize("services", ["{}", "{app: {weighted: {services: []}}}", "{app: {loadBalancer: {servers: [{url: 'h2c://a'}]}}}"])
def test_a_service_that_cannot_be_converted_closes_the_route(services: str) -> None:
    result = traefik(f"http:\n  routers: {{r: {{rule: 'Path(`/a`)', service: app}}}}\n  services: {services}\n")
    assert routes(result)[0]["respond"]["status"] == 501


def test_a_certificate_resolver_is_acme_and_the_other_entry_point_redirects() -> None:
    result = router("Host(`a.example.org`)", "      tls: {certResolver: le}\n")
    assert section(result, "listeners") == {"websecure": {"address": "0.0.0.0:443", "tls": {"acme": {"domains": ["a.example.org"]}}},
                                            "web": {"address": "0.0.0.0:80", "https_redirect": True}}


def test_without_a_certificate_nothing_is_published() -> None:
    assert section(router("Host(`a.example.org`)", "      tls: {}\n"), "listeners") == {"web": {"address": "127.0.0.1:8080"}}


def test_entry_points_of_the_static_file() -> None:
    static = ("traefik.yml", "entryPoints:\n  web: {address: ':81', http: {redirections: {entryPoint: {to: s}}}}\n  s: {address: ':444', http: {tls: {}}}\n  odd: {address: x}\n")
    result = traefik("http:\n  routers: {r: {rule: 'Host(`a.example.org`)', service: app, tls: {certResolver: le}}}\n" + SERVICE, static)
    assert section(result, "listeners") == {"web": {"address": "0.0.0.0:81", "https_redirect": True}, "s": {"address": "0.0.0.0:444", "tls": {"acme": {"domains": ["a.example.org"]}}}}


def test_positions_in_toml() -> None:
    tree = toml_tree('a = 1\n[b.c]\nd = "x" # y\ne = [\n 1,\n true ]\n[[f]]\ng = {h = 1}\n[[f]]\n"i j" = 2\n', "x")

    def lines(node: Mapping) -> dict[str, int]:
        return {key.text: key.mark.line for key, _ in node.entries}

    assert lines(tree) == {"a": 1, "b": 2, "f": 7}
    found = tree.find("b")
    assert found is not None and isinstance(found[1], Mapping)
    inner = found[1].find("c")
    assert inner is not None and isinstance(inner[1], Mapping)
    assert lines(inner[1]) == {"d": 3, "e": 4}
    last = tree.find("f")
    assert last is not None and isinstance(last[1], Sequence)
    assert [lines(one) for one in last[1].items if isinstance(one, Mapping)] == [{"g": 8}, {"i j": 10}]
    items = inner[1].find("e")
    assert items is not None and isinstance(items[1], Sequence) and [one.text for one in items[1].items if isinstance(one, Scalar)] == ["1", "true"]
    with pytest.raises(Exception, match="x:2: TOML"):
        toml_tree("a = 1\nb = \n", "x")
