"""`relayd replay`: a captured request is sent again, and the difference of the responses is the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.capture import Capture, cli, state
from tests.functional.harness.dialects.turns import Turns
from tests.functional.harness.faults import once, says
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

UP_KEY = "sk-of-the-upstream-123456"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
JSON = b"Content-Type: application/json"


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder, url = tmp_path_factory.mktemp("replay"), module_upstream.url
    (folder / "team").write_text("team-key-abcdefghij\n")
    (folder / "team").chmod(0o600)
    change = {
        "upstreams": {
            "up": {"endpoints": [url]},
            "chat": {"endpoints": [f"{url}/v1"], "protocol": "openai_chat", "auth": {"bearer": {"env": "UP_KEY"}}},
            "claude": {"endpoints": [f"{url}/claude"], "protocol": "anthropic_messages"},
        },
        "consumers": {"team": {"bearer": {"file": str(folder / "team")}}},
        "routes": [
            {"name": "responses", "match": {"path": "/v1/responses"}, "protocol": "openai_responses", "upstream": "chat"},
            {"name": "cached", "match": {"prefix": "/cached/v1/"}, "strip_prefix": "/cached", "upstream": "chat",
             "cache": {"ttl": "1h", "when": "always"}},
            {"name": "chat", "match": {"prefix": "/v1/"}, "upstream": "chat", "allow": ["team"]},
            {"name": "fixed", "match": {"prefix": "/fixed"}, "respond": {"status": 418}},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }
    with Relay(folder, url, change, environment={"UP_KEY": UP_KEY}) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_kept(relay: Relay, upstream: Upstream) -> Iterator[None]:
    yield
    assert cli(relay, "capture", "delete", "--all").returncode == 0
    assert state(relay) == {"is_on": False, "ends_in_s": None, "exchanges": 0, "bytes": 0}


def captured(relay: Relay, path: bytes, *lines: bytes, body: bytes | None = None, options: tuple[str, ...] = ()) -> str:
    """The id of an exchange that was captured."""
    with Capture(relay, "--max", "1", *options) as capture, relay.client() as client:
        client.ask(request(path, *lines, method=b"GET" if body is None else b"POST", body=body))
        identity: str = capture.next()["id"]
        capture.ended()
    return identity


def completion(text: str, number: int = 1) -> bytes:
    return json.dumps({
        "id": f"chatcmpl-{number}", "object": "chat.completion", "created": number, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }).encode()


def test_the_same_request_is_sent_and_the_same_response_is_found(relay: Relay, upstream: Upstream) -> None:
    seen: list[Message] = []

    def script(peer: Peer, message: Message) -> None:
        seen.append(peer.whole(message))
        peer.send(answer(b'{"b": 1, "a": [2]}' if len(seen) == 1 else b'{"a":[2],"b":1}', JSON, b"X-Number: %d" % len(seen)))

    upstream.script = script
    identity = captured(relay, b"/a?b=c", b"X-Mine: yes", b"Cookie: id=secret", body=b"the body")
    result = cli(relay, "replay", identity)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same" in result.stdout and "x-number: 1 -> 2" in result.stdout and "status      200\n" in result.stdout
    first, second = seen
    assert second.body == b"the body" and second.start == first.start
    assert second.get("x-mine") == b"yes" and second.get("cookie") is None and first.get("cookie") == b"id=secret"
    record = relay.record(replay_of=identity)
    assert record["listener"] == "replay" and record["route"] == "all" and record["consumer"] == ""


def test_a_different_response_is_shown_as_a_difference(relay: Relay, upstream: Upstream) -> None:
    upstream.script = once(says(b'{"a": 1, "b": 2}', JSON), says(b'{"a": 1, "b": 3}', JSON, status=b"202 Accepted"))
    identity = captured(relay, b"/a")
    result = cli(relay, "replay", identity)
    assert result.returncode == 1
    assert "200 -> 202" in result.stdout and '-  "b": 2' in result.stdout and '+  "b": 3' in result.stdout
    upstream.script = once(says(b'{"a": 1, "b": 2}', JSON))
    assert cli(relay, "replay", identity, "--json").returncode == 0


def test_ids_and_times_of_an_ai_response_do_not_count(relay: Relay, upstream: Upstream) -> None:
    team = b"Authorization: Bearer team-key-abcdefghij"
    upstream.script = once(says(completion("fine", 1), JSON), says(completion("fine", 2), JSON), says(completion("other", 3), JSON))
    identity = captured(relay, b"/v1/chat/completions", JSON, team, body=json.dumps(CHAT).encode())
    same = cli(relay, "replay", identity)
    assert same.returncode == 0 and "tokens      3+2" in same.stdout, same.stdout + same.stderr
    different = cli(relay, "replay", identity)
    assert different.returncode == 1 and "-fine" in different.stdout and "+other" in different.stdout
    keys = {message.get("authorization") for message in upstream.heads}
    assert keys == {b"Bearer " + UP_KEY.encode()}


def test_a_replay_asks_the_endpoint_and_not_the_cache(relay: Relay, upstream: Upstream) -> None:
    upstream.script = once(says(completion("fine"), JSON), says(completion("other"), JSON))
    identity = captured(relay, b"/cached/v1/chat/completions", JSON, body=json.dumps(CHAT).encode())
    replayed = cli(relay, "replay", identity)
    assert replayed.returncode == 1 and "+other" in replayed.stdout, replayed.stdout + replayed.stderr


def test_streams_are_compared_by_what_they_say(relay: Relay, upstream: Upstream) -> None:
    def streaming(*pieces: str) -> Any:
        def script(peer: Peer, message: Message) -> None:
            peer.whole(message)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for text in pieces:
                delta = {"id": f"c{len(pieces)}", "object": "chat.completion.chunk", "model": "m", "created": 1,
                         "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
                peer.send(chunk(b"data: " + json.dumps(delta).encode() + b"\n\n"))
            end = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            peer.send(chunk(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n")

        return script

    team = b"Authorization: Bearer team-key-abcdefghij"
    upstream.script = once(streaming("one ", "two"), streaming("o", "ne", " two"), streaming("one ", "three"))
    identity = captured(relay, b"/v1/chat/completions", JSON, team, body=json.dumps({**CHAT, "stream": True}).encode())
    assert cli(relay, "replay", identity).returncode == 0
    different = cli(relay, "replay", identity)
    assert different.returncode == 1 and "-one two" in different.stdout and "+one three" in different.stdout


def test_it_is_sent_to_another_upstream_of_another_dialect_and_as_another_model(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if b"/claude/" not in message.start:
            peer.send(answer(completion("fine"), JSON))
            return
        sent.append(json.loads(message.body))
        document = {"id": "m1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
                    "content": [{"type": "text", "text": "fine"}], "usage": {"input_tokens": 7, "output_tokens": 1}}
        peer.send(answer(json.dumps(document).encode(), JSON))

    sent: list[dict[str, Any]] = []
    upstream.script = script
    team = b"Authorization: Bearer team-key-abcdefghij"
    identity = captured(relay, b"/v1/chat/completions", JSON, team, body=json.dumps(CHAT).encode())
    dry = cli(relay, "replay", identity, "--upstream", "claude", "--model", "claude-x", "--dry-run")
    assert dry.returncode == 0 and "to upstream claude, as model claude-x" in dry.stdout and not sent
    result = cli(relay, "replay", identity, "--upstream", "claude", "--model", "claude-x", "--show")
    assert result.returncode == 0, result.stdout + result.stderr
    assert sent[0]["model"] == "claude-x" and "upstream    chat -> claude" in result.stdout and "3+2 -> 7+1" in result.stdout
    assert "translated" in result.stdout


def test_what_cannot_be_sent_again_is_said(relay: Relay, upstream: Upstream) -> None:
    upstream.script = says(b"x" * 300_000)
    cut = captured(relay, b"/long", options=("--body", "8KiB"))
    fixed = captured(relay, b"/fixed")
    long_body = captured(relay, b"/x", body=b"y" * 300_000, options=("--body", "8KiB"))
    for arguments, reason in (
        ((cut,), "of the captured response were not kept"), ((fixed,), "was not sent to any upstream"),
        ((fixed, "--upstream", "up"), "has no upstream"), ((long_body,), "of the 300000 bytes of its body were not kept"),
        ((cut, "--upstream", "none"), "There is no upstream none; the upstreams are: up, chat, claude"),
        (("nothing",), "No captured exchange has the id nothing"),
    ):
        result = cli(relay, "replay", *arguments)
        assert result.returncode == 2 and reason in result.stderr, (arguments, result.stdout, result.stderr)


def test_a_turn_of_a_websocket_session_is_an_exchange(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        delta = {"id": "c", "object": "chat.completion.chunk", "model": "m", "created": 1,
                 "choices": [{"index": 0, "delta": {"content": "said"}, "finish_reason": "stop"}]}
        peer.send(chunk(b"data: " + json.dumps(delta).encode() + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n")

    upstream.script = script
    with Turns(relay.port) as turns, Capture(relay) as capture:
        turns.turn(model="m", input="hello")  # the session was open before the capture
        assert capture.next()["record"]["route"] == "responses"
        for _ in range(2):
            turns.turn(model="m", input="hello")
            found = capture.one()
            assert found["record"]["route"] == "responses" and '"hello"' in found["request"]["body"]["text"]
            assert "said" in found["response"]["body"]["text"] and "said" in found["attempts"][0]["response"]["body"]["text"]


def test_a_replay_works_while_a_capture_is_on(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    upstream.script = says(b"same")
    identity = captured(relay, b"/a")
    with Capture(relay) as capture:
        assert cli(relay, "replay", identity).returncode == 0
        with relay.client() as client:
            client.ask(request(b"/b"))
        assert capture.next()["record"]["path"] == "/b"
