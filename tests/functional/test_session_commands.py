"""`relayd sessions` over the real process, and the import from a real Redis of another program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, request
from tests.functional.harness.redis import Redis, needs_redis
from tests.functional.harness.relay import ROOT, Relay

KEY, PATH = b"team-0123456789abcdef", b"/api/session"


@pytest.fixture
def relay(folder: Path) -> Iterator[Relay]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "team"
    file.write_bytes(KEY)
    file.chmod(0o600)
    change = {
        "consumers": {"team": {"key": {"file": str(file)}}},
        "store": {"kind": "sqlite", "path": str(folder / "store.sqlite")},
        "routes": [
            {"name": "data", "match": {"path": PATH.decode()}, "upstream": "sessions", "allow": ["team"]},
            {"name": "metrics", "match": {"path": "/metrics"}, "upstream": "admin"},
        ],
        "telemetry": {"prometheus": {}},
    }
    with Relay(folder, "http://127.0.0.1:1", change) as made:
        yield made


def ask(relay: Relay, method: bytes = b"GET", session: bytes = b"", body: bytes = b"") -> Message:
    fields = [b"Authorization: Bearer " + KEY, *([b"X-Session-ID: " + session] if session else [])]
    with Client(relay.address) as client:
        client.send(request(PATH, *fields, method=method, body=body))
        return client.answer()


def sessions(relay: Relay, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relayd", "sessions", *words, "-c", str(relay.file), "--timeout", "60s"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)


def test_an_operator_lists_shows_and_deletes(relay: Relay) -> None:
    ids = [ask(relay, b"PUT", body=b'{"n":%d}' % number).get("x-session-id") or b"" for number in range(3)]
    listed = json.loads(sessions(relay, "list", "--json").stdout)["sessions"]
    assert len(listed) == 3 and {one["consumer"] for one in listed} == {"team"}
    shown = sessions(relay, "show", ids[1].decode(), "--json")
    page: dict[str, Any] = json.loads(shown.stdout)
    assert page["document"] == {"n": 1} and page["id"] in {one["id"] for one in listed}
    assert not any(one.decode() in shown.stdout + json.dumps(listed) for one in ids)
    assert sessions(relay, "forget", page["id"][:8]).stdout == "1 deleted\n"
    assert [ask(relay, session=one).status for one in ids] == [200, 404, 200]
    assert sessions(relay, "forget", page["id"]).returncode == 1
    assert sessions(relay, "forget", "--all").stdout == "2 deleted\n" and ask(relay, session=ids[0]).status == 404


@needs_redis()
def test_the_sessions_of_the_old_program_go_on(relay: Relay, folder: Path) -> None:
    with Redis(folder / "redis") as old:
        old.ask("SET", "session:visitor-1", '{"cart":[1]}', "EX", 7200)
        old.ask("SET", "session:no-json", "pickle")
        old.ask("HSET", "session:hash", "a", "1")
        old.ask("SET", "session:large", json.dumps("x" * 70_000))
        old.ask("SET", "unrelated", "{}")
        words = ["import", "--redis", old.url, "--pattern", "session:*", "--consumer", "team"]
        assert sessions(relay, *words, "--dry-run").stdout.endswith("1 sessions would be imported, 3 skipped\n")
        assert ask(relay, session=b"visitor-1").status == 404
        done = sessions(relay, *words)
        assert done.returncode == 0 and done.stdout.endswith("1 sessions imported, 3 skipped\n")
        for reason in ("not JSON", "its type is hash", "too large"):
            assert reason in done.stdout
        found = ask(relay, session=b"visitor-1")
        assert found.status == 200 and json.loads(found.body) == {"cart": [1]}
        ask(relay, b"PATCH", b"visitor-1", b'{"new":true}')
        assert sessions(relay, *words).stdout.endswith("0 sessions imported, 4 skipped\n")  # what lives here is kept
        assert json.loads(ask(relay, session=b"visitor-1").body) == {"cart": [1], "new": True}
        assert len(old.keys()) == 5
    refused = sessions(relay, *words)
    assert refused.returncode == 1 and "Redis" in refused.stderr
