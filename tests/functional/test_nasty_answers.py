"""Large answers that are translated, before the real daemon: each takes many turns of the loop, none of them most of the work.

The longest turn is compared with all that relayd spent on the answer, in CPU, so that a busy machine changes nothing.
"""

# ruff: noqa: UP031 - JSON is full of braces, which the percent sign leaves alone

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.nasty_answers import ANSWERS
from tests.aids.steps import unit_s
from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.share import Turns, least, longest_share, watching
from tests.functional.harness.upstream import Upstream, saying

MOST_SHARE = 0.2  # of the whole work for one answer, that may be done in one turn
MOST_UNITS = 40  # of the time for one piece of JSON, that a turn may take (tests/aids/steps.py): some 30 milliseconds


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
    with Relay(folder, module_upstream.url, config(folder, module_upstream.url), environment=watching(folder)) as relay:
        warm_up(relay, module_upstream)
        yield relay


def warm_up(relay: Relay, upstream: Upstream) -> None:
    """The first request of a process makes what all others share."""
    upstream.script = saying(plain(COMPLETION % ('"a"', "", "")))
    for path in ("/v1/responses", "/v1/messages"):
        with Client(relay.address) as client:
            client.send(asking(path, False))
            assert client.answer().status == 200


def longest_units(relay: Relay, data: bytes) -> tuple[Message, float]:
    """What was answered, and the longest turn in units of tests/aids/steps.py, measured on the same machine."""
    with Client(relay.address) as client:
        turns = Turns(relay)
        client.send(data)
        told = client.answer()
    return told, turns.measured()[0] / unit_s()


WORDS = "lorem ipsum dolor sit amet\\n" * 300_000
SAID = json.loads(f'"{WORDS}"')
TOKEN = '{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]}]}'
LOGPROBS = ',"logprobs":{"content":[%s]}' % ",".join([TOKEN] * 40_000)
COMPLETION = '{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%s%s}%s,"finish_reason":"stop"}]}'
CHUNK = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}'
MESSAGE = '{"id":"x","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"%s"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'

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
    told, share = least(lambda: longest_share(watched, asking(path, False), Client.answer), MOST_SHARE)
    assert text_of(path, told.body, False) == SAID
    assert share < MOST_SHARE


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("chunks", [[CHUNK % (WORDS, "null")], [CHUNK % (WORDS[:2800], "null")] * 3_000], ids=["one event", "many"])
def test_a_large_stream_is_translated_in_steps(chunks: list[str], path: str, watched: Relay, upstream: Upstream) -> None:
    """The end of a stream of Responses repeats all of it."""
    upstream.script = saying(stream(*chunks, CHUNK % ("", '"stop"')))
    told, share = least(lambda: longest_share(watched, asking(path, True), Client.answer), MOST_SHARE)
    assert text_of(path, told.body, True) == SAID
    assert share < MOST_SHARE


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_many_logprobs_are_translated_in_steps(path: str, is_stream: bool, watched: Relay, upstream: Upstream) -> None:
    body = COMPLETION % ('"%s"' % ("a" * 40_000), "", LOGPROBS)
    upstream.script = saying(stream(body.replace('"message"', '"delta"')) if is_stream else plain(body))
    told, share = least(lambda: longest_share(watched, asking(path, is_stream), Client.answer), MOST_SHARE)
    assert text_of(path, told.body, is_stream) == "a" * 40_000
    assert share < MOST_SHARE


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("name", [
    "a plain call of escapes", "a call as an object of strings", "a call in one frame of brackets", "a call in pieces, and again, of escapes",
    "a call in pieces, and again whole, of strings", "a cumulative call of strings", "many calls",
])  # fmt: skip
def test_large_calls_are_translated_in_steps(name: str, path: str, watched: Relay, upstream: Upstream) -> None:
    made = ANSWERS[name]
    is_stream = made.kind == "sse"
    kind = b"Content-Type: text/event-stream" if is_stream else b"Content-Type: application/json"
    upstream.script = saying(answer(made.make(1_500_000), kind))
    told, units = least(lambda: longest_units(watched, asking(path, is_stream)), MOST_UNITS)
    assert told.status == 200 and len(told.body) > 1_000_000
    assert b"upstream_malformed" not in told.body and b"error" not in told.body[-300:]
    assert units < MOST_UNITS


STORED = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "lorem ipsum\n" * 60}]}] * 900


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_large_stored_response_is_served_in_steps(kind: str, tmp_path: Path, upstream: Upstream) -> None:
    changed = {**config(tmp_path, upstream.url), "store": {"kind": "memory"} if kind == "memory" else {"kind": kind, "path": str(tmp_path / "store.sqlite")}}
    with Relay(tmp_path, upstream.url, changed, environment=watching(tmp_path)) as relay:
        warm_up(relay, upstream)
        upstream.script = saying(plain(COMPLETION % (json.dumps(SAID[:5_000_000]), "", "")))
        body = json.dumps({"model": "m", "input": STORED}).encode()
        posted = request(b"/v1/responses", b"Content-Type: application/json", method=b"POST", body=body)
        told, units = least(lambda: longest_units(relay, posted), MOST_UNITS)
        response = json.loads(told.body)
        assert response["store"] is True and units < MOST_UNITS
        path = f"/v1/responses/{response['id']}".encode()
        shown, units = least(lambda: longest_units(relay, request(path)), MOST_UNITS)
        assert json.loads(shown.body) == response and units < MOST_UNITS
        listed, units = least(lambda: longest_units(relay, request(path + b"/input_items?limit=100")), MOST_UNITS)
        assert len(json.loads(listed.body)["data"]) == 100 and units < MOST_UNITS
        deleted, units = longest_units(relay, request(path, method=b"DELETE"))
        assert json.loads(deleted.body)["deleted"] is True and units < MOST_UNITS
        gone, _ = longest_units(relay, request(path))
        assert gone.status == 404
