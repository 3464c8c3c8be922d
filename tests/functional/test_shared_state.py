"""Two machines with one Redis: keys, breakers and concurrent requests are those of both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import endpoints, get, label, refused_url, run, until
from tests.functional.harness.message import Message, request
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream, hello

pytestmark = needs_redis()
MOST = 4


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def relays(redis: Redis, module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Relay]]:
    folder = tmp_path_factory.mktemp("machines")
    config: dict[str, Any] = {
        "store": {"kind": "redis", "url": redis.url, "timeout": "5s"},
        "upstreams": {
            "up": {"endpoints": [module_upstream.url]},
            "failing": {"endpoints": [refused_url()], "breaker": {"failures": 2, "open_for": "10m", "max_open_for": "10m"}},
            "narrow": {
                "endpoints": [module_upstream.url],
                "limits": {"requests": MOST, "queue": 100, "queue_timeout": "0", "shared": True},
            },
        },
        "groups": {"paying": {}},
        "routes": [
            {"name": "keyed", "match": {"prefix": "/keyed"}, "upstream": "up", "allow": ["paying"]},
            {"name": "failing", "match": {"prefix": "/failing"}, "upstream": "failing"},
            {"name": "narrow", "match": {"prefix": "/narrow"}, "upstream": "narrow"},
        ],
    }
    found = [
        Relay(folder / name, module_upstream.url, config, environment={"STATE_DIRECTORY": str(folder / f"{name}-state")})
        for name in ("one", "two")
    ]
    for relay in found:
        Path(relay.environment["STATE_DIRECTORY"]).mkdir()
    with found[0], found[1]:
        yield found


def keys(relay: Relay, *words: str) -> str:
    """`relayd keys` on the machine of this relay."""
    command = [sys.executable, "-m", "relayd", "keys", *words, "--state", relay.environment["STATE_DIRECTORY"], "-c", str(relay.file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def status(relay: Relay, key: str) -> int:
    return get(relay, b"/keyed", b"Authorization: Bearer " + key.encode()).status


def test_a_key_is_issued_on_one_machine_and_revoked_on_the_other(relays: list[Relay], redis: Redis, upstream: Upstream) -> None:
    key = keys(relays[0], "create", "alice", "--group", "paying")
    assert status(relays[0], key) == 200
    until(lambda: status(relays[1], key) == 200, what="the key on the other machine")
    keys(relays[1], "revoke", "alice")
    assert status(relays[1], key) == 401
    until(lambda: status(relays[0], key) == 401, what="the revocation on the other machine")
    held = b"".join(redis.ask("HVALS", "{relayd}:keys:records"))
    assert b"alice" in held and key.encode() not in held


def test_an_endpoint_that_fails_for_one_machine_is_not_tried_by_the_other(relays: list[Relay], upstream: Upstream) -> None:
    name = label(relays[0].config["upstreams"]["failing"]["endpoints"][0])
    for _ in range(2):
        assert get(relays[0], b"/failing").status == 502
    assert endpoints(relays[0], "failing")[name]["breaker"] == "open"
    until(lambda: endpoints(relays[1], "failing")[name]["breaker"] == "open", what="the opening on the other machine")
    assert get(relays[1], b"/failing").status == 503
    assert endpoints(relays[1], "failing")[name]["failures"] == 0, "it was not tried"
    assert relays[0].admin(f"/upstreams/failing/endpoints/{name}/breaker/reset", "POST")[0] == 200
    until(lambda: endpoints(relays[1], "failing")[name]["breaker"] == "closed", what="the closing on the other machine")


class Counted:
    """An endpoint that counts the requests which it has at a time. It answers when `end` is set."""

    def __init__(self) -> None:
        self.lock, self.end = threading.Lock(), threading.Event()
        self.now = self.most = 0

    def __call__(self, peer: Peer, message: Message) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.end.wait(60)
        with self.lock:
            self.now -= 1
        hello(peer, message)


def shares(relays: list[Relay]) -> list[int | None]:
    found = [one for relay in relays for one in json.loads(relay.admin("/queue")[1])["gates"] if one["name"] == "upstream narrow"]
    return [one["share"] for one in found]


def test_concurrent_requests_of_both_machines_do_not_exceed_a_shared_limit(relays: list[Relay], upstream: Upstream) -> None:
    upstream.script = counted = Counted()
    until(lambda: None not in shares(relays) and sum(one or 0 for one in shares(relays)) == MOST, what="the shares")
    clients = [Client(relays[0].address) for _ in range(6)]
    try:
        for client in clients:
            client.send(request(b"/narrow"))
        until(lambda: counted.now == MOST, what="all permits at one machine")
        clients += [Client(relays[1].address) for _ in range(6)]
        for client in clients[6:]:
            client.send(request(b"/narrow"))
        until(lambda: (shares(relays)[1] or 0) < MOST and len(json.loads(relays[1].admin("/queue")[1])["waiting"]) == 6)
        counted.end.set()
        for client in clients:
            assert client.answer().status == 200
        assert counted.most == MOST
        code, shown, _ = run(relays[0], "queue")
        assert code == 0 and re.search(r"upstream narrow .* of \d \(4 shared\)", shown)
    finally:
        counted.end.set()
        for client in clients:
            client.close()
