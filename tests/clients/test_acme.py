"""openai over a certificate that relayd has obtained from a real ACME directory."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.aids.pebble import Pebble, needs_pebble
from tests.functional.test_acme import is_obtained, relay, until

pytestmark = [pytest.mark.client, needs_pebble()]
NAME = "sdk.example.org"


def test_openai_trusts_the_certificate_and_gets_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("acme", reason="needs python3-acme")
    openai = pytest.importorskip("openai", reason="no openai: tests/clients/install.sh installs it")
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == NAME else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    demo = {"routes": [{"name": "demo", "match": {"prefix": "/v1/"}, "upstream": "demo"}]}
    with Pebble(tmp_path / "pebble") as pebble, relay(tmp_path / "relayd", pebble, pebble.section(NAME), **demo) as one:
        until(lambda: is_obtained(one, NAME))
        http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(pebble.roots())))
        with openai.OpenAI(base_url=f"https://{NAME}:{pebble.tls_port}/v1", api_key="k", max_retries=0, timeout=60, http_client=http) as client:
            model = client.models.list().data[0].id
            asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            whole = client.chat.completions.create(**asked).choices[0].message.content
            pieces = [part.choices[0].delta.content or "" for part in client.chat.completions.create(**asked, stream=True) if part.choices]
            assert whole and "".join(pieces) == whole and len(pieces) > 2
