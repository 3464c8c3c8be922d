"""`relayd state`: what is held about consumers, and its deletion, through the real process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import answer, request
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream, saying

CHAT = b"/v1/chat/completions"
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}).encode()
REPLY = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
}).encode()
JSON = b"Content-Type: application/json"


@pytest.fixture
def relay(upstream: Upstream, tmp_path: Path) -> Iterator[Relay]:
    with serving(upstream, tmp_path, {"kind": "sqlite"}) as running:
        yield running


@contextlib.contextmanager
def serving(upstream: Upstream, tmp_path: Path, store: dict[str, Any]) -> Iterator[Relay]:
    upstream.script = saying(answer(REPLY, JSON))
    state, prices = tmp_path / "state", tmp_path / "prices.yaml"
    state.mkdir()
    prices.write_text('currency: USD\n"*": {request: 1}\n')
    for name in ("ann", "bob"):
        (tmp_path / name).write_text(f"key-of-{name}-0123456789")
        (tmp_path / name).chmod(0o600)
    change: dict[str, Any] = {
        "prices": str(prices), "store": store,
        "upstreams": {"up": {"protocol": "openai_chat", "endpoints": [upstream.url + "/v1"]}},
        "groups": {"g": {"rates": [{"requests": 100, "per": "1h", "each": "consumer"}, {"requests": 1000, "per": "1h"}]}},
        "consumers": {
            name: {"key": {"file": str(tmp_path / name)}, "group": "g", "budget": [{"amount": 3, "per": "total"}]} for name in ("ann", "bob")
        },
        "routes": [
            {"name": "data", "match": {"prefix": "/api/session"}, "upstream": "sessions", "allow": ["ann", "bob"]},
            {"name": "llm", "match": {"prefix": "/"}, "upstream": "up", "allow": ["ann", "bob"]},
        ],
    }
    with Relay(tmp_path / "relay", upstream.url, change, environment={"STATE_DIRECTORY": str(state)}) as running:
        yield running


def ask(relay: Relay, name: str, path: bytes = CHAT, method: bytes = b"POST") -> int:
    with relay.client() as client:
        return client.ask(request(path, JSON, f"Authorization: Bearer key-of-{name}-0123456789".encode(), method=method, body=BODY)).status


def run(relay: Relay, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", "state", *words, "--socket", relay.admin_path, "--timeout", "50s"], cwd=relay.folder,
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def command(relay: Relay, *words: str) -> str:
    done = run(relay, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(relay: Relay, *words: str) -> str:
    """The error of a command; empty if it succeeds."""
    done = run(relay, *words)
    return done.stderr if done.returncode == 1 else ""


def held(relay: Relay) -> dict[tuple[str, str], int]:
    return {(one["consumer"], one["kind"]): one["entries"] for one in json.loads(command(relay, "show", "--json"))}


def test_all_that_is_held_about_one_consumer_is_shown_and_deleted(relay: Relay) -> None:
    for name in ("ann", "bob"):
        assert ask(relay, name, b"/api/session", b"PUT") == 201
        assert [ask(relay, name) for _ in range(3)] == [200] * 3
        assert ask(relay, name) == 429, "the budget is used up"
    of_each = {"session": 1, "window": 2, "spend": 1}
    expected = {(name, kind): count for name in ("ann", "bob") for kind, count in of_each.items()}
    until(lambda: held(relay) == expected, what=str(expected))
    assert "bob" in command(relay, "show") and "ann" not in command(relay, "show", "--consumer", "bob")
    assert command(relay, "forget", "--consumer", "ann", "--dry-run") == (
        "would delete of ann: 1 session, 0 session_endpoint, 0 stored, 0 cached, 2 window, 1 spend\n"
    )
    assert held(relay) == expected
    assert command(relay, "forget", "--consumer", "ann").startswith("deleted of ann: 1 session,")
    rest = {key: count for key, count in expected.items() if key[0] == "bob"}
    until(lambda: held(relay) == rest, what=str(rest))
    files = ("--state", relay.environment["STATE_DIRECTORY"])
    assert "relayd runs" in refused(relay, "show", *files)
    assert relay.stop() == 0
    assert {(one["consumer"], one["kind"]): one["entries"] for one in json.loads(command(relay, "show", "--json", *files))} == rest
    said = command(relay, "forget", "--consumer", "bob", "--dry-run", *files)
    assert said == "would delete of bob: 1 session, 0 session_endpoint, 0 stored, 0 cached, 2 window, 1 spend\n"
    relay.start()
    assert held(relay) == rest
    assert (ask(relay, "ann"), ask(relay, "bob")) == (200, 429)
    assert b"state_forgotten" in relay.output()


def test_a_consumer_is_forgotten_while_relayd_does_not_run(relay: Relay) -> None:
    for name in ("ann", "bob"):
        assert ask(relay, name, b"/api/session", b"PUT") == 201
        assert [ask(relay, name) for _ in range(4)] == [200] * 3 + [429]
    expected = {(name, kind): count for name in ("ann", "bob") for kind, count in (("session", 1), ("window", 2), ("spend", 1))}
    until(lambda: held(relay) == expected, what=str(expected))
    assert relay.stop() == 0
    state = relay.environment["STATE_DIRECTORY"]
    said = command(relay, "forget", "--consumer", "ann", "--state", state)
    assert said == "deleted of ann: 1 session, 0 session_endpoint, 0 stored, 0 cached, 2 window, 1 spend\n"
    assert "no folder" in refused(relay, "show", "--state", f"{state}/none").replace("is not a folder", "no folder")
    relay.start()
    assert {name for name, _ in held(relay)} == {"bob"}
    assert (ask(relay, "ann"), ask(relay, "bob")) == (200, 429)


def test_what_is_not_there_and_wrong_usage(relay: Relay) -> None:
    assert command(relay, "show") == "nothing is held\n"
    assert command(relay, "forget", "--consumer", "@192.0.2.1").endswith("0 window, 0 spend\n")
    done = subprocess.run([sys.executable, "-m", "relayd", "state", "forget"], capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2


@needs_redis()
def test_what_is_held_in_redis_is_shown_and_deleted(upstream: Upstream, tmp_path: Path) -> None:
    with (
        Redis(tmp_path / "redis") as redis,
        serving(upstream, tmp_path, {"kind": "redis", "url": redis.url, "timeout": "5s"}) as relay,
    ):
        for name in ("ann", "bob"):
            assert ask(relay, name, b"/api/session", b"PUT") == 201
            assert [ask(relay, name) for _ in range(4)] == [200] * 3 + [429]
        of_each = {"session": 1, "window": 2, "spend": 1}
        expected = {(name, kind): count for name in ("ann", "bob") for kind, count in of_each.items()}
        until(lambda: held(relay) == expected, what=str(expected))
        assert command(relay, "forget", "--consumer", "ann") == (
            "deleted of ann: 1 session, 0 session_endpoint, 0 stored, 0 cached, 2 window, 1 spend\n"
        )
        rest = {key: count for key, count in expected.items() if key[0] == "bob"}
        until(lambda: held(relay) == rest, what=str(rest))
        assert (ask(relay, "ann"), ask(relay, "bob")) == (200, 429)
        redis.kill()
        until(lambda: "cannot be reached" in refused(relay, "forget", "--consumer", "bob"))
