"""Nasty JSON bodies before the real daemon: whatever one of them costs, nobody else waits for the whole of it.

A bystander waits for turns of the loop. The longest one is compared with all that relayd spent, in CPU, so that a busy
machine changes nothing.
"""

# ruff: noqa: UP031 - JSON is full of braces, which the percent sign leaves alone

from __future__ import annotations

import contextlib
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.share import Turns, least, longest_share, watching
from tests.functional.harness.upstream import Upstream, saying

MANY_CLIENTS = 20
MOST_SHARE = 0.2  # of the whole work for one body, that may be done in one turn


def config(folder: Path, url: str) -> dict[str, Any]:
    backs = ("openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama")
    return {
        "listeners": {"public": {"limits": {"requests": 0}}},
        "upstreams": {back: {"protocol": back, "endpoints": [url]} for back in backs},
        "models": {"*": "openai_chat"},
        "routes": [
            {"name": "by_model", "match": {"prefix": "/by_model"}, "protocol": "openai_chat", "upstream": "by_model", "strip_prefix": "/by_model"},
            {"name": "messages", "match": {"path": "/v1/messages"}, "protocol": "anthropic_messages", "upstream": "openai_chat"},
            {"name": "responses", "match": {"path": "/v1/responses"}, "protocol": "openai_responses", "upstream": "anthropic_messages"},
            *(
                {"name": f"to-{back}", "match": {"prefix": f"/{back}"}, "protocol": "openai_chat", "upstream": back, "strip_prefix": f"/{back}"}
                for back in backs
            ),
            {"name": "rule", "match": {"model": ["vip*"]}, "upstream": "up"},
            {"name": "open", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A relayd that keeps the time of its longest turn."""
    folder = tmp_path_factory.mktemp("relay")
    with Relay(folder, module_upstream.url, config(folder, module_upstream.url), environment=watching(folder)) as running:
        yield running


def post(path: str, body: bytes) -> bytes:
    return request(path.encode(), b"Content-Type: application/json", method=b"POST", body=body)


def test_many_bodies_at_once_share_the_turns_of_the_loop(relay: Relay, upstream: Upstream) -> None:
    """A turn has a part of one body, not a step of each of them."""
    answered = []

    def send() -> None:
        with Client(relay.address) as client:
            client.wait_longer(600)
            client.send(post("/anthropic_messages/v1/chat/completions", ITEMS))
            answered.append(client.answer())

    def together() -> tuple[None, float]:
        turns = Turns(relay)
        clients = [threading.Thread(target=send, daemon=True) for _ in range(MANY_CLIENTS)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        longest_s, whole_s = turns.measured()
        return None, longest_s * MANY_CLIENTS / whole_s

    share = least(together, MOST_SHARE / 2)[1]
    assert len(answered) % MANY_CLIENTS == 0
    assert share < MOST_SHARE / 2


def status(client: Client) -> int:
    return client.answer().status


def message(content: str, more: str = "") -> bytes:
    return f'{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":{content}}}]{more}}}'.encode()


ITEMS = b'{"model":"m","max_tokens":9,"messages":[%s]}' % b",".join([b'{"role":"user","content":"hi"}'] * 30_000)
MANY = b'{"model":"m","messages":[%s]}' % b",".join([b'{"role":"user","content":"hi"}'] * 250_000)
KEYS = message('"hi"', ',"metadata":{%s}' % ",".join(f'"k{number}":{{"a":[1]}}' for number in range(30_000)))
ESCAPES = message('"' + "\\n" * 12_000_000 + '"')
DEEP = message('"hi"', ',"metadata":{"a":[%s]}' % ",".join(["[" * 55 + "]" * 55] * 8_000))


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", MANY), ("/by_model/v1/chat/completions", DEEP), ("/by_model/v1/chat/completions", ESCAPES),
    ("/v1/messages", ITEMS), ("/v1/messages", KEYS), ("/anthropic_messages/v1/chat/completions", ITEMS),
    ("/gemini/v1/chat/completions", ITEMS), ("/ollama/v1/chat/completions", ITEMS), ("/openai_responses/v1/chat/completions", KEYS),
    ("/anthropic_messages/v1/chat/completions", ESCAPES),
])  # fmt: skip
def test_a_bystander_waits_for_a_small_part_of_the_work_only(path: str, body: bytes, relay: Relay, upstream: Upstream) -> None:
    told, share = least(lambda: longest_share(relay, post(path, body), status), MOST_SHARE)
    assert told in (200, 502), told  # the endpoint says hello, which is no answer of a model
    assert share < MOST_SHARE


def test_a_turn_of_a_socket_is_looked_at_in_steps_too(relay: Relay, upstream: Upstream) -> None:
    items = b",".join([b'{"role":"user","content":"%s"}' % (b"\\n" * 6_000)] * 900)
    text = b'{"type":"response.create","model":"m","input":[%s]}' % items
    head = request(b"/v1/responses", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
                   b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")  # fmt: skip
    frame = b"\x81\xff" + struct.pack(">Q", len(text)) + b"\0\0\0\0" + text

    def first_event(client: Client) -> bytes:
        assert client.head_of_answer().status == 101
        return client.take(2)

    told, share = longest_share(relay, head + frame, first_event)
    assert told[:1] == b"\x81" and share < MOST_SHARE


def test_a_short_request_that_goes_on_from_a_large_conversation_is_read_in_steps(relay: Relay, upstream: Upstream) -> None:
    said = b'{"id":"x","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"ok"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
    upstream.script = saying(answer(said, b"Content-Type: application/json"))
    items: list[dict[str, Any]] = []
    for number in range(490):
        call = {"call_id": f"c{number}"}
        items += {"type": "function_call", "name": "f", "arguments": json.dumps({"a": [1] * 2000}), **call}, {"type": "function_call_output", "output": "z" * 4000, **call}
    with Client(relay.address) as client:
        client.send(post("/v1/responses", json.dumps({"model": "m", "input": items}).encode()))
        first = json.loads(client.answer().body)
    assert first["store"] is True
    following = json.dumps({"model": "m", "input": "go on", "previous_response_id": first["id"], "store": False}).encode()
    told, share = longest_share(relay, post("/v1/responses", following), status)
    assert told == 200 and share < MOST_SHARE
    assert max(len(message.body) for message in upstream.heads if message.method == b"POST") > 3_000_000


@pytest.mark.parametrize(("body", "words"), [
    (b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}", "1024 members"),
    (b'{"model":"m","a":' + b'"' * 8_000_000, "not valid"),
    (b'{"model":"m","a":[' + b'[],{},"a",' * 1_000_000 + b"1]}", "1048576 values"),
    (b"{" + b'"k":1,' * 1_000_000 + b'"model":"m"}', "1024 members"),
    (b'{"model":"m","a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "64 levels"),
    (b'{"model":"m","a":' + b"1" * 20_000_000 + b"}", "4300 characters"),
    (b'{"model":"m","a":"' + b"a" * 300_000 + b'\xff"}', "UTF-8"),
])  # fmt: skip
def test_a_limit_is_named_where_the_model_decides(body: bytes, words: str, relay: Relay, upstream: Upstream) -> None:
    with Client(relay.address) as client:
        with contextlib.suppress(OSError):  # it is refused before its end
            client.send(post("/by_model/v1/chat/completions", body))
        told = client.answer()
    assert told.status == 400 and words in json.loads(told.body)["error"]["message"]
    assert upstream.requests.empty()


@pytest.mark.parametrize(("path", "body", "words"), [
    ("/v1/responses", b'{"model":"m","input":[%s]}' % b",".join([b'{"role":"user","content":"hi"}'] * 200_000), "at most 1000"),
    ("/v1/messages", message('"hi"', ',"metadata":{"a":[%s1]}' % ('[],{},"a",' * 60_000)), "at most 131072"),
    ("/v1/messages", message("[%s]" % ",".join(['{"type":"text","text":"a"}'] * 20_000)), "at most 4096"),
    ("/v1/messages", message('"' + "a" * 5_000_000 + '\u20ac"'), "not all ASCII"),
])  # fmt: skip
def test_a_limit_of_translation_is_named_in_the_dialect(path: str, body: bytes, words: str, relay: Relay, upstream: Upstream) -> None:
    with Client(relay.address) as client:
        client.send(post(path, body))
        told = client.answer()
    assert told.status == 400 and words in json.loads(told.body)["error"]["message"], told.body
    assert upstream.requests.empty()
