"""Sends an answer from the cache to the client: a stream in the pieces in which it came, another one with its length.

1. One turn of the loop sends at most PIECES_AT_ONCE pieces or BYTES_AT_ONCE bytes.
2. A slow client holds the replay: nothing is sent until it has taken what was sent. The body is counted with the
   buffered bodies while it is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from relayd.limits.request_buffers import FREE_BYTES
from relayd.proxy.cached_answer import CachedAnswer
from relayd.proxy.exchange import Exchange
from relayd.wire.response import ResponseHead

PIECES_AT_ONCE, BYTES_AT_ONCE = 64, 64 * 1024


class CachedReplay:
    """Owned by its exchange, as `local`."""

    __slots__ = ("_cancel_timer", "_exchange", "_is_held", "_pieces", "_release")

    queued = 0  # the request body was read before
    read_at = 0.0

    def __init__(self, exchange: Exchange, found: CachedAnswer) -> None:
        self._exchange = exchange
        self._pieces: Iterator[bytes] | None = found.pieces()
        self._is_held = False
        self._cancel_timer: Callable[[], None] | None = None
        self._release: Callable[[], None] | None = None
        if len(found.body) > FREE_BYTES:
            self._release = exchange.gateway.buffers.retain(len(found.body))

    def begin(self, head: ResponseHead) -> None:
        """Send the head and the first pieces."""
        exchange = self._exchange
        exchange.local = self
        exchange.enter("transfer")
        exchange.writer.head(head)
        self._send()

    def _send(self) -> None:
        self._cancel_timer = None
        pieces, writer, sent_bytes = self._pieces, self._exchange.writer, 0
        if pieces is None:
            return
        for _ in range(PIECES_AT_ONCE):
            piece = next(pieces, None)
            if piece is None:
                self._exchange.complete("relayd")
                return
            has_capacity = writer.body(piece)
            if self._pieces is None:  # the writer has found that the client left
                return
            if not has_capacity:
                self._is_held = True
                return
            sent_bytes += len(piece)
            if sent_bytes >= BYTES_AT_ONCE:
                break
        self._cancel_timer = self._exchange.call_later(0.0, self._send)

    def unhold(self) -> None:
        """The client can receive more."""
        if self._is_held:
            self._is_held = False
            self._send()

    def feed(self, piece: bytes, last: bool) -> None:
        """The request body was read before."""

    def close(self) -> None:
        """The exchange is over."""
        self._pieces = None
        if self._cancel_timer is not None:
            cancel, self._cancel_timer = self._cancel_timer, None
            cancel()
        if self._release is not None:
            release, self._release = self._release, None
            release()
