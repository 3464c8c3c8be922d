"""Nothing that relayd writes holds a secret: every kind of secret of a configuration, and everything that is written."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import metric, until
from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream, saying

SECRETS = {
    name: f"{name}-5ecret-{number}a7Q9z" for number, name in enumerate((
        "stored", "spare", "header", "client", "password", "signing", "hookpath", "hookbearer", "wrong", "query",
    ))
}
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}).encode()
REPLY = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
}).encode()
ECHO = json.dumps({"error": {"message": f"wrong key {SECRETS['stored']} or {SECRETS['spare']}", "code": SECRETS["header"]}}).encode()
PAGES = (
    "/health", "/live", "/ready", "/status", "/upstreams", "/queue", "/limits", "/streams", "/keys", "/metrics",
    "/api/health", "/health/backends", "/diff",
)  # fmt: skip
COMMANDS = (
    ("check",), ("explain", "POST", "http://h.test/v1/chat/completions", "-H", f"Authorization: Bearer {SECRETS['client']}"),
    ("diff",), ("status", "--json"), ("limits",), ("upstreams", "--json"), ("prices", "list"), ("spend",), ("doctor", "--json"),
)  # fmt: skip


def reference(folder: Path, name: str, text: str = "") -> dict[str, str]:
    path = folder / f"of-{name}"
    path.write_text(text or SECRETS[name])
    path.chmod(0o600)
    return {"file": str(path)}


@pytest.fixture
def hook() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def relay(upstream: Upstream, hook: Upstream, tmp_path: Path) -> Iterator[Relay]:
    keys, state = tmp_path / "keys", tmp_path / "state"
    keys.mkdir()
    state.mkdir()
    prices = tmp_path / "prices.yaml"
    prices.write_text('currency: USD\n"*": {request: 1}\n')
    route = {"protocol": "openai_chat", "allow": ["team", "user", "ci"]}
    change: dict[str, Any] = {
        "prices": str(prices),
        "upstreams": {
            "up": {"protocol": "openai_chat", "endpoints": [upstream.url + "/v1"], "auth": {"bearer": [reference(keys, "stored"), reference(keys, "spare")]}},
            "other": {"protocol": "openai_chat", "endpoints": [upstream.url + "/v1"], "auth": {"header": {"name": "X-Up", "value": reference(keys, "header")}}},
        },
        "consumers": {
            "team": {"key": reference(keys, "client"), "budget": [{"amount": 4, "per": "total", "warn": [0.5]}]},
            "user": {"basic": {"user": "u", "password": reference(keys, "password")}},
            "ci": {"jwt": {"issuer": "i", "secret": reference(keys, "signing", SECRETS["signing"] * 2), "algorithms": ["HS256"]}},
        },
        "routes": [
            {"name": "other", "match": {"prefix": "/other/"}, "strip_prefix": "/other", "upstream": "other", **route},
            {"name": "llm", "match": {"prefix": "/"}, "upstream": "up", **route},
        ],
        "telemetry": {
            "access_log": {"format": "json", "query": True}, "log": {"level": "debug", "format": "json"},
            "budget_webhook": {
                "secret_url": reference(keys, "hookurl", f"{hook.url}/{SECRETS['hookpath']}?s={SECRETS['hookpath']}"),
                "bearer": reference(keys, "hookbearer"),
            },
        },
    }
    with Relay(tmp_path / "relay", upstream.url, change, environment={"STATE_DIRECTORY": str(state)}) as running:
        yield running


def ask(relay: Relay, key: str, path: bytes = b"/v1/chat/completions") -> tuple[int, bytes]:
    with relay.client() as client:
        fields = (b"Content-Type: application/json", f"Authorization: {key}".encode())
        found = client.ask(request(path, *fields, method=b"POST", body=BODY))
    return found.status, found.body + b"".join(name + value for name, value in found.fields)


def test_everything_that_is_written_holds_no_secret(relay: Relay, upstream: Upstream, hook: Upstream, tmp_path: Path) -> None:
    pytest.importorskip("jwt", reason="needs python3-jwt")
    got = list[bytes]()
    upstream.script = saying(answer(REPLY, b"Content-Type: application/json"))
    hook.script = saying(answer(SECRETS["hookpath"].encode(), status=b"403 No"))
    basic = base64.b64encode(f"u:{SECRETS['password']}".encode()).decode()
    for key in (f"Bearer {SECRETS['client']}", f"Bearer {SECRETS['client']}", f"Basic {basic}"):
        status, shown = ask(relay, key)
        assert status == 200
        got.append(shown)
    upstream.script = saying(answer(ECHO, b"Content-Type: application/json", b"X-Key: " + SECRETS["stored"].encode(), status=b"401 No"))
    for path in (b"/v1/chat/completions", b"/other/v1/chat/completions", b"/v1/models?key=" + SECRETS["query"].encode()):
        for key in (f"Bearer {SECRETS['client']}", f"Bearer {SECRETS['wrong']}", f"Basic {basic}x"):
            got.append(ask(relay, key, path)[1])
    until(lambda: metric(relay, 'relayd_limits_webhooks_total{result="failed"}') == 1)
    assert SECRETS["hookpath"].encode() in hook.heads[0].target
    assert relay.admin("/reload", "POST")[0] == 200
    got += [relay.admin(page)[1] for page in PAGES]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "STATE_DIRECTORY": str(tmp_path / "state")}
    for words in COMMANDS:
        done = subprocess.run([sys.executable, "-m", "relayd", words[0], *([] if words[0] == "spend" else ["-c", str(relay.file)]), *words[1:]], capture_output=True, timeout=60, env=environment)
        assert done.returncode != 2, done.stderr
        got.append(done.stdout + done.stderr)
    pid = relay.pid
    relay.stop()
    got += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "keys"]
    forms = [form for secret in SECRETS.values() for form in (secret, base64.b64encode(secret.encode()).decode()[:-4])]
    written = b"\n".join(got)
    assert [form for form in (*forms, basic[8:]) if form.encode() in written] == []
    assert pid and len(written) > 10_000
