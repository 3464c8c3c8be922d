"""The built-in upstream `demo`: a small OpenAI-compatible API on a private Unix socket.

With it relayd runs without keys. It is reached through the real data path, by libcurl, like any other endpoint. It has
one model, whose reply explains the next steps.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from tornado.httpserver import HTTPServer  # noqa: TID251 - on a Unix socket of mode 0600, reached by relayd alone
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from relayd import clock
from relayd.server.demo_upstream import demo_spec
from relayd.server.unix_socket import ListeningUnixSocket
from relayd.upstream.spec import UpstreamSpec

MODEL = "demo"
WORDS_PER_SECOND = 20
QUOTED_CHARACTERS = 400


def reply_to(messages: list[Any]) -> str:
    """The reply of the demo to a conversation."""
    text = last_user_text(messages)
    opening = f'Hello! You said: "{text}".' if text else "Hello! You sent no message of yours, which is fine."
    return (
        f"{opening} I am the demo upstream inside relayd: these words came over a Unix socket, through curl and "
        "through your relayd, one by one. To talk to a real model, open relayd.yaml, add your provider under upstreams "
        "(endpoints and auth), name it in the route instead of demo, and run relayd reload."
    )


def last_user_text(messages: list[Any]) -> str:
    """The text of the user's last message, plain or in parts, truncated."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                texts = [part.get("text", "") for part in content if isinstance(part, dict)]
                content = " ".join(text for text in texts if isinstance(text, str))
            text = " ".join(str(content or "").split())
            return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "..."
    return ""


def usage_of(messages: list[Any], reply: str) -> dict[str, int]:
    """Token counts, with one word as one token: enough to demonstrate accounting."""
    prompt = sum(len(str(message.get("content", "")).split()) for message in messages if isinstance(message, dict))
    completion = len(reply.split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class DemoHandler(RequestHandler):
    """Errors in the format of this API. Also the handler of unknown paths."""

    def set_default_headers(self) -> None:
        self.set_header("Server", "relayd-demo")

    def compute_etag(self) -> None:
        """No ETag: each response is generated."""

    def refuse(self, status: int, message: str, code: str) -> None:
        self.set_status(status)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.finish({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.refuse(status_code, "The demo upstream cannot do that.", "demo_error")

    def prepare(self) -> None:
        if type(self) is DemoHandler:
            self.refuse(404, "The demo supports GET /v1/models and POST /v1/chat/completions.", "not_found")


class ModelsHandler(DemoHandler):
    def get(self) -> None:
        self.finish({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "relayd"}]})


class ChatHandler(DemoHandler):
    async def post(self) -> None:
        try:
            request = json.loads(self.request.body)
        except ValueError:
            return self.refuse(400, "The body is not JSON.", "invalid_json")
        messages = request.get("messages") if isinstance(request, dict) else None
        if not isinstance(messages, list):
            return self.refuse(400, "`messages` must be a list.", "invalid_messages")
        model = str(request.get("model") or MODEL)
        reply = reply_to(messages)
        self.completion = {"id": f"chatcmpl-{os.urandom(8).hex()}", "created": int(clock.wall()), "model": model}
        if request.get("stream") is True:
            options = request.get("stream_options")
            counted = isinstance(options, dict) and options.get("include_usage") is True
            await self.stream(reply, usage_of(messages, reply) if counted else None)
        else:
            message = {"role": "assistant", "content": reply}
            self.finish({
                **self.completion,
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage_of(messages, reply),
            })

    async def stream(self, reply: str, usage: dict[str, int] | None) -> None:
        """Stream the reply word by word, the first one immediately, until the client leaves."""
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        try:
            await self.chunk({"role": "assistant", "content": ""})
            for number, token in enumerate(reply.split()):
                if number:
                    await asyncio.sleep(1 / WORDS_PER_SECOND)
                await self.chunk({"content": f" {token}" if number else token})
            await self.chunk({}, "stop")
            if usage is not None:
                await self.event({**self.completion, "object": "chat.completion.chunk", "choices": [], "usage": usage})
            self.write("data: [DONE]\n\n")
            await self.flush()
        except StreamClosedError:
            return

    async def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        await self.event({**self.completion, "object": "chat.completion.chunk", "choices": [choice]})

    async def event(self, value: dict[str, Any]) -> None:
        self.write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n")
        await self.flush()


class DemoServer:
    """The demo upstream and its socket. The daemon starts it if a route names it."""

    def __init__(self, path: str) -> None:
        """Bind the socket and serve. Raises OSError."""
        self.path = path
        self._socket = ListeningUnixSocket(path, "0600")
        handlers: list[Any] = [
            ("/v1/models/?", ModelsHandler),
            ("/v1/chat/completions/?", ChatHandler),
            (".*", DemoHandler),
        ]
        self._server = HTTPServer(Application(handlers, log_function=lambda handler: None), idle_connection_timeout=120)
        self._socket.serve(self._server)

    @property
    def spec(self) -> UpstreamSpec:
        return demo_spec(self.path)

    def close(self) -> None:
        self._server.stop()
        self._socket.close()
