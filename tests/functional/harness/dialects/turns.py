"""A WebSocket client of the Responses API: one turn after another, every event held against the grammar."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import pytest

from tests.aids.responses_grammar import read_events

TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


class Turns:
    """One connection; a context manager."""

    def __init__(self, port: int, key: str = "", path: str = "/v1/responses") -> None:
        client = pytest.importorskip("websockets.sync.client")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._connecting = client.connect(
            f"ws://127.0.0.1:{port}{path}", additional_headers=headers, proxy=None, compression=None, open_timeout=60
        )

    def __enter__(self) -> Turns:
        self.connection = self._connecting.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._connecting.__exit__(kind, fault, trace)

    def send(self, **members: Any) -> None:
        self.connection.send(json.dumps({"type": "response.create", **members}))

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.connection.recv(timeout=60))
        return event

    def events(self) -> list[dict[str, Any]]:
        """Everything up to the end of the turn."""
        found = [self.event()]
        while found[-1]["type"] not in TERMINAL:
            found.append(self.event())
        return found

    def response(self) -> dict[str, Any]:
        """The final response of a turn that kept to the grammar."""
        return read_events(self.events())

    def turn(self, **members: Any) -> dict[str, Any]:
        self.send(**members)
        return self.response()

    def refused(self, **members: Any) -> dict[str, Any]:
        """The error event of a turn that was refused."""
        self.send(**members)
        last = self.events()[-1]
        assert last["type"] == "error" and {"status", "error"} <= last.keys(), last
        assert {"code", "message"} <= last["error"].keys()
        return last


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        part.get("text", "") for item in response["output"] if item["type"] == "message" for part in item["content"]
    )
