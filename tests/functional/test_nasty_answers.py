"""Large answers that are translated, before the real daemon: each takes many turns of the loop, none of them most of the work.

The longest turn is compared with all that relayd spent on the answer, in CPU, so that a busy machine changes nothing.
"""

# ruff: noqa: UP031 - JSON is full of braces, which the percent sign leaves alone

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.share import spent_ns
from tests.functional.harness.upstream import Upstream, saying

MOST_SHARE = 0.2  # of the whole work for one answer, that may be done in one turn


def config(folder: Path, url: str) -> dict[str, Any]:
    fronts = {"openai_responses": "/v1/responses", "anthropic_messages": "/v1/messages", "openai_chat": "/v1/chat/completions"}
    return {
        "upstreams": {back: {"protocol": back, "endpoints": [url]} for back in ("openai_chat", "anthropic_messages")},
        "routes": [
            *(
                {"name": front, "match": {"prefix": path}, "protocol": front,
                 "upstream": "anthropic_messages" if front == "openai_chat" else "openai_chat"}
                for front, path in fronts.items()
            ),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, module_upstream: Upstream) -> Iterator[Relay]:
    """A relayd that keeps the time of its longest turn in a file."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "sitecustomize.py").write_text(f"from tests.bench.turns import watch\nwatch({str(folder / 'turns')!r})\n")
    environment = {"PYTHONPATH": f"{folder}:{ROOT}"}
    with Relay(folder, module_upstream.url, config(folder, module_upstream.url), environment=environment) as relay:
        yield relay


def longest_share(relay: Relay, data: bytes) -> tuple[Message, float]:
    """What was answered, and the share of the work that was done in the longest turn."""
    turns = relay.folder / "turns"
    with Client(relay.address) as client:
        client.sock.settimeout(60)
        with open(turns, "r+b") as file:  # the file is mapped: it keeps its length
            file.write(bytes(8))
        begun = spent_ns(relay.pid)
        client.send(data)
        told = client.answer()
        client.send(request(b"/nowhere"))  # the turn before this one has been measured
        assert client.answer().status == 404
        longest_s: float = struct.unpack("d", turns.read_bytes())[0]
        return told, longest_s * 1e9 / (spent_ns(relay.pid) - begun)


WORDS = "lorem ipsum dolor sit amet\\n" * 300_000
SAID = json.loads(f'"{WORDS}"')
TOKEN = '{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]}]}'
LOGPROBS = ',"logprobs":{"content":[%s]}' % ",".join([TOKEN] * 40_000)
COMPLETION = '{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%s%s}%s,"finish_reason":"stop"}]}'
CHUNK = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}'
MESSAGE = '{"id":"x","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"%s"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
CALL = ',"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":%s}}]' % json.dumps('{"a":"%s"}' % ("x\\n" * 1_000_000))

PLAIN = COMPLETION % (f'"{WORDS}"', "", "")
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
}


def stream(*chunks: str) -> bytes:
    frames = "".join(f"data: {chunk}\n\n" for chunk in (*chunks, "[DONE]"))
    return answer(frames.encode(), b"Content-Type: text/event-stream")


def plain(body: str) -> bytes:
    return answer(body.encode(), b"Content-Type: application/json")


def asking(path: str, is_stream: bool) -> bytes:
    body = json.dumps({"model": "m", "stream": is_stream, **ASKED[path]}).encode()
    return request(path.encode(), b"Content-Type: application/json", method=b"POST", body=body)


def text_of(path: str, body: bytes, is_stream: bool) -> str:
    """The text of an answer in the client's dialect; of a stream its deltas."""
    if not is_stream:
        whole = json.loads(body)
        if path == "/v1/responses":
            return str(whole["output"][0]["content"][0]["text"])
        return str(whole["content"][0]["text"] if path == "/v1/messages" else whole["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    if path == "/v1/responses":
        done = next(event["response"] for event in events if event["type"] == "response.completed")
        deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        assert done["output"][0]["content"][0]["text"] == deltas
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        return deltas
    assert events[-1]["type"] == "message_stop"
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions"])
def test_a_large_plain_answer_is_translated_in_steps(path: str, watched: Relay, upstream: Upstream) -> None:
    upstream.script = saying(plain(MESSAGE % WORDS if path == "/v1/chat/completions" else PLAIN))
    told, share = longest_share(watched, asking(path, False))
    assert text_of(path, told.body, False) == SAID
    assert share < MOST_SHARE


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("chunks", [[CHUNK % (WORDS, "null")], [CHUNK % (WORDS[:2800], "null")] * 3_000], ids=["one event", "many"])
def test_a_large_stream_is_translated_in_steps(chunks: list[str], path: str, watched: Relay, upstream: Upstream) -> None:
    """The end of a stream of Responses repeats all of it."""
    upstream.script = saying(stream(*chunks, CHUNK % ("", '"stop"')))
    told, share = longest_share(watched, asking(path, True))
    assert text_of(path, told.body, True) == SAID
    assert share < MOST_SHARE


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_many_logprobs_are_translated_in_steps(path: str, is_stream: bool, watched: Relay, upstream: Upstream) -> None:
    body = COMPLETION % ('"%s"' % ("a" * 40_000), "", LOGPROBS)
    upstream.script = saying(stream(body.replace('"message"', '"delta"')) if is_stream else plain(body))
    told, share = longest_share(watched, asking(path, is_stream))
    assert text_of(path, told.body, is_stream) == "a" * 40_000
    assert share < MOST_SHARE


def test_a_large_call_is_translated_in_steps(watched: Relay, upstream: Upstream) -> None:
    upstream.script = saying(plain(COMPLETION % ("null", CALL, "")))
    told, share = longest_share(watched, asking("/v1/responses", False))
    assert json.loads(json.loads(told.body)["output"][0]["arguments"]) == {"a": "x\n" * 1_000_000}
    assert share < 0.5  # its arguments are looked at as one text
