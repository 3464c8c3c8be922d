"""The example conf/examples/coding-agents.yaml as a running gateway: what Claude Code and Codex send, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

GOLDEN = ROOT / "tests" / "unit" / "protocols" / "golden"
TEAM, BEARER = b"x-api-key: key-of-team", b"Authorization: Bearer key-of-team"
VLLM = (GOLDEN / "answers/openai_chat/vllm_reasoning_call.sse").read_bytes()
ANTHROPIC = (GOLDEN / "answers/anthropic_messages/thinking_and_call.sse").read_bytes()


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    """The example with the scripted upstream's address and keys of its own."""
    text = (ROOT / "conf" / "examples" / "coding-agents.yaml").read_text(encoding="utf-8")
    for name in ("anthropic", "team"):
        (folder / name).write_text(f"key-of-{name}")
        (folder / name).chmod(0o640)
        text = text.replace(f"/etc/relayd/keys/{name}", str(folder / name))
    config: dict[str, Any] = yaml.safe_load(text)
    del config["listeners"]
    config["upstreams"]["vllm"]["endpoints"] = [f"{url}/v1"]
    config["upstreams"]["anthropic"]["endpoints"] = [url]
    return config


def script(peer: Peer, message: Message) -> None:
    """Both back-ends, as they answer."""
    peer.whole(message)
    if message.target == b"/v1/models":
        peer.send(answer(b'{"data":[{"id":"Qwen/Qwen3-4B"}]}'))
    else:
        said = ANTHROPIC if message.target.startswith(b"/v1/messages") else VLLM
        peer.send(answer(said, b"Content-Type: text/event-stream"))


@pytest.fixture
def agent(relay: Relay, upstream: Upstream) -> Relay:
    upstream.script = script
    return relay


def ask(relay: Relay, target: bytes, body: Any = None, *lines: bytes, method: bytes = b"POST") -> Message:
    data = None if body is None else json.dumps(body).encode()
    with relay.client() as client:
        return client.ask(request(target, *lines, b"Content-Type: application/json", method=method, body=data))


def recorded(front: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((GOLDEN / f"requests/{front}/coding_agent.json").read_text(encoding="utf-8"))
    return {**body, "model": "coder"}


def models_asked(upstream: Upstream) -> list[Any]:
    return [json.loads(message.body)["model"] for message in upstream.heads if message.body]


def test_the_first_look_is_answered_without_a_key_and_says_nothing(agent: Relay, upstream: Upstream) -> None:
    with agent.client() as client:
        told = client.ask(request(b"/", method=b"HEAD"))
    assert told.status == 200 and told.body == b""
    assert ask(agent, b"/", method=b"GET").status == 404
    assert not [message for message in upstream.heads if message.target != b"/v1/models"]


@pytest.mark.parametrize("target", [b"/v1/messages?beta=true", b"/v1/messages/count_tokens", b"/v1/responses"])
def test_everything_else_needs_the_key_and_says_so_in_the_clients_words(
    target: bytes, agent: Relay, upstream: Upstream
) -> None:
    for line in ((), (b"x-api-key: key-of-anthropic",), (b"Authorization: Bearer wrong",)):
        told = ask(agent, target, recorded("anthropic_messages"), *line)
        assert told.status == 401
        error = json.loads(told.body)
        if b"messages" in target:
            assert error["type"] == "error" and error["error"]["type"] == "authentication_error"
        else:
            assert error["error"]["message"]
    assert not models_asked(upstream)


@pytest.mark.parametrize("key", [TEAM, BEARER])
def test_tokens_are_counted_with_the_key_and_here(key: bytes, agent: Relay, upstream: Upstream) -> None:
    told = ask(agent, b"/v1/messages/count_tokens", recorded("anthropic_messages"), key)
    assert told.status == 200 and json.loads(told.body)["input_tokens"] > 50
    assert not models_asked(upstream)


def test_an_upstream_of_anthropic_counts_the_tokens_itself(agent: Relay, upstream: Upstream) -> None:
    def counts(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b'{"input_tokens":12345}'))

    upstream.script = counts
    large = {**recorded("anthropic_messages"), "model": "claude-sonnet-4-5", "system": "x" * 400_000}
    for body in ({**recorded("anthropic_messages"), "model": "claude-sonnet-4-5"}, large):
        told = ask(agent, b"/v1/messages/count_tokens?beta=true", body, TEAM, b"anthropic-version: 2023-06-01")
        assert told.status == 200 and json.loads(told.body) == {"input_tokens": 12345}
        sent = upstream.heads[-1]
        assert sent.target == b"/v1/messages/count_tokens?beta=true" and json.loads(sent.body) == body
        assert sent.get("x-api-key") == b"key-of-anthropic"


