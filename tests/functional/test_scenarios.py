"""Every shape of a route against every behaviour of an endpoint: what the client gets, what is recorded, what is left.

One table, BEHAVIOURS, says what must be seen. It has two columns, because two kinds of client are promised two things:
a client of opaque bytes gets the endpoint's own response, a client of an AI dialect one that its SDK can read. Between
the shapes of one kind nothing may differ but what the shape is for: retries, fallbacks and spare endpoints may turn a
failure that nobody has seen into the response of another endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.functional.harness.faults import refused_url, settled, upstream_of
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Script, Upstream

CHAT = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}).encode()
MESSAGE = json.dumps({
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "well"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 2},
}).encode()
JSON = b"Content-Type: application/json"
ERROR = b'{"error":{"message":"The flux is not aligned.","type":"x","code":"odd"}}'
ANTHROPIC_ERROR = b'{"type":"error","error":{"type":"odd","message":"The flux is not aligned."}}'


@dataclass(frozen=True)
class Shape:
    """A route with its upstream. `dialect` is the endpoint's: empty for opaque bytes. `replaces`: a failure that was
    not shown is replaced by the neighbour's response, for these methods."""

    name: str
    path: bytes
    upstream: dict[str, Any]
    route: dict[str, Any] = field(default_factory=dict)
    dialect: str = ""
    translated: bool = False
    replaces: tuple[str, ...] = ()


RETRIES = {"attempts": 2, "backoff": "1ms", "idempotent": True, "on": ["connect", "closed", "malformed", "timeout", "5xx", "429"],
           "budget": {"minimum": 1000}}
SHORT = {"first_byte": "1s", "idle": "300ms"}
KINDS = ("", "dead", "impatient")  # of an upstream; the last is for silent endpoints, as a busy machine makes all of them late
SHAPES = [
    Shape("plain", b"/plain/x", {}),
    Shape("limits", b"/limits/x", {"limits": {"requests": 8, "queue": 8}}),
    Shape("breaker", b"/breaker/x", {"breaker": {"failures": 1000}}),
    Shape("retries", b"/retries/x", {"retries": RETRIES}, replaces=("GET", "POST")),
    Shape("fallbacks", b"/fallbacks/x", {}, {"fallbacks": [{"upstream": "neighbour", "on": ["any"]}]}, replaces=("GET", "POST")),
    Shape("mirror", b"/mirror/x", {}, {"mirror": {"upstream": "quiet"}}),
    Shape("passing", b"/passing/v1/chat/completions", {"protocol": "openai_chat"}, dialect="chat"),
    Shape("passing_limits", b"/passing_limits/v1/chat/completions",
          {"protocol": "openai_chat", "limits": {"requests": 8, "queue": 8}, "breaker": {"failures": 1000}}, dialect="chat"),
    Shape("messages_to_chat", b"/messages_to_chat/v1/messages", {"protocol": "openai_chat"},
          {"protocol": "anthropic_messages"}, dialect="chat", translated=True),
    Shape("responses_to_chat", b"/responses_to_chat/v1/responses", {"protocol": "openai_chat"},
          {"protocol": "openai_responses"}, dialect="chat", translated=True),
    Shape("chat_to_messages", b"/chat_to_messages/v1/chat/completions", {"protocol": "anthropic_messages"},
          {"protocol": "openai_chat"}, dialect="messages", translated=True),
]
NAMES = [shape.name for shape in SHAPES]


@dataclass(frozen=True)
class Seen:
    """What must be seen: the client's status (0: the connection breaks off without a response), whether its response is
    complete, the code in the access record, and whether it counts as the endpoint's failure."""

    status: int
    complete: bool = True
    code: str = ""
    failure: bool = False


@dataclass(frozen=True)
class Behaviour:
    """How an endpoint behaves, and what follows for clients of opaque bytes and for clients of a dialect."""

    name: str
    opaque: Seen
    dialect: Seen


def whole(shape: Shape) -> bytes:
    return MESSAGE if shape.dialect == "messages" else CHAT


