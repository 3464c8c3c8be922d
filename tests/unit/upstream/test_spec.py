"""What an upstream is told: plain values that compare by what they say."""

from __future__ import annotations

import dataclasses

import pytest

from relayd.schema import Secret
from relayd.upstream.spec import AuthSpec, EndpointSpec, UpstreamSpec


@pytest.mark.parametrize(("origin", "tls", "authority"), [
    ("http://127.0.0.1:9001", False, "127.0.0.1:9001"), ("https://api.test", True, "api.test"),
    ("https://[::1]:8443", True, "[::1]:8443"), ("http://localhost", False, "localhost"),
])
def test_an_endpoint_knows_its_scheme_and_host(origin: str, tls: bool, authority: str) -> None:
    endpoint = EndpointSpec(origin, "", "label")
    assert endpoint.tls == tls and endpoint.authority == authority


def test_equal_specs_share_one_live_upstream() -> None:
    one, two = (
        UpstreamSpec("up", (EndpointSpec("http://a", "/v1", "a"),), auth=AuthSpec("bearer", "Authorization", Secret("k", "env K")))
        for _ in range(2)
    )
    assert one == two and hash(one) == hash(two)
    assert one != dataclasses.replace(two, auth=AuthSpec("bearer", "Authorization", Secret("other", "env K")))


def test_a_spec_never_shows_its_key() -> None:
    spec = UpstreamSpec("up", (), auth=AuthSpec("bearer", "Authorization", Secret("very-secret", "env K")))
    assert "very-secret" not in repr(spec)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EndpointSpec("http://a", "", "a").origin = "http://b"  # type: ignore[misc]


@pytest.mark.parametrize(("origin", "address"), [
    ("http://a", ("a", 80)), ("https://a", ("a", 443)), ("http://a:81", ("a", 81)), ("http://[::1]", ("::1", 80)),
    ("https://[::1]:8443", ("::1", 8443)),
])
def test_an_endpoint_knows_where_to_connect_to(origin: str, address: tuple[str, int]) -> None:
    assert EndpointSpec(origin, "", "label").address == address


def test_all_keys_begin_with_the_first() -> None:
    first, second = (AuthSpec("bearer", "Authorization", Secret(name, "env K")) for name in "ab")
    assert UpstreamSpec("up", ()).keys == ()
    assert UpstreamSpec("up", (), auth=first, spare_keys=(second,)).keys == (first, second)
