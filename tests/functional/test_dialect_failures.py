"""What goes wrong at a back-end reaches each client in its own dialect, with the back-end's words, and never as success."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.harness.dialects.backend import KEY
from tests.functional.harness.dialects.fronts import FRONTS, FULL, Front, FullFront
from tests.functional.harness.dialects.gateway import BACKS, Gateway
from tests.functional.harness.dialects.said import Fail, Heard, Say
from tests.functional.harness.message import Message

PAIRS = [pytest.param(front, back, id=f"{front.name}-{back}") for front in FRONTS for back in BACKS]
STREAMED = [pytest.param(front, back, id=f"{front.name}-{back}") for front in FULL for back in BACKS]
both = pytest.mark.parametrize(("front", "back"), PAIRS)
streamed = pytest.mark.parametrize(("front", "back"), STREAMED)
# Until the first words have gone to the client.
BEFORE_WORDS = {"openai_chat": 1, "openai_responses": 1, "anthropic_messages": 3, "gemini": 0, "ollama": 0}


@pytest.fixture
def running(running: Gateway) -> Iterator[Gateway]:
    yield running
    running.relay.wait_quiet()


def ways(front: Front) -> tuple[bool, ...]:
    return (False, True) if front in FULL else (False,)


def ask(running: Gateway, front: Front, back: str, reply: Any, stream: bool = False) -> Message:
    running.backs[back].brain = lambda asked: reply
    return running.ask(front, back, front.ask(back, "x", stream=stream))


@both
@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 500, 503])
def test_an_error_keeps_its_status_and_words(front: Front, back: str, status: int, running: Gateway) -> None:
    for stream in ways(front):
        message = ask(running, front, back, Fail(status, "The flux is not aligned."), stream)
        assert message.status == status, message.body
        assert "The flux is not aligned." in said(front, back, message)


@both
def test_a_code_that_programs_look_at_is_kept(front: Front, back: str, running: Gateway) -> None:
    message = ask(running, front, back, Fail(400, "Too long: 9000 tokens.", "context_length_exceeded"))
    assert message.status == 400 and "Too long: 9000 tokens." in said(front, back, message)
    if back == "openai_chat" and front.name != "anthropic_messages":
        assert json.loads(message.body)["error"]["code"] == "context_length_exceeded"


@both
def test_429_keeps_its_retry_after(front: Front, back: str, running: Gateway) -> None:
    fields = () if back == "gemini" else (b"Retry-After: 7", b"x-ratelimit-remaining-requests: 0")
    for stream in ways(front):
        message = ask(running, front, back, Fail(429, "Slow down.", "", fields), stream)
        assert message.status == 429 and message.get("retry-after") == b"7", message.fields
        assert "Slow down." in said(front, back, message)


@both
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_of_relayds_own_that_is_refused_is_no_401_of_the_client(front: Front, back: str, status: int, running: Gateway) -> None:
    for stream in ways(front):
        message = ask(running, front, back, Fail(status, f"Incorrect API key provided: {KEY}"), stream)
        assert message.status == 502 and KEY.encode() not in message.body
        assert "upstream" in said(front, front.name, message)


@both
def test_a_page_of_html_is_502_in_the_clients_dialect(front: Front, back: str, running: Gateway) -> None:
    page = b"<html><body>It works!</body></html>"
    for fail in (Fail(200, body=page), Fail(502, body=page), Fail(200, body=page, content_type="application/json")):
        for stream in ways(front):
            message = ask(running, front, back, fail, stream)
            if fail.content_type == "application/json" and front.name == back:
                continue  # it passes as it is: the body of an answer that passes is not read
            assert message.status == 502, (fail, message.body)
            assert said(front, front.name, message) and b"<html>" not in message.body


@both
def test_an_empty_answer_is_502(front: Front, back: str, running: Gateway) -> None:
    for kind in ("application/json", "text/event-stream"):
        for stream in ways(front):
            message = ask(running, front, back, Fail(200, body=b"", content_type=kind), stream)
            assert message.status == 502, (kind, stream, message.body)
            assert said(front, front.name, message)


@streamed
@pytest.mark.parametrize(
    "body",
    [b'error: {"code":429,"message":"no slot"}\n\n', b'data: {"error":"no slot","code":429}\n\n',
     b'data: {"error":{"message":"no slot","code":429}}\n\n'],
)  # fmt: skip
def test_an_error_at_the_beginning_of_a_stream_chooses_the_status(
    front: FullFront, back: str, body: bytes, running: Gateway
) -> None:
    if back == "ollama" or front.name == back:  # whose streams are lines; what passes stays as it is
        return
    message = ask(running, front, back, Fail(200, body=body, content_type="text/event-stream"), True)
    assert message.status == 429, message.body
    assert "no slot" in said(front, back, message)


@both
def test_a_plain_answer_that_is_cut_is_no_answer(front: Front, back: str, running: Gateway) -> None:
    message = ask(running, front, back, Say(("half",), breaks="cut"))
    if front.name == back:
        assert not message.complete or message.status == 502
        return
    assert message.status == 502 and said(front, front.name, message)


@streamed
@pytest.mark.parametrize("breaks", ["cut", "ended", "error"])
def test_a_stream_that_breaks_before_the_first_word_is_an_error(front: FullFront, back: str, breaks: str, running: Gateway) -> None:
    message = ask(running, front, back, Say(("never",), breaks=breaks, frames=BEFORE_WORDS[back]), True)
    if front.name == back:
        assert not whole(front, message.body)
        return
    if message.status == 200:  # the answer had begun, without a word yet
        heard = front.cut(message.body)
        assert not heard.text
    else:
        assert message.status in (500, 502, 503, 529), message.body
        heard = Heard(failed=said(front, front.name, message))
    assert heard.failed
    if breaks == "error":
        assert "The flux is not aligned." in heard.failed


@streamed
@pytest.mark.parametrize("breaks", ["cut", "ended", "error"])
def test_a_stream_that_breaks_after_the_first_words_ends_broken(front: FullFront, back: str, breaks: str, running: Gateway) -> None:
    gate, frames = threading.Event(), BEFORE_WORDS[back] + 2
    say = Say(("Half a", " sentence", "never"), breaks=breaks, frames=frames, gate=gate, gate_after=frames)
    running.backs[back].brain = lambda asked: say
    with running.relay.client() as client:
        client.send(running.bytes_of(front, back, front.ask(back, "x", stream=True)))
        while b" sentence" not in client.buffer:
            assert client.fill(5)
        gate.set()
        message = client.answer(b"POST")
    assert message.status == 200
    if front.name == back and (breaks != "cut" or front.name == "openai_responses"):
        assert not whole(front, message.body)  # byte for byte as it came
        assert breaks != "cut" or (b"event: error" in message.body and not message.complete)
        if breaks == "error":
            record = running.relay.record(id=(message.get("x-request-id") or b"").decode())
            assert (record["code"], record["outcome"]) == ("upstream_failed", "upstream.transfer"), record
            assert "The flux is not aligned." in record["detail"]
        return
    heard = front.cut(message.body)
    assert heard.text == "Half a sentence" and heard.failed
    if breaks == "error":
        assert "The flux is not aligned." in heard.failed
    if front.name == "openai_chat":
        assert not message.complete
    record = running.relay.record(id=(message.get("x-request-id") or b"").decode())
    code = {"cut": "upstream_cut", "ended": "upstream_cut", "error": "upstream_failed"}[breaks]
    assert record["status"] == 200 and record["code"] == code and record["outcome"].startswith("upstream."), record


@streamed
def test_who_leaves_in_the_middle_takes_the_back_ends_work_with_him(front: FullFront, back: str, running: Gateway) -> None:
    running.backs[back].brain = lambda asked: Say(("first", "never"), breaks="hangs", frames=BEFORE_WORDS[back] + 1)
    with running.relay.client() as client:
        client.send(running.bytes_of(front, back, front.ask(back, "x", stream=True)))
        while b"first" not in client.buffer:
            assert client.fill(5)
    running.backs[back].upstream.left.get(timeout=60)


@both
def test_who_leaves_before_the_first_byte_takes_the_back_ends_work_with_him(front: Front, back: str, running: Gateway) -> None:
    peers: list[Any] = []
    upstream = running.backs[back].upstream

    def silent(peer: Any, message: Message) -> None:
        peer.whole(message)
        peers.append(peer)
        upstream.requests.put(message)
        peer.wait_gone()
        peer.open = False

    upstream.script = silent
    with running.relay.client() as client:
        client.send(running.bytes_of(front, back, front.ask(back, "x")))
        upstream.requests.get(timeout=60)
        upstream.requests.get(timeout=60)
    upstream.left.get(timeout=60)
    assert peers


def said(front: Front, back: str, message: Message) -> str:
    """The words of an error; one that passes is in the dialect of both."""
    assert (message.get("content-type") or b"").startswith(b"application/json"), message.fields
    return front.error(message)


def whole(front: Front, body: bytes) -> bool:
    """Whether a stream claims to be whole."""
    return {"openai_chat": b"[DONE]", "openai_responses": b"response.completed", "anthropic_messages": b"message_stop"}[front.name] in body
