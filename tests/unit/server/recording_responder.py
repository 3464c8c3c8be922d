"""A Responder that records the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relayd.wire.response import ResponseHead


class RecordingResponder:
    """The client's side of one request to an application. `has_room`: the return value for each piece."""

    def __init__(self) -> None:
        self.response: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.has_room = True
        self.superseded = self.ended = self.failed = False

    @property
    def written(self) -> bytes:
        return b"".join(self.pieces)

    def head(self, response: ResponseHead) -> None:
        assert self.response is None
        self.response = response

    def body(self, data: bytes) -> bool:
        assert not self.ended
        self.pieces.append(data)
        return self.has_room

    def end(self, data: bytes = b"") -> None:
        assert not self.ended
        self.pieces.append(data)
        self.ended = True

    def fail(self) -> None:
        self.failed = True

    def resume_body(self) -> None:
        """Nothing to resume: the body is never paused."""

    def is_superseded(self) -> bool:
        return self.superseded


def later(delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
    """The next turn of the loop."""
    return asyncio.get_running_loop().call_later(delay_s, callback).cancel
