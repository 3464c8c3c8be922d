"""A memory without bounds, and shorthands for requests and streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from relayd.protocols.canon import Message, Request, Text
from relayd.protocols.dialect import Options
from relayd.protocols.ollama import DIALECT
from relayd.wire.json_steps import Steps


class Nothing:
    """A Memory that keeps nothing, and is not to: only a refusal is remembered."""

    must_fetch = False

    def get(self, key: str) -> Any:
        return None

    def get_steps(self, key: str) -> Steps[Any]:
        yield
        return self.get(key)

    def fetch_steps(self, keys: Iterable[str]) -> Steps[None]:
        yield

    def put(self, key: str, value: Any) -> None:
        raise AssertionError(key)

    def put_steps(self, key: str, value: Any) -> Steps[None]:
        yield
        self.put(key, value)

    def delete(self, key: str) -> bool:
        raise AssertionError(key)

    def lost(self, key: str) -> str:
        return ""


@pytest.fixture
def context() -> Callable[..., Request]:
    """A request whose first message says Hello, unless `messages` are given."""

    def made(*messages: Message, **members: Any) -> Request:
        members.setdefault("model", "mistral")
        return Request(messages=messages or (Message("user", (Text("Hello"),)),), **members)

    return made


@pytest.fixture
def write() -> Callable[..., dict[str, Any]]:
    """The body that a request becomes."""

    def written(request: Request, **options: Any) -> dict[str, Any]:
        assert DIALECT.write_request is not None
        sending = DIALECT.write_request(request, Options(**options), Nothing())
        assert sending.path == "/api/chat"
        body = json.loads(sending.body)
        assert isinstance(body, dict)
        return body

    return written


@pytest.fixture
def read() -> Callable[..., list[Any]]:
    """The events of an answer, fed in pieces of `size` bytes."""

    def events(request: Request, data: bytes, size: int = 1 << 20) -> list[Any]:
        assert DIALECT.reader is not None
        reader = DIALECT.reader(request, Options(), Nothing())
        found: list[Any] = []
        for position in range(0, len(data), size):
            found += reader.decode(data[position : position + size])
        found += reader.finish()
        assert reader.decode(b"{}\n") == [] and reader.finish() == []
        return found

    return events
