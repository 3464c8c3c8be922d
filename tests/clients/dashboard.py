"""A relayd under load with a dashboard route: open streams, hostile texts, failures, rates, a broken endpoint."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Closed, Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

KEY = "sk-ops-0123456789abcdef"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
JSON = b"Content-Type: application/json"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 120, "completion_tokens": 45, "total_tokens": 165}
PLAIN = {"id": "c", "object": "chat.completion", "model": "small", "usage": USAGE,
         "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
PIECE = {"id": "c", "object": "chat.completion.chunk", "model": "small", "choices": [{"index": 0, "delta": {"content": "word " * 4}}]}


class Load:
    """The upstream of the demonstration: streams send a piece per second until `stop`, others are answered at once."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.pause_s = 1.0

    def script(self, peer: Peer, message: Message) -> None:
        peer.whole(message)
        if b"stream" in message.body:
            peer.send(STREAM)
            with contextlib.suppress(OSError):
                while not self.stop.is_set():
                    peer.send(chunk(b"data: " + json.dumps(PIECE).encode() + b"\n\n"))
                    self.stop.wait(self.pause_s)
                peer.send(chunk(b"data: [DONE]\n\n") + chunk(b""))
        elif b"fails" in message.body:
            peer.send(answer(json.dumps({"error": {"message": SCRIPT}}).encode(), JSON, status=b"500 Internal Server Error"))
        else:
            peer.send(answer(json.dumps(PLAIN).encode(), JSON))


def configuration(folder: Path, url: str, upstreams: int) -> dict[str, Any]:
    """The change to the default configuration. It has more upstreams than the load uses."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ops").write_text(KEY)
    (folder / "prices.yaml").write_text("currency: USD\n\"*\": {input: 2.5, output: 10}\n")
    gone = f"http://127.0.0.1:{free_port()}/v1"
    return {
        "prices": str(folder / "prices.yaml"),
        "upstreams": {
            "provider": {"protocol": "openai_chat", "endpoints": [f"{url}/v1"], "limits": {"requests": 2000, "queue": 100}},
            "broken": {"protocol": "openai_chat", "endpoints": [gone], "breaker": {"failures": 2, "open_for": "1h"},
                       "retries": {"attempts": 1}},
            **{f"spare-{number:02}": {"endpoints": [f"http://127.0.0.1:{free_port()}"]} for number in range(upstreams)},
        },
        "models": {"broken": "broken", "*": "provider"},
        "consumers": {"ops": {"key": {"file": str(folder / "ops")}, "rates": [{"requests": 100000, "per": "1h"}, {"tokens": 20000, "per": "1h"}]}},
        "routes": [
            {"name": "pages", "match": {"prefix": "/dashboard/"}, "upstream": "admin", "allow": ["ops"], "admin_write": True},
            {"name": "docs", "match": {"regex": "/openapi.json|/api/(docs|redoc)"}, "upstream": "admin"},
            {"name": "llm", "match": {"prefix": "/v1/"}, "protocol": "openai_chat", "upstream": "by_model"},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


def chat(model: str, *, stream: bool = False, text: str = "hello", key: str = "") -> bytes:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if stream:
        body["stream"] = True
    fields = [JSON, *([b"Authorization: Bearer " + key.encode()] if key else [])]
    data = json.dumps(body).encode()
    return request(b"/v1/chat/completions", *fields, b"Content-Length: %d" % len(data), method=b"POST") + data


@contextlib.contextmanager
def loaded(folder: Path, streams: int = 120, upstreams: int = 60) -> Iterator[tuple[Relay, Load]]:
    """A relayd with open streams, finished requests and failures."""
    load = Load()
    with Upstream() as upstream, contextlib.ExitStack() as open_clients:
        upstream.script = load.script
        environment = {"STATE_DIRECTORY": str(folder / "state")}
        with Relay(folder, upstream.url, configuration(folder, upstream.url, upstreams), environment=environment) as relay:
            try:
                for number in range(streams):
                    client = open_clients.enter_context(relay.client())
                    client.send(chat(SCRIPT if number == 0 else f"model-{number % 7}", stream=True))
                until(lambda: relay.exchanges() >= streams)
                for number in range(12):
                    for data in (chat("small", key=KEY), chat("broken" if number % 2 else SCRIPT, text="it fails" if number % 3 else "x")):
                        with contextlib.suppress(Closed), Client(relay.address) as client:
                            client.ask(data)
                yield relay, load
            finally:
                load.stop.set()
