"""The share of one exchange in the memory for all request bodies (limits/request_buffers).

The body is not read while it waits for memory. The client's timeouts do not run during this pause
(Connection.pause_body). A refusal becomes an error response.
"""

from __future__ import annotations

from typing import Protocol

from relayd.errors import ExchangeError
from relayd.limits.request_buffers import NEVER_FITS, TOO_SLOW, WAITING, NeverFits, RequestBuffers
from relayd.limits.ticket import retry_after

SETTING = "daemon.request_buffers"


class BodySource(Protocol):
    """The source of a body, which can be paused."""

    def pause_body(self) -> None:
        """Stop reading the body."""

    def resume_body(self) -> None:
        """Resume reading the body."""


class BodyOwner(Protocol):
    """The owner of a body."""

    def fail(self, fault: ExchangeError) -> None:
        """There is no memory for the body."""


class BodyMemory:
    """Owned by its exchange, or by the WebSocket session whose messages it counts; freed by `release`."""

    __slots__ = ("_buffers", "_claim", "_owner", "_paused", "_response_bytes", "_source", "body_bytes")

    def __init__(self, buffers: RequestBuffers, owner: BodyOwner, source: BodySource, length: int | None) -> None:
        """`length` bytes are reserved, None for a growing body. Raises ExchangeError if `length` exceeds the limit."""
        self._buffers, self._owner, self._source = buffers, owner, source
        self.body_bytes = self._response_bytes = 0
        self._paused = False
        try:
            self._claim = buffers.open(length, self._granted, self._refused)
        except NeverFits:
            raise ExchangeError("body_too_large", f"{length} bytes are more than {SETTING}") from None
        if self._claim.state == WAITING:
            self._pause()

    def grow(self, size: int) -> None:
        """The body has grown to this size, and more is to come."""
        self.body_bytes = size
        if not self._buffers.grow(self._claim, size):
            self._pause()

    def set_body_bytes(self, size: int) -> None:
        """Set the number of bytes held for the body; no more are to come."""
        self.body_bytes = size
        self._settle()

    def set_response_bytes(self, size: int) -> None:
        """Set the number of bytes held of a response that is buffered until complete."""
        self._response_bytes = size
        self._settle()

    def release(self) -> None:
        """Free all memory."""
        self._buffers.release(self._claim)

    def _settle(self) -> None:
        self._buffers.settle(self._claim, self.body_bytes + self._response_bytes)
        self._granted()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._source.pause_body()

    def _granted(self) -> None:
        if self._paused:
            self._paused = False
            self._source.resume_body()

    def _refused(self, reason: str, retry_after_s: float) -> None:
        if reason == TOO_SLOW:
            fault = ExchangeError("request_timeout", "body too slow while other requests waited for memory")
        elif reason == NEVER_FITS:
            fault = ExchangeError("body_too_large", f"more than {SETTING}")
        else:
            headers = (("Retry-After", retry_after(retry_after_s)),)
            fault = ExchangeError("request_buffers_full", f"{SETTING}: {reason}", headers)
        self._owner.fail(fault)