def error_body(shape: Shape) -> bytes:
    return ANTHROPIC_ERROR if shape.dialect == "messages" else ERROR


def refusing(status: bytes, *lines: bytes) -> Any:
    return lambda shape: answer(error_body(shape), JSON, *lines, status=status)


def cut(where: str) -> Any:
    def data(shape: Shape) -> bytes:
        text = answer(whole(shape), JSON)
        head = text.index(b"\r\n\r\n") + 4
        return {"head": text[: head - 10], "behind the head": text[:head], "body": text[: head + 20]}[where]

    return data


def interim(shape: Shape) -> bytes:
    return b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(whole(shape), JSON)


def trailers(shape: Shape) -> bytes:
    body = whole(shape)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\nX-End: yes\r\n\r\n" % (len(body), body)


BYTES: dict[str, Any] = {
    "ok": lambda shape: answer(whole(shape), JSON),
    "empty": lambda shape: answer(b"", JSON),
    "html": lambda shape: answer(b"<html>", b"Content-Type: text/html"),
    "no http": lambda shape: b"nonsense\r\n\r\n",
    "103": interim, "trailers": trailers,
    **{str(status): refusing(b"%d Word" % status) for status in (400, 401, 403, 404, 422, 500, 501)},
    "429": refusing(b"429 Slow"), "503": refusing(b"503 Busy"),
    "cut in the head": cut("head"), "cut behind the head": cut("behind the head"), "cut in the body": cut("body"),
}
CLOSES = ("no http", "cut in the head", "cut behind the head", "cut in the body")
BEHAVIOURS = [
    Behaviour("ok", Seen(200), Seen(200)),
    Behaviour("103", Seen(200), Seen(200)),
    Behaviour("trailers", Seen(200), Seen(200)),
    Behaviour("empty", Seen(200), Seen(502, code="upstream_unreadable", failure=True)),
    Behaviour("html", Seen(200), Seen(502, code="upstream_unreadable", failure=True)),
    *[Behaviour(str(status), Seen(status), Seen(status)) for status in (400, 401, 403, 404, 422, 501)],
    Behaviour("429", Seen(429), Seen(429)),
    Behaviour("500", Seen(500, failure=True), Seen(500, failure=True)),
    Behaviour("503", Seen(503, failure=True), Seen(503, failure=True)),
    Behaviour("no http", *[Seen(502, code="upstream_malformed", failure=True)] * 2),
    Behaviour("cut in the head", *[Seen(502, code="upstream_closed", failure=True)] * 2),
    Behaviour("cut behind the head", *[Seen(502, code="upstream_cut", failure=True)] * 2),
    Behaviour("cut in the body", *[Seen(502, code="upstream_cut", failure=True)] * 2),
    Behaviour("silent", *[Seen(504, code="first_byte_timeout", failure=True)] * 2),
    Behaviour("refused", *[Seen(502, code="connect_failed", failure=True)] * 2),
]
SENDINGS = ("GET", "POST", "POST chunked")


def script_for(behaviour: str, shape: Shape) -> Script:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if behaviour == "silent":
            peer.wait_gone()
            return
        if behaviour in CLOSES:
            peer.send_and_close(BYTES[behaviour](shape))
        else:
            peer.send(BYTES[behaviour](shape))

    return script


NEIGHBOUR = Upstream()  # what answers instead of a failed endpoint, and takes mirrored requests


def name_of(shape: Shape, kind: str) -> str:
    """The name of a shape's upstream and route of this kind."""
    return f"{shape.name}-{kind}" if kind else shape.name


def path_of(shape: Shape, kind: str) -> bytes:
    return b"/" + kind.encode() + shape.path if kind else shape.path


