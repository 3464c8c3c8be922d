"""A memory without bounds, and shorthands for requests and streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from relayd.protocols.canon import Message, Request, Text
from relayd.protocols.dialect import Options
from relayd.protocols.gemini import DIALECT
from tests.aids.memories import Kept


@pytest.fixture
def memory() -> Kept:
    return Kept()


@pytest.fixture
def context() -> Callable[..., Request]:
    """A request whose first message says Hello, unless `messages` are given."""

    def made(*messages: Message, **members: Any) -> Request:
        members.setdefault("model", "gemini-3-flash")
        return Request(messages=messages or (Message("user", (Text("Hello"),)),), **members)

    return made


@pytest.fixture
def write(memory: Kept) -> Callable[..., dict[str, Any]]:
    """The body that a request becomes."""

    def written(request: Request, **options: Any) -> dict[str, Any]:
        assert DIALECT.write_request is not None
        body = json.loads(DIALECT.write_request(request, Options(**options), memory).body)
        assert isinstance(body, dict)
        return body

    return written


@pytest.fixture
def sse() -> Callable[..., bytes]:
    """A stream as Gemini sends it: CRLF, no [DONE]."""

    def stream(*frames: Any) -> bytes:
        return b"".join(b"data: " + json.dumps(frame).encode() + b"\r\n\r\n" for frame in frames)

    return stream


@pytest.fixture
def read(memory: Kept) -> Callable[..., list[Any]]:
    """The events of an answer, fed in pieces of `size` bytes."""

    def events(request: Request, data: bytes, size: int = 1 << 20, end: bool = True) -> list[Any]:
        assert DIALECT.reader is not None
        reader = DIALECT.reader(request, Options(), memory)
        found: list[Any] = []
        for position in range(0, len(data), size):
            found += reader.decode(data[position : position + size])
        if end:
            found += reader.finish()
            assert reader.decode(b"data: {}\r\n\r\n") == [] and reader.finish() == []
        return found

    return events
