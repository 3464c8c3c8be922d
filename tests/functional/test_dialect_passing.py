"""Client and endpoint of one dialect: bytes pass as they are, both ways, but for the model's name and the key."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.harness.dialects.backend import KEY, KEY_NAME
from tests.functional.harness.message import Message, answer, chunk
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Script, Upstream, saying

AUTH = {"bearer": {"env": KEY_NAME}}
BACKS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama")
BASES = {"gemini": "/v1beta", "ollama": ""}
# Spaces, an escape that need not be one, a number beyond 2^53, a long decimal, a zero, a repeated unknown name,
# members out of order, a line end within, a nested member that is called model as well.
ODD = (
    '{ "messages" :[ {"role":"user","content":"\\u00e4 ä \\/ 世界","model":"inner"} ],\r\n "seed":9007199254740993123,'
    '"temperature" : 0.70000000000000000001, "top_p":0, "zzz":{"a":1,"a":2,"model":"alias"}, "model"  :  "alias" ,"é":[1e400]}\n'
).encode()


def config(folder: Any, url: str) -> dict[str, Any]:
    upstreams = {
        name: {"protocol": name, "endpoints": [url + BASES.get(name, "/v1")], "auth": AUTH, "dialect": {"ask_usage": False}}
        for name in BACKS
    }
    upstreams["asking"] = {"protocol": "openai_chat", "endpoints": [url + "/v1"], "auth": AUTH}
    routes = [
        {"name": name, "match": {"prefix": f"/{name}/"}, "protocol": name, "upstream": "by_model", "strip_prefix": f"/{name}"}
        for name in BACKS
    ]
    models = {name: {"upstream": name, "model": "the-name/at the ünd"} for name in BACKS}
    routes.insert(0, {"name": "direct", "match": {"prefix": "/direct/v1/"}, "upstream": "openai_chat", "strip_prefix": "/direct"})
    routes.append({"name": "asking", "match": {"prefix": "/asking/"}, "protocol": "openai_chat", "upstream": "by_model", "strip_prefix": "/asking"})
    models["asking"] = {"upstream": "asking", "model": "m"}
    models["alias"] = {"upstream": "openai_chat", "model": "the-name/at the ünd"}
    return {"upstreams": {"up": None, **upstreams}, "models": models, "routes": routes}


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("passing")
    with Relay(folder, module_upstream.url, config(folder, module_upstream.url), environment={KEY_NAME: KEY}) as running:
        yield running


def post(relay: Relay, path: str, body: bytes, *lines: bytes) -> Message:
    fields = [b"POST " + path.encode() + b" HTTP/1.1", b"Host: relayd.test", b"Content-Type: application/json", *lines]
    with relay.client() as client:
        return client.ask(b"\r\n".join([*fields, b"Content-Length: %d" % len(body), b"", b""]) + body)


def streaming(*pieces: bytes, end: bytes = b"0\r\n\r\n", kind: bytes = b"text/event-stream") -> Script:
    """Every piece in a chunk of its own."""

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            peer.send(chunk(piece))
        peer.send(end)
        if not end:
            peer.reset()

    return script


def received(upstream: Upstream) -> Message:
    return upstream.heads[-1]


JSON = b"Content-Type: application/json"
PATHS = {
    "openai_chat": "/v1/chat/completions", "openai_responses": "/v1/responses", "anthropic_messages": "/v1/messages",
    "ollama": "/api/chat",
}  # fmt: skip


@pytest.mark.parametrize("back", PATHS)
def test_a_body_passes_byte_for_byte_but_for_the_models_name(back: str, relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b'{"choices":[],  "x":1e400}\n', JSON))
    asked = ODD.replace(b'"model"  :  "alias"', b'"model"  :  "%s"' % back.encode())
    message = post(relay, f"/{back}{PATHS[back]}", asked)
    assert message.status == 200 and message.body == b'{"choices":[],  "x":1e400}\n'
    expected = asked.replace(b'"model"  :  "%s"' % back.encode(), b'"model"  :  "the-name/at the \xc3\xbcnd"')
    assert received(upstream).body == expected
    assert received(upstream).target == (BASES.get(back, "") + PATHS[back]).encode()


def test_a_body_without_an_alias_is_not_touched_at_all(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"{}", JSON))
    for body in (ODD, ODD.replace(b"{ ", b'{ "stream":true,', 1), b"not json at all", b"\x00\xff" * 1000):
        assert post(relay, "/direct/v1/chat/completions", body).status == 200
        assert received(upstream).body == body


def test_keys_of_the_client_stay_here_and_the_upstreams_own_goes(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"{}", JSON))
    post(
        relay, "/openai_chat/v1/chat/completions", b'{"model":"openai_chat","messages":[]}', b"Authorization: Bearer client-secret",
        b"x-api-key: client-secret", b"x-goog-api-key: client-secret", b"Cookie: session=client-secret", b"X-Own: stays",
    )  # fmt: skip
    seen = received(upstream)
    assert seen.get_all("authorization") == [b"Bearer " + KEY.encode()] and seen.get("x-own") == b"stays"
    assert b"client-secret" not in b"".join(value for _, value in seen.fields)


ODD_STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\n", b'data:{"id":"1","choices":[{"delta":{"content":"a\\u0062"}}]}\n\n', b": keep\n", b"\n",
    b'event:  odd\r\nid: 7\r\nretry: 5\r\ndata: {"model" : "m",\r\ndata:  "x":9007199254740993}\r\n\r\n', b"data: [DO", b"NE]\n\n", b"after",
)  # fmt: skip


@pytest.mark.parametrize("back", PATHS)
def test_a_stream_passes_byte_for_byte(back: str, relay: Relay, upstream: Upstream) -> None:
    upstream.script = streaming(*ODD_STREAM)
    body = json.dumps({"model": back, "stream": True, "messages": []}).encode()
    message = post(relay, f"/{back}{PATHS[back]}", body)
    assert message.body == b"".join(ODD_STREAM) and message.get("content-type") == b"text/event-stream"


def test_every_piece_of_a_stream_leaves_as_it_comes(relay: Relay, upstream: Upstream) -> None:
    gates = [threading.Event() for _ in ODD_STREAM]

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece, gate in zip(ODD_STREAM, gates, strict=True):
            gate.wait(60)
            peer.send(chunk(piece))
        peer.send(chunk(b""))

    upstream.script = script
    body = b'{"model":"openai_chat","stream":true,"messages":[]}'
    with relay.client() as client:
        client.send(b"POST /openai_chat/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        client.head_of_answer()
        for piece, gate in zip(ODD_STREAM, gates, strict=True):
            gate.set()
            assert client.take(len(chunk(piece))) == chunk(piece)
        assert client.take(5) == b"0\r\n\r\n"


def test_gemini_passes_with_its_model_in_the_path(relay: Relay, upstream: Upstream) -> None:
    pieces = (b'data: {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}\r\n\r\n', b'data: {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2}}\r\n\r\n')
    upstream.script = streaming(*pieces)
    body = b'{ "contents":[{"role":"user","parts":[{"text":"x"}]}], "seed":9007199254740993}'
    message = post(relay, "/gemini/models/gemini:streamGenerateContent?alt=sse", body, b"x-goog-api-key: client-secret")
    assert message.body == b"".join(pieces) and received(upstream).body == body
    target = received(upstream).target
    assert target.startswith(b"/v1beta/models/the-name%2Fat%20the%20%C3%BCnd:streamGenerateContent") and b"alt=sse" in target, target
    assert b"client-secret" not in b"".join(value for _, value in received(upstream).fields)


def test_ollama_shows_a_model_by_its_name(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b'{"capabilities":["tools"]}', JSON))
    for path in ("/ollama/api/show", "/openai_chat/api/show"):
        message = post(relay, path, b'{"name" : "ollama", "verbose":false}')
        assert message.body == b'{"capabilities":["tools"]}', message.body
        assert received(upstream).target == b"/api/show"
        assert received(upstream).body == '{"name" : "the-name/at the ünd", "verbose":false}'.encode()
    seen = len(upstream.heads)
    for body in (b'{"name":"openai_chat","Name":"ollama"}', b'{"name":"ollama","name":"x"}', b'{"name":7}'):
        assert post(relay, "/ollama/api/show", body).status == 400
    assert len(upstream.heads) == seen


def test_a_client_of_ollama_is_told_who_is_there_without_a_model(relay: Relay) -> None:
    with relay.client() as client:
        for path, key in (("version", "version"), ("ps", "models")):
            message = client.ask(b"GET /ollama/api/%b HTTP/1.1\r\nHost: relayd.test\r\n\r\n" % path.encode())
            assert message.status == 200 and key in json.loads(message.body)


def test_usage_that_the_client_did_not_ask_for_is_asked_for_and_taken_out(relay: Relay, upstream: Upstream) -> None:
    first = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n'
    upstream.script = streaming(first, usage, b": note\n\ndata: [DONE]\n\n")
    body = b'{"model":"asking","stream":true,"messages":[]}'
    message = post(relay, "/asking/v1/chat/completions", body)
    assert message.body == first + b": note\n\ndata: [DONE]\n\n"
    assert json.loads(received(upstream).body)["stream_options"] == {"include_usage": True}
    record = relay.record(id=(message.get("x-request-id") or b"").decode())
    assert (record["tokens_input"], record["tokens_output"], record["model"], record["model_there"]) == (5, 2, "asking", "m")
    asked = body.replace(b'"stream":true', b'"stream":true,"stream_options":{"include_usage":true}')
    message = post(relay, "/asking/v1/chat/completions", asked)
    assert message.body == first + usage + b": note\n\ndata: [DONE]\n\n"
    # Also where the stream's length is known beforehand.
    upstream.script = saying(answer(first + usage + b"data: [DONE]\n\n", b"Content-Type: text/event-stream"))
    message = post(relay, "/asking/v1/chat/completions", body)
    assert message.complete and message.body == first + b"data: [DONE]\n\n"


def test_usage_that_the_client_did_not_ask_for_is_taken_out_of_every_chunk(relay: Relay, upstream: Upstream) -> None:
    azure = b'data: {"choices":[],"prompt_filter_results":[{}],"usage":{"prompt_tokens":0}}\n\n'
    first = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    usage = b'data: {"choices":null,"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    upstream.script = streaming(azure, first, last, usage, usage, b"data: [DONE]\n\n")
    message = post(relay, "/asking/v1/chat/completions", b'{"model":"asking","stream":true,"messages":[]}')
    frames = message.body.split(b"\n\n")
    assert len(frames) == 5 and frames[3:] == [b"data: [DONE]", b""]
    assert [json.loads(frame[6:])["usage"] for frame in frames[:3]] == [None, None, None]
    record = relay.record(id=(message.get("x-request-id") or b"").decode())
    assert (record["tokens_input"], record["tokens_output"]) == (5, 2)


@pytest.mark.parametrize("stream", [True, False])
def test_a_choice_that_failed_is_an_error_in_the_providers_words(relay: Relay, upstream: Upstream, stream: bool) -> None:
    choice = {"index": 0, "delta": {}, "message": {"content": ""}, "finish_reason": "error",
              "error": {"code": 429, "message": "Provider returned error", "metadata": {"raw": "the quota is used up"}}}  # fmt: skip
    body = json.dumps({"id": "gen-1", "choices": [choice]}).encode()
    upstream.script = streaming(b"data: " + body + b"\n\ndata: [DONE]\n\n") if stream else saying(answer(body, JSON))
    asked = {"model": "openai_chat", "input": "hi", "stream": stream}
    message = post(relay, "/openai_responses/v1/responses", json.dumps(asked).encode())
    assert b"the quota is used up" in message.body and b"response.completed" not in message.body


def test_usage_of_a_plain_answer_is_read_from_a_copy(relay: Relay, upstream: Upstream) -> None:
    body = b'{"model": "served", "choices": [{"finish_reason": "stop"}], "usage":{"prompt_tokens":50,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":9}}}'
    upstream.script = saying(answer(body, JSON))
    message = post(relay, "/openai_chat/v1/chat/completions", b'{"model":"openai_chat","messages":[]}')
    assert message.body == body
    record = relay.record(id=(message.get("x-request-id") or b"").decode())
    assert (record["tokens_input"], record["tokens_output"], record["tokens_cached"], record["finish"]) == (50, 20, 9, "stop")


def test_tokens_that_anthropic_wrote_to_its_cache_are_counted_apart(relay: Relay, upstream: Upstream) -> None:
    """They have a price of their own."""
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}
    start = {"type": "message_start", "message": {"model": "m", "usage": usage}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
    frames = [b"event: x\ndata: " + json.dumps(one).encode() + b"\n\n" for one in (start, last, {"type": "message_stop"})]
    plain = json.dumps({"type": "message", "model": "m", "content": [], "stop_reason": "end_turn", "usage": usage | {"output_tokens": 4}})
    for stream, script in ((True, streaming(*frames)), (False, saying(answer(plain.encode(), JSON)))):
        upstream.script = script
        asked = json.dumps({"model": "anthropic_messages", "stream": stream, "messages": []}).encode()
        message = post(relay, f"/anthropic_messages{PATHS['anthropic_messages']}", asked)
        assert message.status == 200
        record = relay.record(id=(message.get("x-request-id") or b"").decode())
        told = {name: record.get(f"tokens_{name}") for name in ("input", "output", "cached", "cache_creation")}
        assert told == {"input": 10, "output": 4, "cached": 5, "cache_creation": 2}


def test_a_stream_that_passes_and_is_cut_is_never_made_whole(relay: Relay, upstream: Upstream) -> None:
    first = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    for piece in (first, first[:-9]):
        upstream.script = streaming(piece, end=b"")
        message = post(relay, "/openai_chat/v1/chat/completions", b'{"model":"openai_chat","stream":true,"messages":[]}')
        assert (message.status == 502 or not message.complete) and b"[DONE]" not in message.body


def test_an_error_that_passes_keeps_every_byte(relay: Relay, upstream: Upstream) -> None:
    body = b'{"error" : {"message":"No.", "param":null,"own":[1]}}\n'
    upstream.script = saying(answer(body, JSON, b"x-ratelimit-reset: 9", status=b"422 Unprocessable"))
    message = post(relay, "/openai_chat/v1/chat/completions", b'{"model":"openai_chat","messages":[]}')
    assert message.status == 422 and message.body == body and message.get("x-ratelimit-reset") == b"9"


def test_ollamas_own_clients_pass(relay: Relay, upstream: Upstream) -> None:
    lines = (b'{"message":{"content":"a"},"done":false}\n', b'{"done":true,"prompt_eval_count":4,"eval_count":3}\n')
    upstream.script = streaming(*lines, kind=b"application/x-ndjson")
    for path in ("/ollama/api/chat", "/ollama/api/generate"):
        message = post(relay, path, b'{"model":"ollama","prompt":"x"}')
        assert message.body == b"".join(lines), message.body
        record = relay.record(id=(message.get("x-request-id") or b"").decode())
        if path.endswith("chat"):
            assert (record["tokens_input"], record["tokens_output"]) == (4, 3), record
