"""One relayd before a back-end of every dialect, with a front of every dialect: what most tests of dialects run on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.functional.harness.dialects.anthropic_backend import Anthropic
from tests.functional.harness.dialects.backend import KEY, KEY_NAME, Backend
from tests.functional.harness.dialects.chat_backend import Chat
from tests.functional.harness.dialects.fronts import Body, Front, wire
from tests.functional.harness.dialects.gemini_backend import Gemini
from tests.functional.harness.dialects.ollama_backend import Ollama
from tests.functional.harness.dialects.responses_backend import Responses
from tests.functional.harness.message import Message
from tests.functional.harness.relay import Relay, merged

BACKS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama")
THERE = {"openai_chat": "small-chat", "openai_responses": "gpt-small", "anthropic_messages": "claude-small", "gemini": "gemini-3-flash", "ollama": "small:7b"}
FRONT_ROUTES: list[dict[str, Any]] = [
    {"name": "responses", "match": {"regex": "/v1/responses(/.*)?"}, "protocol": "openai_responses", "upstream": "by_model"},
    {"name": "messages", "match": {"regex": "/v1/messages(/.*)?"}, "protocol": "anthropic_messages", "upstream": "by_model"},
    {"name": "simple", "match": {"path": "/chat"}, "protocol": "simple_chat", "upstream": "by_model"},
    *(
        {"name": f"webhook-{back}", "match": {"path": f"/{back}/webhook"}, "protocol": "dialogflow", "upstream": back}
        for back in BACKS
    ),
    {"name": "chat", "match": {"prefix": "/v1/"}, "protocol": "openai_chat", "upstream": "by_model"},
]


class Gateway:
    """`backs` by dialect; a model that is called as a dialect is served by the back-end of that dialect."""

    def __init__(self, relay: Relay, backs: Mapping[str, Backend]) -> None:
        self.relay, self.backs = relay, backs

    def fresh(self) -> None:
        for back in self.backs.values():
            back.fresh()

    def bytes_of(self, front: Front, back: str, body: Body, *lines: bytes) -> bytes:
        return wire(front, body, *lines, path=f"/{back}/webhook" if front.name == "dialogflow" else "")

    def ask(self, front: Front, back: str, body: Body, *lines: bytes) -> Message:
        """One request on a connection of its own; the answer may have broken off."""
        with self.relay.client() as client:
            return client.ask(self.bytes_of(front, back, body, *lines))

    def post(self, path: str, body: Body, *lines: bytes) -> Message:
        return self.send("POST", path, json.dumps(body).encode(), *lines)

    def send(self, method: str, path: str, body: bytes | None = None, *lines: bytes) -> Message:
        with self.relay.client() as client:
            return client.ask(request_of(method, path, body, *lines))

    def check(self) -> None:
        """Nothing reached a back-end that a strict one refuses."""
        for back in self.backs.values():
            assert not back.refused, back.refused
            assert not back.upstream.faults, back.upstream.faults


def request_of(method: str, path: str, body: bytes | None, *lines: bytes) -> bytes:
    fields = [b"Host: relayd.test", *lines]
    if body is not None:
        if not any(line.lower().startswith(b"content-type:") for line in lines):
            fields.append(b"Content-Type: application/json")
        fields.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *fields, b"", b""]) + (body or b"")


@contextmanager
def gateway(
    folder: Path, change: Mapping[str, Any] | None = None, *, strict: bool = True, routes: Sequence[dict[str, Any]] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Gateway]:
    """`change` is merged over the configuration; `routes` stand before the others.

    Not `strict`: programs whose requests pass send what no translator would.
    """
    with ExitStack() as stack:
        backs = {tongue.name: stack.enter_context(Backend(tongue)) for tongue in (Chat(strict), Anthropic(strict), Gemini(strict), Ollama(), Responses(strict))}
        config: dict[str, Any] = {
            "upstreams": {"up": None, **{name: back.section for name, back in backs.items()}},
            "models": {name: {"upstream": name, "model": THERE[name]} for name in BACKS},
            "routes": [*routes, *FRONT_ROUTES],
        }
        relay = Relay(folder, "http://127.0.0.1:1", merged(config, change or {}), environment={KEY_NAME: KEY, **(environment or {})})
        stack.enter_context(relay)
        yield Gateway(relay, backs)
