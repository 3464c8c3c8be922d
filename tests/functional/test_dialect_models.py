"""Models: which exist, where they lead, forms and embeddings by model, answers that relayd gives itself, keep-alive."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.harness.dialects.fronts import FRONTS, FULL, Front, FullFront
from tests.functional.harness.dialects.gateway import BACKS, THERE, Gateway, gateway
from tests.functional.harness.dialects.said import Asked, Fail, Reply, Say
from tests.functional.harness.message import Message, answer
from tests.functional.harness.upstream import Peer

CHAT, RESPONSES, MESSAGES = FULL
VERSION = b"anthropic-version: 2023-06-01"
KEEPALIVE = "300ms"
KEPT = re.compile(rb"\n:|event: ping\n")
TRANSLATED = [
    pytest.param(front, back, id=f"{front.name}-{back}") for front in FULL for back in BACKS if front.name != back
]  # fmt: skip


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {
        "org/model-1": {"upstream": "openai_chat", "model": "deep/there"}, "claude-*": "anthropic_messages",
        "*-fast": {"upstream": "openai_chat", "model": "*-slow"},
        "spare": {"upstream": "openai_chat", "model": "first", "fallbacks": [{"upstream": "anthropic_messages", "model": "second"}]},
    }  # fmt: skip
    routes: list[dict[str, Any]] = [
        {"name": "kept", "match": {"prefix": "/kept/v1/chat"}, "protocol": "openai_chat", "upstream": "by_model", "strip_prefix": "/kept", "keepalive": KEEPALIVE},
        {"name": "kept-responses", "match": {"prefix": "/kept/v1/responses"}, "protocol": "openai_responses", "upstream": "by_model", "strip_prefix": "/kept", "keepalive": KEEPALIVE},
        {"name": "kept-messages", "match": {"prefix": "/kept/v1/messages"}, "protocol": "anthropic_messages", "upstream": "by_model", "strip_prefix": "/kept", "keepalive": KEEPALIVE},
        {"name": "google", "match": {"prefix": "/v1beta/"}, "protocol": "gemini", "upstream": "by_model"},
        {"name": "claude", "match": {"path": "/", "method": ["HEAD"]}, "protocol": "anthropic_messages", "upstream": "by_model"},
    ]  # fmt: skip
    with gateway(tmp_path_factory.mktemp("models"), {"models": models}, routes=routes) as running:
        yield running


def test_the_list_has_every_model_of_the_configuration_and_no_wildcard(running: Gateway) -> None:
    listed = json.loads(running.send("GET", "/v1/models").body)
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert names == [*BACKS, "org/model-1", "spare"]
    for model in listed["data"]:
        assert model["object"] == "model" and isinstance(model["created"], int) and model["owned_by"]
        one = running.send("GET", f"/v1/models/{model['id']}")
        assert json.loads(one.body) == model
    assert json.loads(running.send("GET", "/v1/models/org%2Fmodel-1").body)["id"] == "org/model-1"
    missing = running.send("GET", "/v1/models/none")
    assert missing.status == 404 and json.loads(missing.body)["error"]["code"] == "model_not_found"
    theirs = json.loads(running.send("GET", "/v1/models", None, VERSION).body)
    assert [model["id"] for model in theirs["data"]] == names and theirs["data"][0]["type"] == "model" and "has_more" in theirs


@pytest.mark.parametrize("front", FRONTS[:4], ids=lambda front: front.name)
def test_an_unknown_model_is_404_and_the_answer_lists_what_exists(front: Front, running: Gateway) -> None:
    message = running.ask(front, "openai_chat", front.ask("gpt-unknown", "x"))
    assert message.status == 404
    words = front.error(message)
    assert "gpt-unknown" in words and "org/model-1" in words
    if front is not MESSAGES:
        assert json.loads(message.body)["error"]["code"] == "model_not_found"
    assert not any(back.asked for back in running.backs.values())


def test_names_with_slashes_and_wildcards_lead_where_the_table_says(running: Gateway) -> None:
    for asked, back, there in (
        ("org/model-1", "openai_chat", "deep/there"), ("claude-opus", "anthropic_messages", "claude-opus"), ("very-fast", "openai_chat", "very-slow"),
    ):  # fmt: skip
        heard = CHAT.read(running.ask(CHAT, back, CHAT.ask(asked, "x")), stream=False)
        assert running.backs[back].asked[-1].model == there and heard.whole
        record = running.relay.record(model=asked)
        assert record["upstream"] == back and record.get("model_there", asked) == there


def test_a_body_without_a_model_is_400(running: Gateway) -> None:
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/chat"):
        message = running.post(path, {"messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 5})
        assert message.status == 400 and "model" in json.loads(message.body)["error"]["message"], message.body
        assert running.send("POST", path, b'{"model": ').status == 400
        assert running.send("POST", path, b'{"model": "a", "model": "b"}').status == 400


def test_a_model_that_fails_is_replaced_before_the_first_word(running: Gateway) -> None:
    running.backs["openai_chat"].brain = lambda asked: Fail(503, "busy")
    for front in (CHAT, RESPONSES, MESSAGES):
        for stream in (False, True):
            heard = front.read(running.ask(front, "openai_chat", front.ask("spare", "x", stream=stream)), stream)
            assert heard.text == "You said: x 🌧" and running.backs["anthropic_messages"].asked[-1].model == "second"


# ---- beside chat


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_by_model(encoding: str, running: Gateway) -> None:
    message = running.post("/v1/embeddings", {"model": "org/model-1", "input": ["a", "b"], "encoding_format": encoding})
    told = json.loads(message.body)
    assert told["model"] == "deep/there" and len(told["data"]) == 2
    assert isinstance(told["data"][0]["embedding"], str if encoding == "base64" else list)
    record = running.relay.record(id=(message.get("x-request-id") or b"").decode())
    assert record["model"] == "org/model-1"


def test_what_an_upstream_of_another_dialect_does_not_serve_is_404(running: Gateway) -> None:
    message = running.post("/v1/embeddings", {"model": "gemini", "input": "a"})
    assert message.status == 404 and json.loads(message.body)["error"]["message"]
    message = running.post("/v1beta/models/openai_chat:generateContent", {"contents": [{"role": "user", "parts": [{"text": "x"}]}]})
    assert message.status == 404 and json.loads(message.body)["error"]["status"]


@pytest.mark.parametrize("size", [10, 300_000, 5_000_000])
def test_a_form_goes_by_its_model_and_the_file_passes_untouched(size: int, running: Gateway) -> None:
    seen: list[bytes] = []

    def script(peer: Peer, message: Message) -> None:
        seen.append(peer.whole(message).body)
        peer.send(answer(b'{"text": "hello"}', b"Content-Type: application/json"))

    running.backs["openai_chat"].upstream.script = script
    data = bytes(range(256)) * (size // 256 + 1)
    for model_first in (True, False):
        model = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\norg/model-1\r\n'
        file = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' + data + b"\r\n"
        if not model_first and size > 1_000_000:
            continue
        parts = (model, file) if model_first else (file, model)
        body = b"".join(parts) + b"--xyz--\r\n"
        message = running.send("POST", "/v1/audio/transcriptions", body, b"Content-Type: multipart/form-data; boundary=xyz")
        assert message.body == b'{"text": "hello"}', message.body
        assert seen[-1] == body.replace(b"org/model-1", b"deep/there")
    running.backs["openai_chat"].refused.clear()


def test_gemini_clients_go_by_the_model_in_the_path(running: Gateway) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    told = json.loads(running.post("/v1beta/models/gemini:generateContent", body).body)
    assert "".join(part["text"] for part in told["candidates"][0]["content"]["parts"]) == "You said: Hello 🌧"
    assert running.backs["gemini"].asked[-1].model == THERE["gemini"]
    missing = running.post("/v1beta/models/none:generateContent", body)
    assert missing.status == 404 and json.loads(missing.body)["error"]["code"] == 404


# ---- answers of relayd's own


def test_tokens_are_counted_and_the_root_is_answered_without_a_back_end(running: Gateway) -> None:
    body = {"model": "openai_chat", "messages": [{"role": "user", "content": "Hello world"}]}
    counted = json.loads(running.post("/v1/messages/count_tokens", body, VERSION).body)
    assert 1 < counted["input_tokens"] < 20
    assert running.send("HEAD", "/").status == 200
    assert not any(back.asked for back in running.backs.values())


def test_the_account_of_a_translated_stream(running: Gateway) -> None:
    for front in (CHAT, RESPONSES, MESSAGES):
        for back in BACKS:
            message = running.ask(front, back, front.ask(back, "x", stream=True))
            record = running.relay.record(id=(message.get("x-request-id") or b"").decode())
            assert (record["model"], record["model_there"]) == (back, THERE[back]), record
            own = {"anthropic_messages": "end_turn", "openai_responses": "completed"}.get(back, "stop")
            assert record["finish"] == (own if front.name == back else "stop")
            assert (record["tokens_input"], record["tokens_output"]) == (11, 7), record
            assert record["first_token_ms"] > 0


# ---- keep-alive


@pytest.mark.parametrize(("front", "back"), TRANSLATED)
def test_a_silent_back_end_is_told_of_before_the_first_token_and_between(front: FullFront, back: str, running: Gateway) -> None:
    first, second = threading.Event(), threading.Event()

    def brain(asked: Asked) -> Reply:
        first.wait(60)  # not even a head
        return Say(("one ", "two"), gate=second, gate_after={"openai_chat": 2, "openai_responses": 2, "anthropic_messages": 4}.get(back, 1))

    running.backs[back].brain = brain
    with running.relay.client() as client:
        client.send(running.bytes_of(front, back, front.ask(back, "x", stream=True)).replace(b"POST /v1", b"POST /kept/v1", 1))
        head = client.head_of_answer()
        assert head.status == 200 and (head.get("content-type") or b"").startswith(b"text/event-stream")
        comments = read_until(client, lambda text: len(KEPT.findall(text)) >= 2)
        assert b"one " not in comments
        first.set()
        read_until(client, lambda text: b"one " in text)
        read_until(client, lambda text: KEPT.search(text.rpartition(b"one ")[2]))
        second.set()
        client.body(head, until_close=True)
        heard = front.read(head, stream=True)
        assert heard.text == "one two"


def test_what_goes_wrong_behind_a_keep_alive_is_told_in_the_stream(running: Gateway) -> None:
    for front, back in ((CHAT, "gemini"), (RESPONSES, "openai_chat"), (MESSAGES, "openai_chat")):
        gate = threading.Event()

        def brain(asked: Asked, gate: threading.Event = gate) -> Reply:
            gate.wait(60)
            return Fail(429, "Slow down.")

        running.backs[back].brain = brain
        with running.relay.client() as client:
            client.send(running.bytes_of(front, back, front.ask(back, "x", stream=True)).replace(b"POST /v1", b"POST /kept/v1", 1))
            head = client.head_of_answer()
            read_until(client, lambda text: text.count(b"\n:") >= 1)
            gate.set()
            client.body(head, until_close=True)
        if front is CHAT:
            assert b"Slow down." in head.body and b"[DONE]" not in head.body
        else:
            assert "Slow down." in front.cut(head.body).failed


def test_keep_alive_passes_too_where_the_route_asks_for_it(running: Gateway) -> None:
    gate = threading.Event()
    running.backs["openai_chat"].brain = lambda asked: Say(("a", "b"), gate=gate, gate_after=2)
    with running.relay.client() as client:
        client.send(running.bytes_of(CHAT, "openai_chat", CHAT.ask("openai_chat", "x", stream=True)).replace(b"POST /v1", b"POST /kept/v1", 1))
        head = client.head_of_answer()
        read_until(client, lambda text: text.count(b"\n:") >= 2)
        gate.set()
        client.body(head, until_close=True)
    assert CHAT.read(head, stream=True).text == "ab"


def read_until(client: Any, done: Any) -> bytes:
    while not done(client.buffer):
        assert client.fill(5), client.buffer
    return bytes(client.buffer)
