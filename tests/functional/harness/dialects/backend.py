"""A scripted back-end of one dialect: reads strictly, refuses with 400 what strict endpoints refuse, plays what is said.

Behind each is the upstream of the harness, so that what a test does to connections (cut, hang, notice who left) is real.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from tests.functional.harness.dialects.said import Asked, Brain, Fail, Say, small_model
from tests.functional.harness.message import Message, answer, chunk
from tests.functional.harness.upstream import Peer, Upstream

KEY = "key-of-the-upstream"
KEY_NAME = "SCRIPTED_UPSTREAM_KEY"  # in relayd's environment


class Refusal(Exception):
    """The request is not one that a strict endpoint takes."""


class Tongue(Protocol):
    """How one dialect is read and written at the back-end's side."""

    name: str
    base: str
    key_field: tuple[str, str]
    stream_type: str
    end: bytes

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        """The request. Raises Refusal."""

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        """The frames of a stream, without the last one that says that it is whole (`end`)."""

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        """The whole answer."""

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        """An error's body."""

    def error_frame(self, message: str) -> bytes:
        """An error in the middle of a stream."""


class Backend:
    """One endpoint; a context manager. `brain` decides on answers; `asked` and `refused` remember what came."""

    def __init__(self, tongue: Tongue, brain: Brain = small_model) -> None:
        self.tongue = tongue
        self.upstream = Upstream()
        self.fresh(brain)

    def fresh(self, brain: Brain = small_model) -> None:
        self.upstream.fresh()
        self.upstream.script = self.play
        self.brain = brain
        self.asked: list[Asked] = []
        self.bodies: list[bytes] = []
        self.refused: list[str] = []

    def __enter__(self) -> Backend:
        self.upstream.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.upstream.__exit__(kind, fault, trace)

    @property
    def section(self) -> dict[str, Any]:
        """This back-end as an entry of `upstreams:`."""
        field, prefix = self.tongue.key_field
        auth: dict[str, Any] = {"header": {"name": field, "value": {"env": KEY_NAME}}}
        if prefix:
            auth = {"bearer": {"env": KEY_NAME}}
        return {"protocol": self.tongue.name, "endpoints": [self.upstream.url + self.tongue.base], "auth": auth}

    def play(self, peer: Peer, message: Message) -> None:
        tongue = self.tongue
        body = peer.whole(message).body
        self.bodies.append(body)
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in message.fields}
        field, prefix = tongue.key_field
        if headers.get(field.lower()) != prefix + KEY:
            self.fail(peer, Fail(401, "Incorrect API key provided.", "invalid_api_key"))
            return
        other = getattr(tongue, "other", None)
        if other is not None and (whole := other(message.target.decode(), body)) is not None:
            peer.send(answer(json.dumps(whole).encode(), b"Content-Type: application/json"))
            return
        try:
            asked = tongue.read(message.target.decode(), headers, json.loads(body) if body else {})
        except (Refusal, ValueError, KeyError, TypeError, AttributeError) as refusal:
            self.refused.append(str(refusal))
            self.fail(peer, Fail(400, f"strict: {refusal}", "strict"))
            return
        self.asked.append(asked)
        reply = self.brain(asked)
        if isinstance(reply, Fail):
            self.fail(peer, reply)
        elif asked.stream:
            self.stream(peer, asked, reply)
        elif reply.breaks:
            peer.send(answer(json.dumps(tongue.plain(asked, reply)).encode(), b"Content-Type: application/json")[:-20])
            peer.reset()
            peer.open = False
        else:
            if reply.gate is not None:
                reply.gate.wait(60)
            peer.send(answer(json.dumps(tongue.plain(asked, reply)).encode(), b"Content-Type: application/json"))

    def fail(self, peer: Peer, fail: Fail) -> None:
        if fail.body is not None:
            body, kind = fail.body, fail.content_type
        else:
            body, kind = json.dumps(self.tongue.error(fail.status, fail.message, fail.code)).encode(), "application/json"
        peer.send(answer(body, b"Content-Type: " + kind.encode(), *fail.fields, status=b"%d Scripted" % fail.status))

    def stream(self, peer: Peer, asked: Asked, say: Say) -> None:
        tongue = self.tongue
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + tongue.stream_type.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.send(head)
        for number, frame in enumerate(tongue.frames(asked, say)):
            if say.gate is not None and number == say.gate_after:
                say.gate.wait(60)
            if say.breaks and number == say.frames:
                self.break_off(peer, say)
                return
            peer.send(chunk(frame))
        peer.send(chunk(tongue.end) + chunk(b"") if tongue.end else chunk(b""))

    def break_off(self, peer: Peer, say: Say) -> None:
        if say.breaks == "hangs":
            peer.wait_gone()
            peer.open = False
        elif say.breaks == "ended":
            peer.send(chunk(b""))
        elif say.breaks == "error":
            peer.send(chunk(self.tongue.error_frame("The flux is not aligned.")) + chunk(b""))
        else:
            time.sleep(0.02)  # a reset may overtake what was sent
            peer.reset()
            peer.open = False
