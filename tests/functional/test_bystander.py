"""Whatever one client or endpoint sends, a bystander on another connection goes on being answered.

Each attack costs relayd a good part of a second. Where it was done in one turn of the loop, the bystander got one answer
meanwhile; now it gets one per turn. What is counted are answers, so that a busy machine changes nothing.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.bystander import Bystander, Waits
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.share import Turns, least, watching
from tests.functional.harness.upstream import Peer, Script, Upstream

LEAST = 20  # answers for the bystander during one attack
MOST_SHARE = 0.1  # of the work for one reload, that may be done in one turn
WS = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
ASK = json.dumps({"model": "m", "stream": True, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}).encode()
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    return {
        "listeners": {"public": {"limits": {"requests": 0}}},
        "upstreams": {"chat": {"protocol": "openai_chat", "endpoints": [url]}},
        "routes": [
            {"name": "by", "match": {"prefix": "/by"}, "respond": {"status": 200, "body": "hallo"}},
            {"name": "admin", "match": {"prefix": "/admin"}, "upstream": "admin", "admin_prefix": "/admin"},
            {"name": "upgrade", "match": {"prefix": "/ws"}, "upstream": "up", "upgrade": True},
            {"name": "responses", "match": {"prefix": "/v1/responses"}, "protocol": "openai_responses", "upstream": "chat"},
            {"name": "chat", "match": {"prefix": "/v1/chat"}, "protocol": "openai_chat", "upstream": "chat"},
            {"name": "messages", "match": {"prefix": "/v1/messages"}, "protocol": "anthropic_messages", "upstream": "chat"},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


@pytest.fixture
def bystander(relay: Relay) -> Iterator[Bystander]:
    assert isinstance(relay.address, tuple)
    with Bystander(relay.address, "/by") as one:
        yield one


def attack(relay: Relay, data: bytes, end: bytes) -> None:
    """Send these bytes, read until `end` has come or relayd has left."""
    with relay.client() as client:
        sock = client.sock
        sender = threading.Thread(target=send, args=(sock, data), daemon=True)
        sender.start()
        sock.settimeout(60)
        seen = b""
        while end not in seen:
            came = sock.recv(1 << 20)
            if not came:
                break
            seen = (seen + came)[-len(end) - len(came) :]
        with_reset(sock)
        sender.join()


def send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        return  # relayd has left


def with_reset(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def streaming(body: bytes, coding: bytes = b"") -> Script:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n" + coding + b"\r\n"
        send(peer.sock, head + body)
        peer.close()

    return script


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def frame(data: bytes, opcode: int = 1, final: bool = True) -> bytes:
    assert len(data) < 126
    return bytes([0x80 * final | opcode, 0x80 | len(data)]) + b"\0\0\0\0" + data


LAST = b"GET /by/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /up HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
PONG = b"\x8a\x04last"


@pytest.mark.parametrize(("data", "end"), [
    (request(b"/admin/metrics") * 999 + LAST, b"\r\nConnection: close"),
    (request(b"/by") * 20_000 + LAST, b"\r\nConnection: close"),
    (request(b"/v1/nothing", b"Max-Forwards: 0", method=b"OPTIONS") * 15_000 + LAST, b"\r\nConnection: close"),
    (CHUNKED + b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n", b"\r\nConnection: close"),
    (request(b"/v1/responses", *WS) + frame(b"{}") * 4000 + frame(b"last", 9), PONG),
    (request(b"/v1/responses", *WS) + frame(b"p", 9) * 100_000 + frame(b"last", 9), PONG),
    (request(b"/v1/responses", *WS) + frame(b"x", 1, False) + frame(b"y", 0, False) * 200_000 + frame(b"last", 9), PONG),
    (request(b"/v1/responses", *WS) + frame(b"", 1, False) + frame(b"", 0, False) * 200_000 + frame(b"last", 9), PONG),
], ids=["metrics", "fixed", "options", "chunks", "messages", "pings", "fragments", "empty fragments"])
def test_a_client_does_not_hold_up_others(
    relay: Relay, upstream: Upstream, bystander: Bystander, data: bytes, end: bytes
) -> None:
    before = relay.rss_kib()
    bystander.waits()
    attack(relay, data, end)
    assert bystander.waits().answers >= LEAST
    assert relay.rss_kib() - before < 64 * 1024
    relay.wait_quiet()


EVENTS = WORD + b":\n\n" * 300_000 + b"data: {}\n\n" * 60_000


@pytest.mark.parametrize(("path", "script"), [
    (b"/v1/messages", streaming(EVENTS)),
    (b"/v1/messages", streaming(WORD * 60_000)),
    (b"/v1/messages", streaming(gzip.compress(WORD * 100_000), b"Content-Encoding: gzip\r\n")),
    (b"/v1/messages", streaming(chunked(WORD * 25_000, 1), b"Transfer-Encoding: chunked\r\n")),
    (b"/v1/chat/completions", streaming(WORD + (b":\n\n" * 4000 + b'data: {"choices":[],"usage":1}\n\n') * 2500)),
], ids=["empty events", "words", "gzip", "one-byte chunks", "marks"])
def test_an_endpoint_does_not_hold_up_others(
    relay: Relay, upstream: Upstream, bystander: Bystander, path: bytes, script: Script
) -> None:
    upstream.script = script
    before = relay.rss_kib()
    bystander.waits()
    attack(relay, request(path, b"Content-Type: application/json", b"Connection: close", method=b"POST", body=ASK), b"\0never")
    assert bystander.waits().answers >= LEAST
    assert relay.rss_kib() - before < 64 * 1024
    relay.wait_quiet()


def test_pings_of_a_client_that_reads_nothing_cost_no_memory(relay: Relay, upstream: Upstream, bystander: Bystander) -> None:
    before, sent = relay.rss_kib(), [0]

    def ping(sock: socket.socket) -> None:
        pings = frame(b"x" * 125, 9) * 500
        try:
            for _ in range(800):  # 52 MB
                sock.sendall(pings)
                sent[0] += len(pings)
        except OSError:
            return  # the test is over

    with relay.client() as client:
        client.send(request(b"/v1/responses", *WS))
        client.head_of_answer()
        client.sock.settimeout(None)
        sender = threading.Thread(target=ping, args=(client.sock,), daemon=True)
        sender.start()
        was = -1
        while sender.is_alive() and sent[0] != was:  # until relayd has stopped reading
            was, answers = sent[0], 0
            while answers < 500:
                answers += bystander.waits().answers
        assert relay.rss_kib() - before < 16 * 1024
        with_reset(client.sock)
        sender.join()
    relay.wait_quiet()


def large(kind: str, generation: int) -> dict[str, Any]:
    """Some 15,000 values of configuration, of which every entry differs from the generation before."""
    by = {"name": "by", "match": {"prefix": "/by"}, "respond": {"status": 200, "body": "hello"}}
    if kind == "regex":
        matches = [{"regex": f"/r{number}/[a-z]{{1,8}}/x{number}_{generation}"} for number in range(1500)]
        routes = [{"name": f"r{number}", "match": match, "upstream": "up"} for number, match in enumerate(matches)]
        return {"routes": [by, *routes]}
    names = [f"up{number}" for number in range(800)]
    upstreams = {name: {"endpoints": ["http://127.0.0.1:9"], "timeouts": {"connect": f"{4 + generation}s"}} for name in names}
    return {"upstreams": upstreams, "routes": [by, *({"name": name, "match": {"prefix": f"/{name}/"}, "upstream": name} for name in names)]}


@pytest.mark.parametrize("kind", ["regex", "upstreams"])
def test_a_reload_of_a_large_configuration_holds_nobody(tmp_path: Path, kind: str) -> None:
    """Compiling, comparing and opening are most of a reload. In one turn of the loop they held everybody for a fifth to
    four fifths of its time; now they are done in a thread or in steps. What is compared is one reload with itself, in CPU."""
    change = {"listeners": {"public": {"limits": {"requests": 0}}}, **large(kind, 0)}
    with Relay(tmp_path, "http://127.0.0.1:9", change, environment=watching(tmp_path)) as relay:
        assert isinstance(relay.address, tuple)
        generation = 0
        with Bystander(relay.address, "/by") as bystander:

            def reloaded() -> tuple[Waits, float]:
                nonlocal generation
                generation += 1
                relay.write(large(kind, generation))
                bystander.waits()
                turns = Turns(relay)
                assert relay.admin("/reload", "POST")[0] == 200
                longest_s, whole_s = turns.measured()
                return bystander.waits(), longest_s / whole_s

            seen, share = least(reloaded, MOST_SHARE)
    print(f"{kind}: longest turn {share:.1%}, longest waits {[round(wait * 1000) for wait in seen.longest[:5]]} ms of {seen.answers}")
    assert share < MOST_SHARE
    assert seen.answers >= LEAST
