"""Clients with nasty bodies and aborts in every phase, on both sides: afterwards nothing is left behind.

RELAYD_SOAK_SECONDS and RELAYD_SOAK_CLIENTS make it longer and larger (`make soak`: 300 seconds, 200 clients), and it
tells the figures: exchanges, memory, descriptors, and beside which requests a bystander waited longest.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.functional.harness.bystander import Bystander, Waits
from tests.functional.harness.message import Closed, Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

SECONDS = float(os.environ.get("RELAYD_SOAK_SECONDS", "20"))
CLIENTS = int(os.environ.get("RELAYD_SOAK_CLIENTS", "12"))
LEAST_DESCRIPTORS = 26  # of a relayd that has nothing to do
MOST_LEFT_KIB = 64 * 1024  # what malloc keeps levels off below it, some 100 MiB in all with 200 clients; a leak does not


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    timeouts = {"connect": "1s", "first_byte": "500ms", "idle": "500ms"}
    dialects = {"messages": "anthropic_messages", "responses": "openai_responses", "chat": "openai_chat"}
    return {
        "upstreams": {
            "up": {"timeouts": timeouts},
            "few": {"endpoints": [url], "timeouts": timeouts, "limits": {"requests": 4, "queue": 64, "queue_timeout": "400ms"}},
            "again": {"endpoints": [url], "timeouts": timeouts, "retries": {"attempts": 2, "backoff": "5ms"}},
            "llm": {"protocol": "openai_chat", "endpoints": [url], "timeouts": timeouts},
            "gemini": {"protocol": "gemini", "endpoints": [url], "timeouts": timeouts},
        },
        "models": {"g*": "gemini", "*": "llm"},
        "listeners": {"public": {"timeouts": {"body": "500ms", "header": "500ms"}, "limits": {"requests": 0}}},
        "routes": [
            {"name": "by", "match": {"path": "/by"}, "respond": {"status": 200, "body": "hallo"}},
            {"name": "up", "match": {"prefix": "/up"}, "upstream": "up", "upgrade": True},
            {"name": "few", "match": {"prefix": "/few"}, "upstream": "few"},
            {"name": "again", "match": {"prefix": "/again"}, "upstream": "again", "fallbacks": ["up"]},
            *(
                {"name": name, "match": {"prefix": f"/{name}/"}, "protocol": protocol, "upstream": "by_model", "strip_prefix": f"/{name}"}
                for name, protocol in dialects.items()
            ),
            {"name": "all", "upstream": "up"},
        ],
    }  # fmt: skip


OK = b"HTTP/1.1 200 OK\r\n"
WORD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def play(peer: Peer, message: Message) -> None:
    """Misbehaves as the target says; the chance lies with the client. What has no such target is a model's answer."""
    kind = message.target.rsplit(b"/", 1)[1]
    if kind == b"early":
        peer.send(answer(b"no", status=b"401 Unauthorized"))
        peer.close()
        return
    peer.whole(message)
    if not message.complete and message.framing:
        peer.close()
    elif kind == b"silent":
        peer.wait_gone(2)
        peer.close()
    elif kind == b"cut":
        peer.send(OK + b"Content-Length: 1000\r\n\r\nabc")
        peer.close()
    elif kind == b"reset":
        peer.reset()
    elif kind == b"garbage":
        peer.send(b"\x00\x01garbage\r\n\r\n")
        peer.close()
    elif kind == b"big":
        peer.send(answer(b"x" * 1_000_000))
    elif kind == b"stream":
        stream(peer, [b"data: x\n\n"] * 20)
    elif kind == b"tunnel" and message.get("upgrade"):
        peer.send(OK.replace(b"200 OK", b"101 X") + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
        while data := peer.read_some(2):
            peer.send(data)
        peer.close()
    elif kind == b"completions":
        stream(peer, [WORD] * 20 + [END], b"Content-Type: text/event-stream\r\n")
    else:
        peer.send(answer(message.body or b"hello"))


def stream(peer: Peer, pieces: list[bytes], fields: bytes = b"") -> None:
    peer.send(OK + fields + b"Transfer-Encoding: chunked\r\n\r\n")
    for piece in pieces:
        peer.send(chunk(piece))
        time.sleep(0.002)
    peer.send(b"0\r\n\r\n")


KINDS = (b"plain", b"plain", b"plain", b"early", b"silent", b"cut", b"reset", b"garbage", b"big", b"stream", b"stream", b"tunnel")
ROUTES = (b"/x/", b"/x/", b"/few/", b"/again/")
FRONTS = (b"/messages/v1/messages", b"/responses/v1/responses", b"/chat/v1/chat/completions")


def body(model: str, content: str, more: str = "") -> bytes:
    """A request that is one of Chat and of Messages alike; of Responses with `input`."""
    said = f'[{{"role":"user","content":{content}}}]'
    return f'{{"model":"{model}","max_tokens":9,"stream":true,"messages":{said},"input":{said}{more}}}'.encode()


NASTY: dict[str, bytes] = {
    "a short one": body("m", '"hi"'),
    "one for Gemini": body("g", '"hi"'),
    "100,000 keys": body("m", '"hi"', "," + ",".join(f'"k{number}":1' for number in range(100_000))),
    "one key often": body("m", '"hi"', ',"k":1' * 200_000),
    "many small values": body("m", '"hi"', ',"metadata":{"a":[' + '[],{},"a",' * 100_000 + "1]}"),
    "quotation marks": b'{"model":"m","a":' + b'"' * 2_000_000,
    "escapes": body("m", '"' + "\\n" * 1_000_000 + '"'),
    "deep lists": body("m", '"hi"', ',"metadata":{"a":' + "[" * 60 + "]" * 60 + "}"),
    "too deep": body("m", '"hi"', ',"metadata":{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "many items": body("m", '"hi"', ',"tools":[' + ",".join(['{"type":"function"}'] * 50_000) + "]"),
    "many parts": body("m", "[" + ",".join(['{"type":"text","text":"a"}'] * 50_000) + "]"),
    "a large text": body("m", '"' + "x" * 4_000_000 + '"'),
    "no UTF-8": body("m", '"hi"').replace(b"hi", b"\xff" * 300_000),
    "a long number": body("m", '"hi"', ',"a":' + "1" * 1_000_000),
    "a schema that leads to itself": body("g", '"hi"', ',"response_format":' + json.dumps({"type": "json_schema", "json_schema": {
        "name": "f", "schema": {"$ref": "#/$defs/F", "$defs": {"F": {"properties": {
            name: {"type": "array", "items": {"$ref": "#/$defs/F"}} for name in ("and", "or", "not")}}}}}})),
}  # fmt: skip


class Traffic:
    """What the clients did: how many turns, of which kinds, and which of them were under way at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kinds: Counter[str] = Counter()
        self.spans: list[tuple[float, float, str]] = []

    def add(self, began_s: float, kind: str) -> None:
        with self.lock:
            self.kinds[kind] += 1
            self.spans.append((began_s, time.monotonic(), kind))

    def is_enough(self) -> bool:
        """Whether every kind took part, and as many as a slow machine does in the time; a busy one needs longer."""
        with self.lock:
            return self.kinds.total() > SECONDS * 5 and self.kinds.keys() >= {kind.decode() for kind in KINDS}

    def beside(self, waits: Waits) -> str:
        """What was under way during the longest wait of the bystander."""
        began, ended = waits.worst_began_s, waits.worst_began_s + waits.worst
        found = Counter(kind for start, stop, kind in self.spans if start < ended and stop > began and kind in NASTY)
        return ", ".join(f"{kind} ({count})" for kind, count in found.most_common(4)) or "no nasty body"


def one(relay: Relay, dice: random.Random, traffic: Traffic) -> None:
    """One client: some requests on one connection, one of which may be left in any phase."""
    nasty = dice.random() < 0.3
    kind = dice.choice(KINDS)
    with relay.client() as client:
        client.sock.settimeout(5)
        for _ in range(1 if nasty else dice.randint(1, 4)):
            name, began_s = (dice.choice(list(NASTY)) if nasty else kind.decode()), time.monotonic()
            if nasty:
                data = request(dice.choice(FRONTS), b"Content-Type: application/json", method=b"POST", body=NASTY[name])
            elif kind == b"tunnel":
                data = request(b"/up/tunnel", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x") + b"ping"
            elif dice.random() < 0.5:
                data = request(dice.choice(ROUTES) + kind, method=b"POST", body=b"y" * dice.choice((0, 10, 100_000, 400_000)))
            else:
                data = request(dice.choice(ROUTES) + kind)
            if dice.random() < 0.3:
                data = data[: dice.randrange(1, len(data))]
            try:
                client.send(data)
                how = dice.random()
                if how < 0.2:
                    client.reset()
                    return
                if how < 0.4:
                    client.read_some(dice.uniform(0.001, 0.05))
                    return
                if kind == b"tunnel" and not nasty:
                    client.head()
                    client.take(4)
                    return
                client.answer()
            finally:
                traffic.add(began_s, name)


def storm(relay: Relay, seconds: float, seed: int, traffic: Traffic, enough: Callable[[], bool] = lambda: True) -> None:
    """Clients at work for so long, and until it is enough."""
    deadline = time.monotonic() + seconds

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < deadline or not enough():
            try:
                one(relay, dice, traffic)
            except (OSError, Closed):
                pass

    threads = [threading.Thread(target=work, args=(seed + number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ZERO = (
    "relayd_proxy_exchanges", "relayd_proxy_streams", "relayd_queue_depth", "relayd_queue_in_flight", "relayd_buffers_used",
    "relayd_buffers_waiting", "relayd_upstream_exchanges", "relayd_listener_connections",
)  # fmt: skip


def gauges_above_zero(relay: Relay) -> Iterator[str]:
    status, text = relay.admin("/metrics")
    assert status == 200
    lines = [line for line in text.decode().splitlines() if line.startswith(ZERO)]
    assert {name for name in ZERO if any(line.startswith(name) for line in lines)} >= set(ZERO[:2]), text[:2000]
    for line in lines:
        if float(line.rpartition(" ")[2]) and "admin" not in line:
            yield line


def settle(relay: Relay, upstream: Upstream) -> None:
    """Until relayd says that nothing is under way."""
    relay.wait_quiet()
    upstream.drop_idle()
    end = time.monotonic() + 60
    while found := list(gauges_above_zero(relay)):
        assert time.monotonic() < end, found
        time.sleep(0.2)


def level_kib(relay: Relay) -> int:
    """The memory once it falls no more: relayd gives it back when it has been quiet for a while (server/heap_trim)."""
    lowest_kib, looks = relay.rss_kib(), 0
    while looks < 10:
        time.sleep(0.3)
        now_kib = relay.rss_kib()
        looks = looks + 1 if now_kib >= lowest_kib else 0
        lowest_kib = min(lowest_kib, now_kib)
    return lowest_kib


def test_nasty_bodies_and_aborts_on_both_sides_leave_nothing_behind(relay: Relay, upstream: Upstream) -> None:
    upstream.script = play
    traffic = Traffic()
    assert isinstance(relay.address, tuple)
    with Bystander(relay.address, "/by") as bystander:
        storm(relay, SECONDS / 3, 1000, traffic)
    settle(relay, upstream)
    rss_kib = level_kib(relay)
    with Bystander(relay.address, "/by") as bystander:
        bystander.waits()
        storm(relay, SECONDS * 2 / 3, 2000, traffic, traffic.is_enough)
        waits = bystander.waits()
    settle(relay, upstream)
    upstream.fresh()
    end = time.monotonic() + 60
    while relay.descriptors() > LEAST_DESCRIPTORS:  # libcurl looks for kept connections that died when it has work
        assert time.monotonic() < end, [os.readlink(entry.path) for entry in os.scandir(f"/proc/{relay.pid}/fd")]
        time.sleep(0.3)
        with relay.client() as client:
            client.ask(request())
    more_kib = level_kib(relay) - rss_kib
    nasty = sum(count for kind, count in traffic.kinds.items() if kind in NASTY)
    print(f"{CLIENTS} clients, {traffic.kinds.total()} exchanges, {nasty} with nasty bodies, all gauges zero, "
          f"{relay.descriptors()} descriptors, memory {rss_kib // 1024} MiB and then {more_kib / 1024:+.1f} MiB")  # fmt: skip
    print(f"the bystander got {waits.answers} answers; its longest waits were "
          f"{', '.join(f'{wait * 1000:.0f} ms' for wait in waits.longest[:5])}, the longest beside: {traffic.beside(waits)}")  # fmt: skip
    assert more_kib < MOST_LEFT_KIB
    with relay.client() as client:
        assert client.ask(request()).status == 200
