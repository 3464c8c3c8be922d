"""A key that relayd adds never comes back to a client, whatever an upstream does with it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.harness.faults import get, metric, post, until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

KEY = "sk-Stored/0123+456"
ENCODED = "sk-Stored%2F0123%2B456"
AUTHS: dict[str, dict[str, Any]] = {
    "query": {"query": {"name": "key", "value": {"env": "UP_KEY"}}},
    "bearer": {"bearer": {"env": "UP_KEY"}},
    "header": {"header": {"name": "X-Api-Key", "value": {"env": "UP_KEY"}}},
}


FRONTS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "same": ("openai_chat", b"/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
    "responses": ("openai_responses", b"/v1/responses", {"model": "m", "input": "x"}),
    "messages": ("anthropic_messages", b"/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """The field X-Case chooses the route: AUTH-PROTOCOL, or the name of a front."""
    upstreams: dict[str, Any] = {"up": None}
    routes: list[dict[str, Any]] = []
    for auth, section in AUTHS.items():
        for protocol in ("plain", "openai_chat"):
            name = f"{auth}-{protocol}"
            upstreams[name] = {"endpoints": [module_upstream.url], "auth": section, "protocol": protocol}
            routes.append({"name": name, "upstream": name, "match": {"header": {"x-case": name}}, "trailers": True})
    for name, (front, _, _) in FRONTS.items():
        routes.append({"name": name, "upstream": "bearer-openai_chat", "match": {"header": {"x-case": name}}, "protocol": front})
    routes.append({"name": "tunnel", "upstream": "query-plain", "match": {"prefix": "/ws"}, "upgrade": True})
    change = {"upstreams": upstreams, "routes": routes}
    with Relay(tmp_path_factory.mktemp("keys"), module_upstream.url, change, environment={"UP_KEY": KEY}) as running:
        yield running


def case(name: str) -> bytes:
    return b"X-Case: " + name.encode()


def told_again(message: Message) -> bytes:
    """The key as the request brought it, in the spelling of the request."""
    for name in ("authorization", "x-api-key"):
        if value := message.get(name):
            return value
    return message.target.partition(b"key=")[2]


def leaks(message: Message) -> bool:
    told = [part for one in (message, *message.interim) for line in (*one.fields, *one.trailers) for part in line]
    raw = b"\n".join([message.start, *(one.start for one in message.interim), message.body, *told])
    encoded = base64.b64encode(KEY.encode()).rstrip(b"=")
    return KEY.encode() in raw or ENCODED.lower().encode() in raw.lower() or encoded in raw


def test_a_redirect_of_the_endpoints_own_url_comes_without_the_key(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b"", b"Location: http://up.example" + message.target + b"&more=1", status=b"307 Temporary Redirect"))

    upstream.script = script
    moved = get(relay, b"/old?a=%2F", case("query-plain"))
    assert ENCODED.encode() in upstream.heads[-1].target
    assert moved.status == 307 and moved.get("location") == b"http://up.example/old?a=%2F&more=1"
    assert not leaks(get(relay, b"/old", case("query-plain")))
    name = "relayd_upstream_keys_withheld_total"
    until(lambda: metric(relay, name, upstream="query-plain") == 2, what="the count")
    text = relay.error_file.read_text()
    assert text.count("key_withheld") == 1 and "where=Location" in text
    assert KEY.encode() not in relay.output() and ENCODED.encode() not in relay.output()


FIELDS = [
    b"Location: /x?k=%b", b"Content-Location: /%b", b"Link: </%b>; rel=next", b"Refresh: 0;url=/%b", b"Set-Cookie: a=%b",
    b"Alt-Svc: h3=\":443\"; x=%b", b"SourceMap: /%b", b"X-Debug: %b", b"WWW-Authenticate: Bearer error=\"%b\"", b"ETag: \"%b\"",
]


@pytest.mark.parametrize("auth", AUTHS)
@pytest.mark.parametrize("protocol", ["plain", "openai_chat"])
def test_no_field_carries_the_key(auth: str, protocol: str, relay: Relay, upstream: Upstream) -> None:
    spelling: list[bytes] = [b""]

    def script(peer: Peer, message: Message) -> None:
        key = told_again(peer.whole(message))
        spoken = {b"as sent": key, b"raw": KEY.encode(), b"base64": base64.b64encode(KEY.encode())}[spelling[0]]
        lines = [line % spoken for line in FIELDS]
        peer.send(answer(b"{}", *lines, b"X-Kept: 1", b"Content-Type: application/json", status=b"200 OK %b" % spoken))

    upstream.script = script
    name = case(f"{auth}-{protocol}")
    for way in (b"as sent", b"raw", b"base64"):
        spelling[0] = way
        for message in (
            get(relay, b"/v1/x", name), post(relay, b"/v1/chat/completions", b'{"model":"m","messages":[]}', name),
        ):
            assert message.status == 200 and message.get("x-kept") == b"1" and not leaks(message), way
            assert not set(message.names) & {b"location", b"set-cookie", b"x-debug", b"link", b"etag"}


def test_interim_heads_and_trailers_do_not_carry_it_either(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        key = told_again(peer.whole(message))
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a?key=%b>; rel=preload\r\nX-Key: %b\r\nX-Kept: 1\r\n\r\n" % (key, KEY.encode()))
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Key: %b\r\n\r\n" % key)

    upstream.script = script
    message = get(relay, b"/x", case("query-plain"))
    assert message.body == b"abc" and not leaks(message)
    (interim,) = message.interim
    assert interim.get("link") == b"</a>; rel=preload" and interim.get("x-kept") == b"1"
    assert message.trailers == [(b"X-Sum", b"1")]


def upgrading(script: Callable[[Peer, bytes, bytes], None]) -> Callable[[Peer, Message], None]:
    def play(peer: Peer, message: Message) -> None:
        accept = hashlib.sha1((message.get("sec-websocket-key") or b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        script(peer, told_again(message), base64.b64encode(accept))

    return play


ASK = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]


def test_the_head_of_a_tunnel_does_not_carry_it(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, key: bytes, accept: bytes) -> None:
        peer.send(b"HTTP/1.1 101 Yes %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\nX-Key: %b\r\n\r\nhi" % (key, accept, key))
        peer.wait_gone()

    upstream.script = upgrading(script)
    with relay.client() as client:
        client.send(request(b"/ws", *ASK))
        head = client.head_of_answer()
        assert head.status == 101 and head.get("sec-websocket-accept") and not leaks(head)


def test_a_refused_upgrade_does_not_carry_it(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, key: bytes, accept: bytes) -> None:
        peer.send(answer(b"no", b"Location: /ws?key=%b&a=1" % key, b"X-Key: " + key, status=b"302 Found"))

    upstream.script = upgrading(script)
    message = get(relay, b"/ws", *ASK)
    assert message.status == 302 and message.get("location") == b"/ws?a=1" and not leaks(message)


ERRORS = [
    *((front, stream, status) for front in FRONTS for stream in (False, True)
      for status in (b"400 Bad", b"401 No", b"429 Later", b"500 Broken")),
    ("responses", True, b"200 in the stream"), ("messages", True, b"200 in the stream"),
]  # fmt: skip


@pytest.mark.parametrize(("front", "stream", "status"), ERRORS)
def test_errors_do_not_tell_it(front: str, stream: bool, status: bytes, relay: Relay, upstream: Upstream) -> None:
    _, path, body = FRONTS[front]

    def script(peer: Peer, message: Message) -> None:
        key = told_again(peer.whole(message)).removeprefix(b"Bearer ").decode()
        error = {"error": {"message": f"Incorrect key {key} ({KEY})", "type": "bad", "param": key, "code": f"bad {key}"}}
        told = json.dumps(error).encode()
        if status.startswith(b"200"):
            peer.send(answer(b"data: " + told + b"\n\n", b"Content-Type: text/event-stream"))
        else:
            peer.send(answer(told, b"Content-Type: application/json", status=status))

    upstream.script = script
    message = post(relay, path, json.dumps({**body, "stream": stream}).encode(), b"Content-Type: application/json", case(front))
    assert not leaks(message), message.body
    assert b"Incorrect" in message.body or status.startswith((b"401", b"429"))
    identity = (message.get("x-request-id") or b"").decode()
    relay.record(id=identity)
    assert KEY.encode() not in relay.output()
