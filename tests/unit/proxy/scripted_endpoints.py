"""Scripted endpoints: one server with responses by the first path segment, which records its requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.unit.proxy.harness import Side


def http(status: int, body: bytes | dict[str, Any] = b"", *lines: str, content_type: str = "application/json") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Word", f"Content-Type: {content_type}", f"Content-Length: {len(raw)}", *lines, "", ""]
    return "\r\n".join(head).encode() + raw


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(**members: Any) -> bytes:
    """One event of a Chat stream."""
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **members}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def delta(finish: str | None = None, **members: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": members, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"


def completion(text: str, **members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **members}
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


class ScriptedEndpoints:
    """The script of a Harness's endpoint. `answers[name]` is a list of responses, used in order (the last one repeats):
    bytes to send, or a coroutine function of the side. `asked` has (name, head, body) of every request."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {name: list(given) if isinstance(given, list) else [given] for name, given in answers.items()}
        self.asked: list[tuple[str, bytes, bytes]] = []
        self.gone: list[str] = []

    async def __call__(self, side: Side) -> None:
        while True:
            head, body = await side.message()
            name = head.split(b" ", 2)[1].decode().strip("/").split("/")[0]
            self.asked.append((name, head, body))
            left = self.answers[name]
            answer: bytes | Callable[[Side], Any] = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, bytes):
                side.write(answer)
                if b"\r\nConnection: close" in answer or not answer:
                    return
            else:
                await answer(side)
                return

    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]


async def silent(side: Side) -> None:
    """Sends nothing until the other side closes."""
    await side.gone()


def in_turn(*pieces: bytes) -> tuple[list[asyncio.Event], Callable[[Side], Any]]:
    """Sends each piece when its event is set, then closes."""
    events = [asyncio.Event() for _ in pieces]

    async def answer(side: Side) -> None:
        for event, piece in zip(events, pieces, strict=True):
            await event.wait()
            side.write(piece)

    return events, answer