def config(folder: Path, url: str) -> dict[str, Any]:
    refused = refused_url()
    upstreams: dict[str, Any] = {"neighbour": {"endpoints": [NEIGHBOUR.url]}, "quiet": {"endpoints": [NEIGHBOUR.url]}}
    routes: list[dict[str, Any]] = []
    for shape in SHAPES:
        for kind in KINDS:
            name = name_of(shape, kind)
            ends = [{"url": refused if kind == "dead" else url, "priority": 0}]
            if shape.name == "retries":
                ends.append({"url": NEIGHBOUR.url, "priority": 1})
            timeouts = SHORT if kind == "impatient" else {}
            upstreams[name] = {"breaker": {"failures": 1000}, "timeouts": timeouts, "endpoints": ends, **shape.upstream}
            prefix = f"/{kind}/{shape.name}" if kind else f"/{shape.name}"
            routes.append({
                "name": name, "match": {"prefix": f"{prefix}/"}, "strip_prefix": prefix, "upstream": name, "trailers": True,
                **shape.route,
            })
    return {"upstreams": {"up": None, **upstreams}, "routes": routes}


CONFIG = config


@pytest.fixture(scope="session", autouse=True)
def neighbour() -> Iterator[None]:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(CHAT, JSON))

    NEIGHBOUR.script = script
    with NEIGHBOUR:
        yield


@pytest.fixture(autouse=True)
def nothing_is_left(relay: Relay) -> Iterator[None]:
    yield
    settled(relay)
    for one in json.loads(relay.admin("/upstreams")[1])["upstreams"]:
        for end in one["endpoints"]:
            if not end["available"]:  # an endpoint that answered 429 cools down
                relay.admin(f"/upstreams/{one['name']}/endpoints/{quote(end['address'], safe='')}/breaker/reset", "POST")


def body_of(shape: Shape) -> bytes:
    if shape.name.startswith("responses"):
        return b'{"model":"m","input":"hi","store":false}'
    return b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}'


def send(relay: Relay, shape: Shape, sending: str, kind: str) -> Message:
    path = path_of(shape, kind)
    if sending == "GET":
        data = request(path)
    elif sending == "POST":
        data = request(path, JSON, method=b"POST", body=body_of(shape))
    else:
        body = body_of(shape)
        head = request(path, JSON, b"Transfer-Encoding: chunked", method=b"POST")
        data = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with relay.client() as client:
        client.send(data)
        return client.answer(data.split(b" ", 1)[0])


@pytest.mark.parametrize(("shape", "sending"), [
    pytest.param(shape, sending, id=f"{shape.name}-{sending}")
    for shape in SHAPES for sending in SENDINGS if not (shape.dialect and sending == "GET")
])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=[one.name for one in BEHAVIOURS])
def test_a_scenario(shape: Shape, behaviour: Behaviour, sending: str, relay: Relay, upstream: Upstream) -> None:
    kind = {"refused": "dead", "silent": "impatient"}.get(behaviour.name, "")
    upstream.script = script_for(behaviour.name, shape)
    name = name_of(shape, kind)
    before = upstream_of(relay, name)["endpoints"][0]["failures"]
    found = send(relay, shape, sending, kind)
    wanted = behaviour.dialect if shape.dialect else behaviour.opaque
    record = relay.record(id=(found.get("x-request-id") or b"").decode())
    failed = upstream_of(relay, name)["endpoints"][0]["failures"] - before

    if wanted.failure:
        assert failed >= 1, "the endpoint failed"
    else:
        assert failed == 0, "the endpoint did nothing wrong"
    if (wanted.failure or behaviour.name == "429") and sending.split()[0] in shape.replaces:
        assert (found.status, found.complete, record["attempts"], record["code"]) == (200, True, 2, ""), repr(record)
        return
    assert (found.status, found.complete, record["code"]) == (wanted.status, wanted.complete, wanted.code), repr(record)
    assert record["status"] == found.status and record["upstream"] == name
    if found.status >= 400 and shape.dialect:
        assert b"message" in found.body and json.loads(found.body), "an error that an SDK can read"
    if found.status == 200 and behaviour.name == "ok" and not shape.translated:
        assert found.body == whole(shape)
    if behaviour.name == "trailers" and not shape.dialect:
        assert found.trailers == [(b"X-End", b"yes")]


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORDS = {
    "chat": b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
            b'"delta":{"content":"half"},"finish_reason":null}]}\n\n',
    "messages": b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message",'
                b'"role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,'
                b'"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
                b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
                b'"content_block":{"type":"text","text":""}}\n\n'
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
                b'"delta":{"type":"text_delta","text":"half"}}\n\n',
}


