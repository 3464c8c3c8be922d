"""What one exchange holds of the bound on request bodies (limits/request_buffers), and what follows from it.

The body is read no further while it waits for memory. That pause is relayd's own, so the client's limits of time do not
run meanwhile (Connection.pause_body). A refusal becomes an answer like every other one.
"""

from __future__ import annotations

from typing import Protocol

from relayd.errors import ExchangeError
from relayd.limits.request_buffers import NEVER_FITS, TOO_SLOW, WAITING, NeverFits, RequestBuffers
from relayd.limits.ticket import retry_after

SETTING = "daemon.request_buffers"


class BodySource(Protocol):
    """Where a body comes from."""

    def pause_body(self) -> None:
        """Stop reading."""

    def resume_body(self) -> None:
        """Read again."""


class BodyOwner(Protocol):
    """Whose body it is."""

    def fail(self, fault: ExchangeError) -> None:
        """The body cannot be held."""


class BodyMemory:
    """Owned by its exchange, or by the WebSocket whose messages it counts; given back with `release`."""

    __slots__ = ("_buffers", "_claim", "_owner", "_paused", "_response_bytes", "_source", "body_bytes")

    def __init__(self, buffers: RequestBuffers, owner: BodyOwner, source: BodySource, length: int | None) -> None:
        """`length` is what is reserved; None for a body that grows. Raises ExchangeError if it can never fit."""
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
        """So many bytes of the body are there, and more are to come."""
        self.body_bytes = size
        if not self._buffers.grow(self._claim, size):
            self._pause()

    def set_body_bytes(self, size: int) -> None:
        """So many bytes of the body are kept from now on."""
        self.body_bytes = size
        self._settle()

    def set_response_bytes(self, size: int) -> None:
        """So many bytes of an answer are held until it is whole."""
        self._response_bytes = size
        self._settle()

    def release(self) -> None:
        """Nothing is held any more."""
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
            fault = ExchangeError("request_timeout", "the body came too slowly while others waited for memory")
        elif reason == NEVER_FITS:
            fault = ExchangeError("body_too_large", f"more than {SETTING}")
        else:
            headers = (("Retry-After", retry_after(retry_after_s)),)
            fault = ExchangeError("request_buffers_full", f"{SETTING}: {reason}", headers)
        self._owner.fail(fault)
