"""From the words of `upstreams:` to the spec of an upstream."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from relayd.config.limits import Limits
from relayd.config.resilience import Breaker, Health, Retries, RetryBudget
from relayd.config.upstream import Auth, Endpoint, HeaderKeys, QueryKeys, Upstream, UpstreamTimeouts
from relayd.plan.specs import auth_specs, endpoint_spec, stamps_of, upstream_spec
from relayd.schema import Duration, Secret
from relayd.upstream.balancers import consistent_hash
from relayd.upstream.spec import BalanceSpec, BreakerSpec, HealthSpec, RetrySpec, UpstreamSpec

KEY = Secret("sk-1", "env KEY")

HASH = consistent_hash.Options(by=("client",), bound=2.0, prompt_bytes=100)


@pytest.mark.parametrize(("url", "origin", "base", "label", "unix"), [
    ("https://llm.chutes.ai/v1", "https://llm.chutes.ai", "/v1", "llm.chutes.ai:443", None),
    ("https://Llm.Chutes.ai:443/v1/", "https://llm.chutes.ai", "/v1", "llm.chutes.ai:443", None),
    ("http://127.0.0.1:9001", "http://127.0.0.1:9001", "", "127.0.0.1:9001", None),
    ("http://[::1]:9001/a/b", "http://[::1]:9001", "/a/b", "[::1]:9001", None),
    ("http://host/", "http://host", "", "host:80", None),
    ("unix:/run/x.sock", "http://localhost", "", "unix:/run/x.sock", "/run/x.sock"),
    ("unix:/run/x.sock:/api", "http://localhost", "/api", "unix:/run/x.sock", "/run/x.sock"),
])
def test_an_endpoint_is_read(url: str, origin: str, base: str, label: str, unix: str | None) -> None:
    spec = endpoint_spec(url)
    assert (spec.origin, spec.base_path, spec.label, spec.unix) == (origin, base, label, unix)


@pytest.mark.parametrize("url", [
    "ftp://a", "http://", "http://user:sesame@a", "http://a?key=sesame", "http://a#sesame", "http://a:99999",
    "unix:sesame", "unix:/a:sesame", "http://a b", "sesame",
])
def test_an_endpoint_that_cannot_be_used_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        endpoint_spec(url)
    assert "sesame" not in str(caught.value)


def test_every_word_of_an_upstream_reaches_the_spec() -> None:
    spec = upstream_spec("u", Upstream(
        protocol="openai_chat", endpoints=(Endpoint(url="http://a"), Endpoint(url="http://b")), auth=Auth(bearer=(KEY,)),
        http="2", host="client", timeouts=UpstreamTimeouts(connect=Duration(1), idle=Duration(0)),
    ))
    assert [one.label for one in spec.endpoints] == ["a:80", "b:80"]
    assert (spec.protocol, spec.http2, spec.client_host) == ("openai_chat", True, True)
    assert (spec.timeouts.connect_s, spec.timeouts.idle_s, spec.timeouts.first_byte_s) == (1.0, 0.0, 300.0)
    assert spec.auth is not None and spec.auth.kind == "bearer"


def test_equal_words_give_equal_specs_and_another_key_another_one() -> None:
    def made(key: str) -> object:
        return upstream_spec("u", Upstream(
            endpoints=(Endpoint(url="http://a"),), auth=Auth(bearer=(Secret(key, "env KEY"),)),
        ))

    assert made("a") == made("a")
    assert made("a") != made("b")


def test_an_upstream_without_endpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoints"):
        upstream_spec("u", Upstream(endpoints=()))


def test_a_key_goes_where_the_configuration_says() -> None:
    assert auth_specs(Auth(header=HeaderKeys(name="x-api-key", value=(KEY,))))[0].name == "x-api-key"
    assert auth_specs(Auth(query=QueryKeys(name="key", value=(KEY,))))[0].kind == "query"
    with pytest.raises(ValueError, match="auth"):
        auth_specs(Auth())


def spec(**words: Any) -> UpstreamSpec:
    return upstream_spec("u", Upstream(endpoints=(Endpoint(url="http://a"), Endpoint(url="http://b")), **words))


def test_without_a_breaker_failing_endpoints_are_passed_over_and_nobody_is_refused() -> None:
    assert spec().breaker == BreakerSpec(refuses=False)
    assert spec(breaker=Breaker(enabled=False)).breaker is None


def test_every_word_of_a_breaker_reaches_the_spec() -> None:
    made = spec(breaker=Breaker(
        failures=3, rate=0.5, window=Duration(60), minimum=7, open_for=Duration(600), probes=2, successes=4,
        rest=Duration(1), max_rest=Duration(2),
    )).breaker
    assert made == BreakerSpec(
        failures=3, rate=0.5, window_s=60.0, minimum=7, open_s=600.0, max_open_s=600.0, probes=2, successes=4,
        cooldown_s=1.0, max_cooldown_s=2.0, refuses=True,
    )


def test_every_word_of_retries_and_health_reaches_the_spec() -> None:
    retries = Retries(
        attempts=4, backoff=Duration(1), max_backoff=Duration(5), on=("connect", "502"), per_attempt=Duration(9),
        budget=RetryBudget(share=0.1, minimum=2, window=Duration(20)), idempotent=True,
    )
    health = Health(
        kind="http", path="/h", status=("2xx", "401"), body="ok", interval=Duration(5), timeout=Duration(1), healthy=1,
        unhealthy=9, auth=True,
    )
    made = spec(retries=retries, health=health)
    assert made.retries == RetrySpec(4, 1.0, 5.0, frozenset(("connect", "502")), 9.0, 0.1, 2, 20.0, True)
    assert made.health == HealthSpec("http", "/h", ((200, 299), (401, 401)), b"ok", 5.0, 1.0, 1, 9, True)
    assert spec().retries is None and spec().health is None


def test_a_balance_brings_its_own_options_and_no_others() -> None:
    made = spec(balance="consistent_hash", hash=HASH, slow_start=Duration(3))
    assert made.balance == BalanceSpec("consistent_hash", HASH, 3.0)
    assert spec(hash=HASH) == spec(), "what is not in force makes no other upstream"


def test_endpoints_bring_weight_priority_and_limit() -> None:
    endpoints = (
        Endpoint(url="http://a", weight=3, priority=1, limits=Limits(requests=4)), Endpoint(url="http://b"),
        Endpoint(url="http://c"),
    )
    made = upstream_spec("u", Upstream(endpoints=endpoints)).endpoints
    assert [(one.weight, one.priority, one.limit) for one in made] == [(3, 1, 4), (1, 0, 0), (1, 0, 0)]
    made = upstream_spec("u", Upstream(endpoints=endpoints, balance="priority")).endpoints
    assert [one.priority for one in made] == [1, 1, 2]


def test_several_keys_are_one_and_its_spares() -> None:
    keys = tuple(Secret(f"sk-{name}", f"env {name}") for name in "abc")
    made = spec(auth=Auth(header=HeaderKeys(name="x-api-key", value=keys)))
    assert [(one.kind, one.name, one.value) for one in made.keys] == [("header", "x-api-key", key) for key in keys]
    assert made.auth == made.keys[0] and len(made.spare_keys) == 2


def test_a_certificate_renewed_under_its_name_makes_another_spec(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("one")
    first = stamps_of(str(file), None)
    assert first and first == stamps_of(str(file), None)
    file.write_text("another")
    assert stamps_of(str(file), None) != first
    assert stamps_of(str(tmp_path / "gone")) == ()
