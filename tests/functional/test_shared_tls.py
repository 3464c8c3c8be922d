"""Two machines whose Redis speaks TLS only and knows one user, who may do what the manual says and no more: rates, sessions,
keys and `relayd state` work; a user who may do less, and a wrong password, are named with their cure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.aids.certificates import made
from tests.functional.harness.faults import until
from tests.functional.harness.message import answer, request
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying
from tests.functional.test_shared_state import keys
from tests.functional.test_state import BODY, CHAT, JSON, REPLY, command, held

pytestmark = needs_redis()
USER, PASSWORD = "gateway", "redis-pa55-of-the-test"
RIGHTS = ("+@all", "~{relayd}*", "~relayd:*")  # as in relayd.yaml(5)


def secret(folder: Path, name: str, text: str) -> dict[str, str]:
    (file := folder / name).write_text(text)
    file.chmod(0o600)
    return {"file": str(file)}


@contextlib.contextmanager
def secured(folder: Path, *rights: str) -> Iterator[tuple[Redis, dict[str, Any]]]:
    """A Redis with TLS and one user, and the store of relayd for it."""
    authority = made(folder, "authority", authority=True)
    pair = made(folder, "server", "localhost", "127.0.0.1", issuer=authority)
    with Redis(folder / "redis", tls=(pair.cert, pair.key, authority.cert)) as redis:
        redis.ask("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *rights)
        redis.ask("ACL", "SETUSER", "default", "off")
        assert redis.url.startswith("rediss://")
        yield redis, {
            "kind": "redis", "url": redis.url, "timeout": "5s", "username": USER,
            "password": secret(folder, "password", PASSWORD), "tls": {"ca": authority.cert},
        }


def machine(folder: Path, name: str, url: str, store: dict[str, Any]) -> Relay:
    state = folder / f"{name}-state"
    state.mkdir()
    change: dict[str, Any] = {
        "store": store,
        "upstreams": {"up": {"protocol": "openai_chat", "endpoints": [f"{url}/v1"]}},
        "groups": {"g": {"rates": [{"requests": 3, "per": "1h", "each": "consumer"}]}, "paying": {}},
        "consumers": {"ann": {"key": secret(folder, "ann", "key-of-ann-0123456789"), "group": "g"}},
        "routes": [
            {"name": "data", "match": {"prefix": "/api/session"}, "upstream": "sessions", "allow": ["ann"]},
            {"name": "keyed", "match": {"prefix": "/keyed/"}, "respond": {"body": "in"}, "allow": ["paying"]},
            {"name": "llm", "match": {"prefix": "/"}, "upstream": "up", "allow": ["ann"]},
        ],
    }
    return Relay(folder / name, url, change, environment={"STATE_DIRECTORY": str(state)})


def ask(relay: Relay, path: bytes = CHAT, method: bytes = b"POST", *fields: bytes, key: str = "key-of-ann-0123456789") -> Any:
    with relay.client() as client:
        return client.ask(request(path, JSON, f"Authorization: Bearer {key}".encode(), *fields, method=method, body=BODY))


def store_status(relay: Relay) -> dict[str, Any]:
    found: dict[str, Any] = relay.status()["store"]
    return found


def is_connected(relay: Relay) -> bool:
    return not store_status(relay)["degraded"] and b"limits_shared" in relay.output()


def test_everything_is_shared_over_tls_with_the_rights_that_the_manual_names(upstream: Upstream, tmp_path: Path) -> None:
    upstream.script = saying(answer(REPLY, JSON))
    with secured(tmp_path, *RIGHTS) as (redis, store):
        one, two = (machine(tmp_path, name, upstream.url, store) for name in ("one", "two"))
        with one, two:
            for relay in (one, two):
                until(partial(is_connected, relay))
            created = ask(one, b"/api/session", b"PUT")
            session = created.get("x-session-id")
            assert created.status == 201 and session is not None
            until(lambda: ask(two, b"/api/session", b"GET", b"X-Session-ID: " + session).status == 200)
            assert [ask(relay).status for relay in (one, two, one)] == [200] * 3
            assert [ask(relay).status for relay in (one, two)] == [429] * 2, "counted together"
            assert held(two)["ann", "window"] == 1 and held(two)["ann", "session"] == 1
            assert "1 session" in (said := command(two, "forget", "--consumer", "ann")) and "1 window" in said
            assert ask(one).status == 200
            until(lambda: ask(one, b"/api/session", b"GET", b"X-Session-ID: " + session).status == 404)
            key = keys(one, "create", "alice", "--group", "paying")
            until(lambda: ask(two, b"/keyed/x", key=key).status == 200)
            keys(two, "revoke", "alice")
            until(lambda: ask(one, b"/keyed/x", key=key).status == 401)
            names = redis.ask("KEYS", "*", user=(USER, PASSWORD))
            assert names and all(name.startswith((b"{relayd}", b"relayd:")) for name in names)
            for relay in (one, two):
                assert PASSWORD not in relay.output().decode() + json.dumps(relay.status())


@pytest.mark.parametrize(("rights", "cause", "words"), [
    (("+@all", "~relayd:*"), "permission", b"+@all ~{PREFIX}* ~PREFIX:*"),
    (("+@all", "-@scripting", "~{relayd}*", "~relayd:*"), "permission", b"ACL"),
])
def test_a_user_who_may_do_less_is_named_with_the_rights_that_are_missing(
    upstream: Upstream, tmp_path: Path, rights: tuple[str, ...], cause: str, words: bytes
) -> None:
    upstream.script = saying(answer(REPLY, JSON))
    with secured(tmp_path, *rights) as (_, store), machine(tmp_path, "one", upstream.url, store) as relay:
        assert ask(relay).status == 200, "counted locally"
        until(lambda: store_status(relay)["degraded"] and store_status(relay)["cause"] == cause)
        until(lambda: words in relay.output())


@pytest.mark.parametrize(("change", "cause"), [
    ({"password": "wrong"}, "auth"), ({"username": "nobody"}, "auth"), ({"tls": {}}, "connect"), ({"url": "redis"}, "connect"),
])
def test_a_wrong_password_user_or_authority_is_named_and_requests_are_served(
    upstream: Upstream, tmp_path: Path, change: dict[str, Any], cause: str
) -> None:
    upstream.script = saying(answer(REPLY, JSON))
    with secured(tmp_path, *RIGHTS) as (_, store):
        if "password" in change:
            store["password"] = secret(tmp_path, "wrong", "another-pa55")
        elif "url" in change:
            store["url"] = store["url"].replace("rediss", "redis")
            del store["tls"]
        else:
            store |= change
        with machine(tmp_path, "one", upstream.url, store) as relay:
            assert ask(relay).status == 200, "counted locally"
            until(lambda: store_status(relay)["degraded"] and store_status(relay)["cause"] == cause)
            assert PASSWORD not in relay.output().decode()
