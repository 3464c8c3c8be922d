"""The API documents against a real relayd: a public validator, schemathesis on the admin application, and Chromium."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.clients.dashboard import KEY
from tests.functional.harness.client import Client
from tests.functional.harness.message import request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream

validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
CASES = 6  # of each operation
EXCLUDED = ("/events", "/records", "/captures/start", "/upgrade")  # streams do not end; an upgrade needs a keeper


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "ops").write_text(KEY)
    change = {
        "upstreams": {"provider": {"protocol": "openai_chat", "endpoints": [f"http://127.0.0.1:{free_port()}/v1"]}},
        "consumers": {"ops": {"key": {"file": str(folder / "ops")}}},
        "routes": [
            {"name": "admin", "match": {"prefix": "/admin/"}, "upstream": "admin", "admin_prefix": "/admin", "admin_write": True, "allow": ["ops"]},
            {"name": "docs", "match": {"regex": "/openapi.json|/api/(docs|redoc)"}, "upstream": "admin"},
            {"name": "chat", "match": {"prefix": "/v1/chat/"}, "protocol": "openai_chat", "upstream": "provider", "allow": ["ops"]},
            {"name": "responses", "match": {"path": "/v1/responses"}, "protocol": "openai_responses", "upstream": "provider"},
            {"name": "messages", "match": {"regex": "/v1/messages"}, "protocol": "anthropic_messages", "upstream": "provider"},
            {"name": "all", "match": {"prefix": "/"}, "protocol": "openai_chat", "upstream": "provider"},
        ],
    }
    with Upstream() as upstream, Relay(folder, upstream.url, change) as running:
        yield running


def test_the_document_is_valid_and_names_the_fronts(relay: Relay) -> None:
    with relay.client() as client:
        message = client.ask(request(b"/openapi.json"))
    data: dict[str, Any] = json.loads(message.body)
    validator.validate(data)
    fronts = {path for path, item in data["paths"].items() if "servers" in item}
    assert fronts == {"/v1/chat/completions", "/v1/responses", "/v1/messages"}
    assert data["paths"]["/v1/chat/completions"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "max_completion_tokens" in data["components"]["schemas"]["openai_chat"]["properties"]


def test_schemathesis_finds_no_fault_of_the_admin_application(relay: Relay) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    address = f"http://127.0.0.1:{relay.port}/admin"
    endpoint = relay.status()["upstreams"][0]["endpoints"][0]["endpoint"]
    (relay.folder / "schemathesis.toml").write_text(
        f'[parameters]\n"path.upstream" = "up"\n"path.endpoint" = {json.dumps(endpoint)}\n'
    )
    excluded = [word for path in EXCLUDED for word in ("--exclude-path", path)]
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json", "--url", address,
            "--header", f"Authorization: Bearer {KEY}", "--exclude-tag", "fronts", *excluded, "--max-examples", str(CASES),
            "--phases", "coverage,fuzzing", "--no-color", "--generation-deterministic",
        ],
        capture_output=True, text=True, timeout=300, cwd=relay.folder, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_pages_are_readable_without_scripts(relay: Relay) -> None:
    for path, has_form in ((b"/api/docs", True), (b"/api/redoc", False)):
        with Client(relay.address) as client:
            message = client.ask(request(path))
        assert message.status == 200 and b"/upstreams/{upstream}/endpoints/{endpoint}/drain" in message.body
        assert b"max_completion_tokens" in message.body and (b"<form" in message.body) is has_form
        policy = message.get("content-security-policy") or b""
        assert b"default-src 'none'" in policy and b"unsafe" not in policy