@pytest.mark.parametrize("end", ["closed", "reset", "silent", "malformed"])
@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_a_stream_that_breaks_never_looks_complete(shape: Shape, end: str, relay: Relay, upstream: Upstream) -> None:
    words = WORDS["messages" if shape.dialect == "messages" else "chat"]

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(STREAM + b"%x\r\n%b\r\n" % (len(words), words))
        seen.get(timeout=60)
        if end == "closed":
            peer.close()
        elif end == "reset":
            peer.reset()
            peer.open = False
        elif end == "malformed":
            peer.send(b"zz\r\n")
            peer.wait_gone()
        else:
            peer.wait_gone()

    upstream.script = script
    seen = upstream.left
    body = body_of(shape).replace(b'{"model"', b'{"stream":true,"model"')
    path = path_of(shape, "impatient" if end == "silent" else "")
    with relay.client() as client:
        client.send(request(path, JSON, method=b"POST", body=body))
        found = client.head_of_answer()
        while b"half" not in client.buffer:
            assert client.fill()
        seen.put(0.0)
        client.body(found, until_close=True)
    assert found.status == 200 and b"half" in found.body
    assert b"message_stop" not in found.body and b"response.completed" not in found.body
    assert shape.name.startswith("responses") or b"[DONE]" not in found.body
    record = relay.record(id=(found.get("x-request-id") or b"").decode())
    assert record["code"] in ("upstream_cut", "upstream_closed", "idle_timeout", "upstream_malformed"), record
    if shape.dialect:
        assert b"error" in found.body or b"response.failed" in found.body, "the stream's own dialect says so"
    else:
        assert not found.complete


@pytest.mark.parametrize("lines", [(), (b"Content-Length: 0",)], ids=["bare", "length 0"])
@pytest.mark.parametrize("shape", ["plain", "limits", "retries", "fallbacks"])
def test_an_upgrade_is_tunnelled_whatever_the_shape(
    shape: str, lines: tuple[bytes, ...], module_upstream: Upstream, tmp_path: Path
) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := peer.read_some():
            peer.send(data.upper())

    one = next(each for each in SHAPES if each.name == shape)
    change = config(tmp_path, module_upstream.url)
    change["routes"] = [{**route, "upgrade": True} for route in change["routes"]]
    module_upstream.fresh()
    module_upstream.script = script
    with Relay(tmp_path, module_upstream.url, change) as relay, relay.client() as client:
        client.send(request(one.path, b"Connection: Upgrade", b"Upgrade: echo", *lines))
        assert client.head_of_answer().status == 101
        client.send(b"hello")
        assert client.take(5) == b"HELLO"


def test_one_clients_own_429_rests_no_endpoint_for_the_others(module_upstream: Upstream, tmp_path: Path) -> None:
    """The route passes the client's own key: what the endpoint says of it is between the two."""
    change = {
        "upstreams": {"up": {"protocol": "openai_chat", "breaker": {"failures": 1}}},
        "routes": [{"name": "all", "match": {"prefix": "/"}, "upstream": "up", "pass_client_key": True}],
    }
    module_upstream.fresh()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if message.get("authorization") == b"Bearer greedy":
            peer.send(answer(ERROR, JSON, b"Retry-After: 60", status=b"429 Slow"))
        else:
            peer.send(answer(CHAT, JSON))

    module_upstream.script = script
    with Relay(tmp_path, module_upstream.url, change) as relay:
        def ask(key: bytes) -> int:
            with relay.client() as client:
                return client.ask(request(
                    b"/v1/chat/completions", JSON, b"Authorization: Bearer " + key, method=b"POST",
                    body=b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')).status

        assert [ask(b"greedy"), ask(b"modest"), ask(b"greedy")] == [429, 200, 429]
