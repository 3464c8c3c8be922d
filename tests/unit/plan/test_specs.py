"""From the words of `upstreams:` to the spec of an upstream."""

from __future__ import annotations

import pytest

from relayd.config.upstream import Auth, Endpoint, HeaderKeys, QueryKeys, Upstream, UpstreamTimeouts
from relayd.plan.specs import auth_specs, endpoint_spec, upstream_spec
from relayd.schema import Duration, Secret

KEY = Secret("sk-1", "env KEY")


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
