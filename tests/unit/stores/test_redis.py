"""The options of the Redis store: URLs, TLS, Sentinels, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from relayd import registry
from relayd.schema import Secret
from relayd.stores import redis
from relayd.stores._redis_settings import RedisSentinels, RedisTls


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is not needed to read options."""
    monkeypatch.setattr(registry, "is_installed", lambda library: True)


def faults(**options: Any) -> dict[str, str]:
    return dict(redis.Options(**options).check())


@pytest.mark.parametrize(("url", "found"), [
    ("redis://127.0.0.1:6379/0", ((("127.0.0.1", 6379),), 0, False)),
    ("redis://cache", ((("cache", 6379),), 0, False)),
    ("rediss://[::1]:7000/3", ((("::1", 7000),), 3, True)),
    ("redis://a:1,b:2/1", ((("a", 1), ("b", 2)), 1, False)),
    ("unix:///run/redis.sock?db=4", (("/run/redis.sock",), 4, False)),
    ("unix:///run/redis.sock", (("/run/redis.sock",), 0, False)),
])
def test_urls(url: str, found: Any) -> None:
    assert redis.parse_url(url) == found and faults(url=url) == {}


@pytest.mark.parametrize("url", [
    "http://127.0.0.1", "redis://", "redis://a:0/0", "redis://a:99999", "redis://a/x", "redis://a/-1", "redis://a b", "unix://relative",
])
def test_other_urls_are_refused(url: str) -> None:
    assert list(faults(url=url)) == ["url"]


def test_a_password_in_the_url_is_refused_without_showing_it() -> None:
    (fault,) = faults(url="redis://user:hidden-word@127.0.0.1/0").values()
    assert "password: {file" in fault and "hidden" not in fault


def test_what_belongs_together() -> None:
    sentinel = redis.Sentinel(master="m", addresses=("a", "b:1"))
    assert faults(tls=redis.StoreTls()) == {"tls": "has a meaning only with a URL that begins with rediss://"}
    assert "cluster" in faults(cluster=True, sentinel=sentinel)
    assert "url" in faults(cluster=True, url="redis://a/2") and "username" in faults(username="x")
    assert dict(redis.StoreTls(cert="/c").check()) == {"key": "is missing: cert and key belong together"}
    assert [key for key, _ in redis.StoreTls(verify=False).caution()] == ["verify"] and not list(redis.StoreTls().caution())
    assert [key for key, _ in redis.Sentinel(master="m", addresses=("a:b",)).check()] == ["addresses[0]"]
    assert [key for key, _ in redis.Sentinel(master="m", addresses=()).check()] == ["addresses"]


def test_without_the_library_the_kind_cannot_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_installed", lambda library: False)
    assert "python3-redis" in faults()["kind"]


def test_the_settings_of_connections() -> None:
    password = Secret("hidden", "file x")
    options = redis.Options(
        url="rediss://a:1/2", username="u", password=password, tls=redis.StoreTls(ca="/ca", verify=False), prefix="p",
        sentinel=redis.Sentinel(master="m", addresses=("s", "t:2"), password=password),
    )
    found = options.settings
    assert found.addresses == (("a", 1),) and found.database == 2 and found.prefix == "p" and found.timeout_s == 0.25
    assert found.tls == RedisTls(ca="/ca", verify=False) and found.label == "sentinel m"
    assert found.sentinel == RedisSentinels("m", (("s", 26379), ("t", 2)), "", password) and "hidden" not in repr(found)
