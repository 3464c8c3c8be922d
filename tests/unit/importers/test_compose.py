"""Docker Compose and .env: which variable becomes which key, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.importers import Conversion, converted


def compose(*files: tuple[str, str]) -> Conversion:
    return converted("compose", files, named=lambda pattern, beside: [], read=lambda path: "")


def env(text: str) -> Conversion:
    return compose((".env", text))


def section(result: Conversion, name: str) -> dict[str, Any]:
    return {key: one.value for key, one in result.draft.document("/k")[name].items()}


def reasons(result: Conversion, line: int) -> tuple[str, str]:
    found = next(one for one in result.entries if one.line == line)
    return str(found.fidelity), "; ".join(found.reasons)


def test_the_variables_of_the_responses_proxy() -> None:
    result = env("BACKEND_URL=https://llm.example.org/v1/chat/completions\nBACKEND_TIMEOUT_SECS=90\nHOST_PORT=8383\nRUST_LOG=debug\nCADDY_DOMAIN=localhost\nCADDY_PORT=8180\nCADDY_TLS=false\n")
    assert section(result, "listeners") == {"inner": {"address": "127.0.0.1:8383"}, "public": {"address": "127.0.0.1:8180"}}
    assert section(result, "upstreams")["backend"]["endpoints"] == ["https://llm.example.org/v1"]
    assert section(result, "upstreams")["backend"]["timeouts"]["total"] == "90s"
    assert result.draft.telemetry == {"log": {"level": "debug"}}
    assert all(one.value.get("pass_client_key", one.value["name"] == "health") for one in result.draft.routes)


@pytest.mark.parametrize(("line", "fidelity", "word"), [
    ("BACKEND_URL=https://x.org/api", "approximate", "base URL"), ("BACKEND_URL=https://u:p@x.org/v1/chat/completions", "by hand", "user information"),
    ("BACKEND_URL=https://x.org\nBACKEND_TIMEOUT_SECS=long", "by hand", "no number"), ("BACKEND_URL=https://x.org\nRUST_LOG=proxy=debug", "by hand", "log.level"),
    ("BACKEND_URL=https://x.org\nCADDY_DOMAIN=localhost\nCADDY_TLS=maybe", "by hand", "neither true nor false"), ("BACKEND_URL=https://x.org\nOTHER=1", "not supported", "no service"),
    ("BACKEND_URL=https://x.org\nHOST_PORT", "by hand", "no value"),
])
def test_values_that_are_not_taken_as_they_are(line: str, fidelity: str, word: str) -> None:
    found = reasons(env(line), line.count("\n") + 1)
    assert found[0] == fidelity and word in found[1]


def test_the_variables_of_the_transparent_proxy() -> None:
    result = env('TARGET_URL=https://ai.example.org\nPORT=9090\nREQUEST_TIMEOUT=60\nMAX_RETRIES=2\nRETRY_BACKOFF_FACTOR=0.25\nSSL_VERIFY=false\nCORS_ORIGINS=["https://a.org"]\nCORS_METHODS=GET, POST\n')
    assert section(result, "listeners") == {"public": {"address": "0.0.0.0:9090"}}
    assert section(result, "upstreams")["target"] == {
        "endpoints": ["https://ai.example.org"], "timeouts": {"first_byte": "60s", "idle": "60s", "total": "60s"},
        "retries": {"attempts": 3, "backoff": "250ms"}, "http": "2", "tls": {"verify": False}}
    assert result.draft.routes[-1].value["cors"] == {"origins": ["https://a.org"], "methods": ["GET", "POST"], "headers": ["*"]}
    assert "cors" not in env("TARGET_URL=http://a.org\nENABLE_CORS=false").draft.routes[-1].value


def test_a_limit_for_each_provider_and_a_new_key_for_the_clients() -> None:
    result = env("OPENAI_API_KEY=sk-abc\nFIREWORKS_API_KEY=fw-abc\nFIREWORKS_CONCURRENCY=7\nOPENAI_BASE_URL=https://proxy.example.org/v1/\n")
    found = section(result, "upstreams")
    assert {name: one["limits"]["requests"] for name, one in found.items()} == {"fireworks": 7, "openai": 8}
    assert found["openai"]["endpoints"] == ["https://proxy.example.org/v1"]
    assert result.keys["openai"] == "sk-abc" and len(result.keys["app"]) > 30 and result.keys != env("OPENAI_API_KEY=sk-abc").keys


def test_the_chat_gateway_with_litellm_or_ollama() -> None:
    result = env("GEMINI_API_KEY=AIza-1\nLITELLM_URL=http://host.docker.internal:4000\nLITELLM_API_KEY=sk-lite\n")
    assert section(result, "upstreams")["litellm"] == {"protocol": "openai_chat", "endpoints": ["http://127.0.0.1:4000/v1"], "auth": {"bearer": {"file": "/k/litellm"}}}
    result = env("OLLAMA_HOST=ollama:11434\n")
    assert section(result, "upstreams") == {"ollama": {"protocol": "ollama", "endpoints": ["http://ollama:11434"]}}
    assert "name of a container" in reasons(result, 1)[1]


COMPOSE = """services:
  app:
    image: proxy
    env_file: [.env]
    environment: {TARGET_URL: "${TARGET:-http://a.org}", PORT: "8000"}
    ports: ["127.0.0.1:${OUTER:-18000}:8000/tcp", "9000-9010:9000"]
    devices: [/dev/x]
  other: {image: cache, environment: {TARGET_URL: "http://b.org"}, ports: ["1:1"]}
"""


def test_ports_and_variables_of_a_service() -> None:
    result = compose(("docker-compose.yml", COMPOSE), (".env", "OUTER=18001\nTARGET=http://c.org\n"))
    assert section(result, "listeners") == {"public": {"address": "127.0.0.1:18001"}}
    assert section(result, "upstreams")["target"]["endpoints"] == ["http://c.org"]
    assert {one.text: str(one.fidelity) for one in result.entries if one.file == ".env"} == {"OUTER=18001": "exact", "TARGET=http://c.org": "exact"}
    found = {one.line: (str(one.fidelity), one.reasons) for one in result.entries if one.file != ".env"}
    assert found[6][0] == "by hand" and found[7][0] == "not supported" and "second application" in found[8][1][0]


def test_a_file_of_variables_that_is_missing_is_named() -> None:
    result = compose(("docker-compose.yml", COMPOSE))
    assert section(result, "upstreams")["target"]["endpoints"] == ["http://a.org"]
    assert "was not found here" in reasons(result, 4)[1]


def test_variables_of_no_application() -> None:
    assert "no application" in env("A=b\n").remarks[0]


def test_a_domain_of_caddy() -> None:
    """A public name is served with TLS, or by hand; never without TLS on the port of HTTPS."""
    result = env("BACKEND_URL=https://x.org\nCADDY_DOMAIN=ai.example.org\nCADDY_PORT=443\nCADDY_TLS=true\n")
    assert all("tls" in one or one.get("https_redirect") or one["address"] == "127.0.0.1:8282" for one in section(result, "listeners").values())