def test_a_translated_stream_begins_with_the_estimate_that_is_counted_here(agent: Relay, upstream: Upstream) -> None:
    body = recorded("anthropic_messages")
    counted = json.loads(ask(agent, b"/v1/messages/count_tokens", body, TEAM).body)["input_tokens"]
    told = ask(agent, b"/v1/messages", body, TEAM)
    start = json.loads(told.body.split(b"\n\n")[0].split(b"data: ")[1])
    assert start["message"]["usage"]["input_tokens"] == counted > 50


def test_claude_code_before_vllm(agent: Relay, upstream: Upstream) -> None:
    told = ask(agent, b"/v1/messages?beta=true", recorded("anthropic_messages"), TEAM, b"anthropic-beta: a,b")
    assert told.status == 200 and b'"type":"tool_use","id":"chatcmpl-tool-52b8","name":"list_files"' in told.body
    assert told.body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    (sent,) = [message for message in upstream.heads if message.body]
    assert sent.target == b"/v1/chat/completions" and sent.get("x-api-key") is None and sent.get("authorization") is None
    body = json.loads(sent.body)
    assert body["model"] == "Qwen/Qwen3-Coder-30B-A3B-Instruct" and body["messages"][0]["content"] == "You are an agent."
    assert body["messages"][2]["reasoning_content"] == "A file."


def test_claude_code_before_anthropic_passes_byte_for_byte(agent: Relay, upstream: Upstream) -> None:
    body = {**recorded("anthropic_messages"), "model": "claude-sonnet-4-5", "number": 9007199254740993}
    told = ask(agent, b"/v1/messages?beta=true", body, BEARER, b"anthropic-version: 2023-06-01")
    assert told.body == ANTHROPIC
    (sent,) = [message for message in upstream.heads if message.body]
    assert sent.target == b"/v1/messages?beta=true" and sent.body == json.dumps(body).encode()
    assert sent.get("x-api-key") == b"key-of-anthropic" and sent.get("authorization") is None


@pytest.mark.parametrize("filling", [0, 400_000])
def test_a_thought_of_vllm_does_not_reach_anthropic(filling: int, agent: Relay, upstream: Upstream) -> None:
    told = ask(agent, b"/v1/messages", recorded("anthropic_messages"), TEAM)
    assert b'"signature":""' in told.body, "what the client brings back"
    thought = {"type": "thinking", "thinking": "A file.", "signature": ""}
    text = {"type": "text", "text": "Let me look." + "x" * filling}
    said = {"role": "user", "content": "Go on."}
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "number": 9007199254740993, "messages": [
        said, {"role": "assistant", "content": [thought, text]}, said]}  # fmt: skip
    assert ask(agent, b"/v1/messages", body, BEARER, b"anthropic-version: 2023-06-01").body == ANTHROPIC
    left = {**body, "messages": [said, {"role": "assistant", "content": [text]}, said]}
    assert upstream.heads[-1].body == json.dumps(left).encode()


def test_the_small_model_of_claude_code_is_the_teams_own(agent: Relay, upstream: Upstream) -> None:
    body = {**recorded("anthropic_messages"), "model": "claude-haiku-4-5-20251001"}
    assert ask(agent, b"/v1/messages", body, TEAM).status == 200
    assert models_asked(upstream) == ["Qwen/Qwen3-4B"]


@pytest.mark.parametrize(("model", "target"), [("coder", b"/v1/chat/completions"), ("claude-x", b"/v1/messages")])
def test_codex_before_either(model: str, target: bytes, agent: Relay, upstream: Upstream) -> None:
    told = ask(agent, b"/v1/responses", {**recorded("openai_responses"), "model": model}, BEARER)
    assert told.status == 200 and b"event: response.completed" in told.body and told.body.endswith(b"data: [DONE]\n\n")
    assert b'"type":"function_call"' in told.body
    (sent,) = [message for message in upstream.heads if message.body]
    assert sent.target == target and (sent.get("x-api-key") == b"key-of-anthropic") is (model == "claude-x")


def test_the_models_that_there_are(agent: Relay, upstream: Upstream) -> None:
    def listed() -> list[str]:
        return [one["id"] for one in json.loads(ask(agent, b"/v1/models", None, BEARER, method=b"GET").body)["data"]]

    until(lambda: len(listed()) == 2)
    assert listed() == ["coder", "local/Qwen/Qwen3-4B"]
