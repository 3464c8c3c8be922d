"""Fallbacks and keys over real sockets: every class of fault, per model and per route, before the first content."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import (
    black_hole,
    once,
    post,
    refused_url,
    run,
    says,
    settled,
    silent,
    until,
    upstream_of,
)
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Script, Upstream, saying_then_close

JSON = b"Content-Type: application/json"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PATH = b"/v1/chat/completions"


def completion(text: str) -> bytes:
    return json.dumps({
        "id": "c", "object": "chat.completion", "created": 1, "model": "there",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }).encode()


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "there",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return chunk(b"data: " + json.dumps(told).encode() + b"\n\n")


GOOD_STREAM = SSE + event({"role": "assistant", "content": "yes"}) + event({}, "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def error(status: bytes, *lines: bytes, **words: Any) -> Script:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(json.dumps({"error": {"message": "no", **words}}).encode(), JSON, *lines, status=status))

    return script


def good(peer: Peer, message: Message) -> None:
    body = json.loads(peer.whole(message).body)
    peer.send(GOOD_STREAM if body.get("stream") else answer(completion(f"from {body['model']}"), JSON))


def asking(stream: bool = False, model: str = "m") -> bytes:
    return json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()


def content(message: Message) -> str:
    return str(json.loads(message.body)["choices"][0]["message"]["content"])


@pytest.fixture
def other() -> Iterator[Upstream]:
    with Upstream() as second:
        second.script = good
        yield second
        assert not second.faults


@pytest.fixture
def pair(upstream: Upstream, other: Upstream, folder: Path) -> Iterator[Callable[..., Relay]]:
    """A relayd with a first upstream and one to fall back to."""
    with ExitStack() as stack:

        def start(fallback: dict[str, Any], first: dict[str, Any] | None = None, *, by: str = "routes") -> Relay:
            written = [{"upstream": "second", **fallback}]
            route: dict[str, Any] = {"name": "llm", "protocol": "openai_chat", "tells_attempts": True}
            change: dict[str, Any] = {
                "upstreams": {
                    "up": {"protocol": "openai_chat", "endpoints": [upstream.url], "breaker": False, **(first or {})},
                    "second": {"protocol": "openai_chat", "endpoints": [other.url]},
                },
            }
            if by == "routes":
                change["routes"] = [{**route, "upstream": "up", "fallbacks": written}]
            else:
                change["routes"] = [{**route, "upstream": "by_model"}]
                change["models"] = {"m": {"upstream": "up", "model": "mine", "fallbacks": written}, "o": "up"}
            return stack.enter_context(Relay(folder, upstream.url, change))

        yield start


UNAVAILABLE, OVERLOADED, CONTEXT, REFUSED = "unavailable", "overloaded", "context_length", "refused_content"
FAULTS: dict[str, tuple[str, Script]] = {
    "500": (UNAVAILABLE, error(b"500 Internal Server Error")),
    "closed": (UNAVAILABLE, saying_then_close(b"")),
    "cut head": (UNAVAILABLE, saying_then_close(b"HTTP/1.1 200 OK\r\nContent-")),
    "a page": (UNAVAILABLE, says(b"<html>", b"Content-Type: text/html")),
    "silent": (UNAVAILABLE, silent),
    "429": (OVERLOADED, error(b"429 Too Many Requests", b"Retry-After: 9")),
    "529": (OVERLOADED, error(b"529 Overloaded", type="overloaded_error")),
    "503 with patience": (OVERLOADED, error(b"503 Service Unavailable", b"Retry-After: 9")),
    "context by code": (CONTEXT, error(b"400 Bad Request", code="context_length_exceeded")),
    "context by words": (CONTEXT, error(b"400 Bad Request", message="This model's maximum context length is 4096 tokens.")),
    "content by code": (REFUSED, error(b"400 Bad Request", code="content_policy_violation")),
    "content by inner code": (REFUSED, error(b"400 Bad Request", innererror={"code": "ResponsibleAIPolicyViolation"})),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_class_of_fault_goes_where_it_is_named_and_nowhere_else(
    fault: str, upstream: Upstream, other: Upstream, pair: Callable[..., Relay]
) -> None:
    kind, upstream.script = FAULTS[fault]
    # An answer that is late on a busy machine would be a fault of another class.
    relay = pair({"on": [kind], "model": "spare"}, {"timeouts": {"first_byte": "500ms"}} if fault == "silent" else {})
    found = post(relay, PATH, asking(), JSON)
    assert (found.status, content(found)) == (200, "from spare")
    assert (len(upstream.heads), len(other.heads)) == (1, 1)
    trail = (found.get("x-relayd-attempts") or b"").decode()
    assert trail.startswith(f"127.0.0.1:{upstream.port} ")
    assert trail.endswith(f", 127.0.0.1:{other.port} 200")
    record = relay.record(path=PATH.decode(), status=200)
    assert (record["upstream"], record["attempts"], record["model_there"]) == ("second", 2, "spare")
    assert record["trail"] == trail.rpartition(", ")[0]
    # What is named for another class stays with the first.
    elsewhere = next(one for one in (UNAVAILABLE, OVERLOADED, CONTEXT, REFUSED) if one != kind)
    relay.write({"routes": [{**relay.config["routes"][0], "fallbacks": [{"upstream": "second", "on": [elsewhere]}]}]})
    assert run(relay, "reload")[0] == 0
    assert post(relay, PATH, asking(), JSON).status >= 400
    assert len(other.heads) == 1
    settled(relay)


def test_a_clients_own_mistake_falls_back_nowhere(upstream: Upstream, other: Upstream, pair: Callable[..., Relay]) -> None:
    upstream.script = error(b"422 Unprocessable", message="temperature must be below 2", code="invalid_value")
    relay = pair({"on": ["any"]})
    found = post(relay, PATH, asking(), JSON)
    assert (found.status, json.loads(found.body)["error"]["code"]) == (422, "invalid_value")
    assert other.nothing_came()


@pytest.mark.parametrize("place", ["refused", "black hole", "no room", "all drained"])
def test_an_upstream_that_cannot_even_be_asked_gives_way(
    place: str, upstream: Upstream, other: Upstream, pair: Callable[..., Relay]
) -> None:
    with ExitStack() as stack:
        first: dict[str, Any] = {}
        if place == "refused":
            first = {"endpoints": [refused_url()]}
        elif place == "black hole":
            first = {"endpoints": [stack.enter_context(black_hole())], "timeouts": {"connect": "400ms"}}
        elif place == "no room":
            upstream.script = silent
            first = {"limits": {"requests": 1}}
        relay = pair({}, first)
        if place == "no room":
            holder = stack.enter_context(Client(relay.address))
            holder.send(request(PATH, JSON, method=b"POST", body=asking()))
            until(lambda: len(upstream.heads) == 1)
        if place == "all drained":
            assert run(relay, "endpoint", "drain", "up", f"127.0.0.1:{upstream.port}")[0] == 0
        assert content(post(relay, PATH, asking(), JSON)) == "from m"


def test_a_model_has_fallbacks_of_its_own_and_another_model_has_none(
    upstream: Upstream, other: Upstream, pair: Callable[..., Relay]
) -> None:
    upstream.script = error(b"500 Internal Server Error")
    relay = pair({"model": "spare"}, by="models")
    assert content(post(relay, PATH, asking(), JSON)) == "from spare"
    assert json.loads(upstream.request().body)["model"] == "mine"
    assert post(relay, PATH, asking(model="o"), JSON).status == 500
    assert len(other.heads) == 1


EARLY = {
    "role only": SSE + event({"role": "assistant", "content": ""}),
    "comment": SSE + chunk(b": keep-alive\n\n"),
    "head": SSE,
    "error event": SSE + chunk(b'data: {"error": {"message": "overloaded", "code": 503}}\n\n') + b"0\r\n\r\n",
}


@pytest.mark.parametrize("early", EARLY)
def test_a_stream_that_breaks_before_its_first_content_is_another_stream_for_the_client(
    early: str, upstream: Upstream, other: Upstream, pair: Callable[..., Relay]
) -> None:
    upstream.script = saying_then_close(EARLY[early])
    relay = pair({"on": ["any"]})
    found = post(relay, PATH, asking(stream=True), JSON)
    assert (found.status, found.complete) == (200, True)
    assert b"yes" in found.body
    assert found.body.count(b'"role"') == 1
    assert found.body.endswith(b"data: [DONE]\n\n")
    assert (len(upstream.heads), len(other.heads)) == (1, 1)


def test_a_stream_that_breaks_behind_its_first_content_is_never_replaced(
    upstream: Upstream, other: Upstream, pair: Callable[..., Relay]
) -> None:
    shown = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + event({"role": "assistant", "content": "half"}))
        shown.wait(60)
        peer.close()

    upstream.script = script
    relay = pair({"on": ["any"]}, {"retries": {"attempts": 3, "idempotent": True}})
    with Client(relay.address) as client:
        client.send(request(PATH, JSON, method=b"POST", body=asking(stream=True)))
        found = client.head_of_answer()
        shown.set()
        client.body(found, until_close=False)
    assert b"half" in found.body
    assert b"[DONE]" not in found.body
    assert not found.complete
    assert other.nothing_came()
    assert len(upstream.heads) == 1


def test_fallbacks_are_tried_in_their_order_and_the_last_error_is_told(
    upstream: Upstream, other: Upstream, folder: Path
) -> None:
    upstream.script = error(b"500 Internal Server Error")
    other.script = error(b"503 Service Unavailable", code="third_word")
    ends = {name: {"protocol": "openai_chat", "endpoints": [url]} for name, url in (
        ("up", upstream.url), ("gone", refused_url()), ("second", other.url))}
    route = {"name": "llm", "protocol": "openai_chat", "upstream": "up", "fallbacks": ["gone", "second"], "tells_attempts": True}
    with Relay(folder, upstream.url, {"upstreams": ends, "routes": [route]}) as relay:
        found = post(relay, PATH, asking(), JSON)
        assert (found.status, json.loads(found.body)["error"]["code"]) == (503, "third_word")
        trail = (found.get("x-relayd-attempts") or b"").decode().split(", ")
        assert [part.split(" ")[1] for part in trail] == ["500", "connect_failed", "503"]


# ---- keys

KEYS = ["sk-first-0123456789", "sk-second-0123456789", "sk-third-0123456789"]


@pytest.fixture
def keyed(upstream: Upstream, folder: Path) -> Iterator[Callable[..., Relay]]:
    with ExitStack() as stack:

        def start(count: int = 3, **words: Any) -> Relay:
            files = []
            for number, key in enumerate(KEYS[:count]):
                file = folder / f"key{number}"
                file.write_text(key)
                file.chmod(0o600)
                files.append({"file": str(file)})
            change = {
                "upstreams": {"up": {"protocol": "openai_chat", "endpoints": [upstream.url], "auth": {"bearer": files}, **words}},
                "routes": [{"name": "llm", "protocol": "openai_chat", "upstream": "up"}],
            }
            return stack.enter_context(Relay(folder, upstream.url, change))

        yield start


def used(upstream: Upstream) -> list[str]:
    return [(head.get("authorization") or b"").decode().removeprefix("Bearer ") for head in upstream.heads]


def by_key(bad: dict[str, Script]) -> Script:
    def script(peer: Peer, message: Message) -> None:
        key = (message.get("authorization") or b"").decode().removeprefix("Bearer ")
        bad.get(key, good)(peer, message)

    return script


def test_several_keys_take_turns(upstream: Upstream, keyed: Callable[..., Relay]) -> None:
    upstream.script = good
    relay = keyed()
    assert {post(relay, PATH, asking(), JSON).status for _ in range(6)} == {200}
    assert used(upstream) == KEYS * 2


@pytest.mark.parametrize(("status", "state"), [(b"401 No", "aside"), (b"403 No", "aside"), (b"429 Slow", "resting")])
def test_a_key_that_is_refused_is_set_aside_or_rests_and_the_request_goes_on_with_the_next(
    status: bytes, state: str, upstream: Upstream, keyed: Callable[..., Relay]
) -> None:
    upstream.script = by_key({KEYS[0]: error(status, b"Retry-After: 60", code="invalid_api_key")})
    relay = keyed(retries={"attempts": 2})
    assert {post(relay, PATH, asking(), JSON).status for _ in range(6)} == {200}
    assert used(upstream).count(KEYS[0]) == 1
    shown = upstream_of(relay)["keys"]
    assert [one["state"] for one in shown] == [state, "in_force", "in_force"]
    assert KEYS[0] not in json.dumps(shown)
    end = upstream_of(relay)["endpoints"][0]
    assert (end["breaker"], end["available"], end["resting_for_s"]) == ("closed", True, 0)
    assert (b"key_rested" if state == "resting" else b"key_set_aside") in relay.output()
    relay.write({"upstreams": {"up": {"timeouts": {"idle": "77s"}}}})
    assert run(relay, "reload")[0] == 0
    assert upstream_of(relay)["keys"][0]["state"] == state
    for key in KEYS:
        assert key.encode() not in relay.output()


@pytest.mark.parametrize("stream", [False, True])
def test_a_403_about_the_request_reaches_the_client_and_the_key_stays_in_use(
    stream: bool, upstream: Upstream, keyed: Callable[..., Relay]
) -> None:
    flagged = error(b"403 No", code="unsupported_country_region_territory", message="Country not supported")
    upstream.script = flagged
    relay = keyed(retries={"attempts": 3})
    found = post(relay, PATH, asking(stream=stream), JSON)
    told = json.loads(found.body)["error"]
    assert (found.status, told["code"], told["message"]) == (
        403, "unsupported_country_region_territory", "Country not supported")
    assert len(upstream.heads) == 1, "another key would not change the country"
    assert [one["state"] for one in upstream_of(relay)["keys"]] == ["in_force"] * 3


def test_one_bad_key_opens_no_breaker_and_the_client_learns_nothing_of_it(
    upstream: Upstream, keyed: Callable[..., Relay]
) -> None:
    upstream.script = once(*[error(b"401 No", message=f"bad key {KEYS[0]}")] * 8, good)
    relay = keyed(1, breaker={"failures": 2})
    for _ in range(8):
        found = post(relay, PATH, asking(), JSON)
        assert (found.status, json.loads(found.body)["error"]["code"]) == (502, "upstream_key_refused")
        assert KEYS[0].encode() not in found.body
    assert post(relay, PATH, asking(), JSON).status == 200


def test_when_all_keys_rest_an_upstream_with_a_breaker_says_for_how_long(
    upstream: Upstream, keyed: Callable[..., Relay]
) -> None:
    upstream.script = error(b"429 Slow", b"Retry-After: 60")
    relay = keyed(2, breaker={"failures": 5}, retries={"attempts": 2})
    assert post(relay, PATH, asking(), JSON).status == 429
    assert len(upstream.heads) == 2
    found = post(relay, PATH, asking(), JSON)
    assert found.status == 503
    assert 55 <= int(found.get("retry-after") or b"0") <= 60
    assert len(upstream.heads) == 2
