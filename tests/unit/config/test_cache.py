"""`cache:` of routes."""

from __future__ import annotations

import pytest

from relayd.config.load import load_text
from relayd.config.route import Route
from relayd.errors import ConfigError

BASE = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  provider: {protocol: openai_chat, endpoints: ["https://provider.example/v1"]}
  web: {endpoints: ["http://origin.example:9001"]}
  google: {protocol: gemini, endpoints: ["https://google.example/v1beta"]}
"""
ROUTE = "routes: [{name: llm, match: {prefix: /v1/}, protocol: openai_chat, upstream: provider, cache: %s}]\n"


def route_of(cache: str) -> Route:
    return load_text(BASE + ROUTE % cache, "relayd.yaml").config.routes[0]


def test_the_issues_configuration_is_accepted() -> None:
    cache = route_of("{ttl: 1h, size: 64MiB, shared: false}").cache
    assert cache is not None and (float(cache.ttl), int(cache.size), cache.shared) == (3600, 64 << 20, False)
    assert cache == route_of("{}").cache and cache.when == "deterministic"


def test_a_route_has_no_cache_by_default() -> None:
    assert load_text(BASE + "routes: [{name: llm, upstream: provider}]\n", "relayd.yaml").config.routes[0].cache is None


def test_the_largest_answer_is_a_quarter_of_a_small_cache() -> None:
    for cache, largest in (("{}", 1 << 20), ("{size: 1MiB}", 256 << 10), ("{answer_size: 4MiB}", 4 << 20)):
        found = route_of(cache).cache
        assert found is not None and found.largest == largest


@pytest.mark.parametrize(("cache", "fault"), [
    ("{ttl: 0}", "ttl"), ("{size: 1KiB}", "size"), ("{size: 1MiB, answer_size: 1MiB}", "a quarter of size"), ("{when: sometimes}", "when"),
    ("{vary: ['X Y']}", "vary"), ("{vary: [Authorization]}", "is a key of the client"), ("{vary: [Cookie]}", "is a key of the client"), ("yes", "cache"),
])  # fmt: skip
def test_wrong_values_are_named(cache: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        route_of(cache)


@pytest.mark.parametrize(("route", "fault"), [
    ("{name: a, upstream: web, cache: {}}", "not available for protocol plain"), ("{name: a, upstream: google, cache: {}}", "not available for protocol gemini"),
    ("{name: a, upstream: provider, protocol: simple_chat, cache: {}}", "openai_chat, openai_responses"), ("{name: a, respond: 200, cache: {}}", "only with an upstream"),
    ("{name: a, upstream: provider, pass_client_key: true, cache: {}}", "cannot be combined with pass_client_key"),
])  # fmt: skip
def test_routes_that_cannot_have_one(route: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_text(BASE + f"routes: [{route}]\n", "relayd.yaml")
