"""The example conf/examples/chat-gateway.yaml as a running gateway, before one scripted Gemini and Ollama."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.functional.harness.message import Message, answer
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

APPS = {"Authorization": "Bearer key-of-apps"}
GOOGLE = {"x-webhook-key": "key-of-dialogflow"}
HELLO = [{"role": "user", "content": "Hello!"}]


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    """The example with the scripted upstream's address and keys of its own."""
    text = (ROOT / "conf" / "examples" / "chat-gateway.yaml").read_text(encoding="utf-8")
    for name in ("gemini", "apps", "dialogflow", "monitoring"):
        (folder / name).write_text(f"key-of-{name}")
        (folder / name).chmod(0o640)
        text = text.replace(f"/etc/relayd/keys/{name}", str(folder / name))
    config: dict[str, Any] = yaml.safe_load(text)
    del config["listeners"]
    config["upstreams"]["gemini"]["endpoints"] = [f"{url}/v1beta"]
    config["upstreams"]["ollama"]["endpoints"] = [url]
    config["models"]["gemini-local"] = {"upstream": "ollama", "model": "gemma3:4b"}
    return config


class Models:
    """Answers as both back-ends do, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[bytes | None] = []
        self.hold_s = 0.0
        self.refusal = b""

    def __call__(self, peer: Peer, message: Message) -> None:
        body = json.loads(peer.whole(message).body)
        path = message.target.decode()
        self.asked.append((path, body))
        self.keys.append(message.get("x-goog-api-key"))
        if self.hold_s:
            peer.wait_gone(self.hold_s)
            return
        if self.refusal:
            peer.send(answer(self.refusal, b"Content-Type: application/json", status=b"400 Bad Request"))
            return
        if path == "/api/chat":
            lines: list[Any] = [{"message": {"content": "Local "}, "done": False}, {"message": {"content": "hello."}, "done": False}]
            last = {"done": True, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 2}
            whole = last | {"message": {"role": "assistant", "content": "Local hello."}}
            data = b"".join(json.dumps(one).encode() + b"\n" for one in [*lines, last | {"message": {"content": ""}}])
            peer.send(answer(data if body["stream"] else json.dumps(whole).encode()))
            return
        frame = {
            "candidates": [{"content": {"role": "model", "parts": [{"text": "Cloud hello."}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 1},
        }
        if "stream" in path:
            peer.send(answer(b"data: " + json.dumps(frame).encode() + b"\r\n\r\n", b"Content-Type: text/event-stream"))
        else:
            peer.send(answer(json.dumps(frame).encode()))


@pytest.fixture
def models(upstream: Upstream) -> Models:
    upstream.script = models = Models()
    return models


def asked(relay: Relay, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    made = urllib.request.Request(f"http://127.0.0.1:{relay.port}{path}", data, (headers or {}) | {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(made, timeout=60) as told:
            status, text = told.status, told.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    return status, json.loads(text) if text[:1] == b"{" else text


def test_a_local_model_answers_in_the_shape_of_the_old_gateway(relay: Relay, models: Models) -> None:
    status, told = asked(relay, "/chat", {"model": "mistral-7b-instruct", "messages": HELLO, "max_tokens": 50}, APPS)
    assert status == 200 and told.pop("id").startswith("chat-") and told.pop("created") > 1_700_000_000
    assert told == {
        "object": "chat.completion", "model": "mistral-7b-instruct", "backend": "litellm",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Local hello."}, "finish_reason": "stop"}],
    }  # fmt: skip
    assert models.asked == [("/api/chat", {
        "model": "mistral:7b-instruct", "messages": HELLO, "stream": False, "options": {"num_predict": 50},
    })]  # fmt: skip


def test_the_backend_is_the_upstream_that_answered_whatever_the_model_is_called(relay: Relay, models: Models) -> None:
    status, told = asked(relay, "/chat", {"model": "gemini-local", "messages": HELLO}, APPS)
    assert status == 200 and told["backend"] == "litellm" and models.asked[0][0] == "/api/chat"


def test_gemini_answers_the_same_request_with_its_key_in_a_field(relay: Relay, models: Models) -> None:
    status, told = asked(relay, "/chat", {"model": "gemini-1.5-flash", "messages": HELLO, "temperature": 0.7}, APPS)
    assert status == 200 and told["backend"] == "gemini" and told["model"] == "gemini-1.5-flash"
    path, body = models.asked[0]
    assert path == "/v1beta/models/gemini-1.5-flash:generateContent" and models.keys == [b"key-of-gemini"]
    assert body["generationConfig"] == {"temperature": 0.7, "maxOutputTokens": 2048}


def test_faults_of_a_client_are_told_and_never_sent(relay: Relay, models: Models) -> None:
    status, told = asked(relay, "/chat", {"model": "nope", "messages": HELLO}, APPS)
    assert status == 404 and told["error"]["code"] == "model_not_found" and "phi-3-mini" in told["error"]["message"]
    status, told = asked(relay, "/chat", {"model": "gemini-1.5-flash"}, APPS)
    assert status == 400 and told["error"]["param"] == "messages"
    assert asked(relay, "/chat", {"model": "phi-3-mini", "messages": HELLO})[0] == 401
    assert models.asked == []


def test_the_webhook_remembers_a_session(relay: Relay, models: Models) -> None:
    for words in ("Rain?", "And tomorrow?"):
        query = {"queryText": words, "intent": {"displayName": "ask"}, "languageCode": "en"}
        body = {"responseId": "x", "session": "projects/p/agent/sessions/1", "queryResult": query}
        assert asked(relay, "/webhook", body, GOOGLE) == (200, {"fulfillmentText": "Cloud hello."})
    path, sent = models.asked[1]
    assert path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert [(turn["role"], turn["parts"][0]["text"]) for turn in sent["contents"]] == [
        ("user", "Rain?"), ("model", "Cloud hello."), ("user", "And tomorrow?"),
    ]  # fmt: skip
    assert asked(relay, "/webhook", headers=GOOGLE)[0] == 200 and len(models.asked) == 2


def test_the_webhook_apologises_before_dialogflow_gives_up(relay: Relay, models: Models) -> None:
    models.hold_s = 60.0
    status, told = asked(relay, "/webhook", {"session": "2", "queryResult": {"queryText": "Rain?"}}, GOOGLE)
    assert status == 200 and "again" in told["fulfillmentText"]
    webhook = next(route for route in relay.config["routes"] if route["name"] == "webhook")
    assert webhook["timeouts"] == {"total": "4500ms"}, "Dialogflow waits for 5 seconds"
    assert relay.record(path="/webhook", code="total_timeout")


def test_the_same_models_speak_openais_dialect_and_googles_own(relay: Relay, models: Models) -> None:
    stream = {"stream": True, "messages": HELLO}
    for model, words in (("llama3.2-3b", "Local hello."), ("gemini-3-flash", "Cloud hello.")):
        status, text = asked(relay, "/v1/chat/completions", stream | {"model": model}, APPS)
        frames = [line[6:] for line in text.decode().splitlines() if line.startswith("data: ")]
        assert status == 200 and frames.pop() == "[DONE]"
        assert "".join(json.loads(one)["choices"][0]["delta"].get("content") or "" for one in frames) == words
    own = {"contents": [{"parts": [{"text": "Hello!"}]}], "unknown": 12345678901234567890}
    path = "/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse"
    status, text = asked(relay, path, own, {"x-goog-api-key": "key-of-apps"})
    assert status == 200 and text.startswith(b"data: {") and text.endswith(b"\r\n\r\n")
    assert models.asked[-1][0] == path and models.keys[-1] == b"key-of-gemini"


def test_health_asks_nobody(relay: Relay, models: Models) -> None:
    status, told = asked(relay, "/health")
    assert status == 200 and models.asked == []
    assert (told["status"], told["service"]) == ("healthy", "ai-chat-gateway")
    assert {"gemini": "connected", "ollama": "connected"}.items() <= told["backends"].items()


def test_metrics_have_the_names_that_dashboards_know(relay: Relay, models: Models) -> None:
    asked(relay, "/health")
    status, text = asked(relay, "/metrics", headers={"Authorization": "Bearer key-of-monitoring"})
    assert status == 200 and b"# TYPE assistant_requests_total counter" in text
    assert b"# TYPE assistant_request_duration histogram" in text and b'assistant_requests_total{route="health"' in text


def test_a_wrong_key_of_the_gateway_is_not_the_clients_fault(relay: Relay, models: Models) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": details}
    models.refusal = json.dumps([{"error": error}]).encode()
    status, told = asked(relay, "/chat", {"model": "gemini-1.5-flash", "messages": HELLO}, APPS)
    assert status == 502 and "key-of-gemini" not in json.dumps(told)


@pytest.mark.client
@pytest.mark.parametrize("stream", [False, True])
def test_googles_own_sdk_passes_through(relay: Relay, models: Models, stream: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        genai = pytest.importorskip("google.genai")
        client = genai.Client(api_key="key-of-apps", http_options={"base_url": f"http://127.0.0.1:{relay.port}"})
        if stream:
            words = "".join(one.text or "" for one in client.models.generate_content_stream(model="gemini-3-flash", contents="Hi"))
        else:
            words = client.models.generate_content(model="gemini-3-flash", contents="Hi").text
        client.close()
    assert words == "Cloud hello." and models.keys == [b"key-of-gemini"]
    assert models.asked[0][1]["contents"] == [{"parts": [{"text": "Hi"}], "role": "user"}]
