"""Adds the cost of a request to its response: X-Relayd-Cost in the head of a plain response, in a stream's trailer.

The body of a plain response is held until it is complete, because the cost is known only then. A body of more than
MAX_HELD_BYTES is sent chunked, with the trailer.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd.proxy.filters.filter import Filter
from relayd.wire.response import ResponseHead

MAX_HELD_BYTES = 256 * 1024
FIELD = "X-Relayd-Cost"


class CostField(Filter):
    """Behind the filters that read token counts, in front of keep-alive comments."""

    __slots__ = ("_chunks", "_cost", "_cost_text", "_held", "_held_bytes", "_holds")

    def __init__(self, cost_text: Callable[[], str], is_stream: bool, chunks: bool) -> None:
        """`cost_text` returns the value of the field, empty if the cost is unknown. `chunks`: the client can read
        chunked bodies."""
        super().__init__()
        self._cost_text, self._holds, self._chunks = cost_text, not is_stream, chunks
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._cost = ""

    def process(self, data: bytes) -> bytes:
        """Nothing while the body is held."""
        if not self._holds:
            return data
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes <= MAX_HELD_BYTES:
            return b""
        self._holds = False
        held, self._held = self._held, []
        return b"".join(held)

    def finish(self) -> bytes:
        """The held body."""
        self._cost = self._cost_text()
        held, self._held = self._held, []
        return b"".join(held)

    def head(self, response: ResponseHead) -> ResponseHead:
        """The head with the cost, or with the announcement of the trailer."""
        if self._holds:
            if self._cost:
                response.keep.append(f"{FIELD}: {self._cost}\r\n".encode())
        elif self._chunks:
            response.length = None
            response.keep.append(f"Trailer: {FIELD}\r\n".encode())
        return response

    def trailer(self) -> bytes:
        """The cost, for a response whose head was sent before."""
        return f"{FIELD}: {self._cost}\r\n".encode() if self._cost and not self._holds else b""
