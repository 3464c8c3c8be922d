"""What one exchange holds of the bound on request bodies (limits/request_buffers), and what follows from it.

The body is read no further while it waits for memory. That pause is relayd's own, so the client's limits of time do not
run meanwhile (Connection.pause_body). A refusal becomes an answer like every other one.
"""

from __future__ import annotations

from typing import Protocol

from relayd.errors import ExchangeError
from relayd.limits.request_buffers import NEVER_FITS, TOO_SLOW, WAITING, NeverFits, RequestBuffers
from relayd.limits.ticket import retry_after

MESSAGE = "daemon.request_buffers"


class Source(Protocol):
    """Where a body comes from."""

    def pause_body(self) -> None:
        """Stop reading."""

    def resume_body(self) -> None:
        """Read again."""


class Holder(Protocol):
    """Whose body it is."""

    def fail(self, fault: ExchangeError) -> None:
        """The body cannot be held."""


class BodyMemory:
    """Owned by its exchange, or by the WebSocket whose messages it counts; given back with `leave`."""

    __slots__ = ("_answer_bytes", "_buffers", "_claim", "_holder", "_paused", "_source", "body_bytes")

    def __init__(self, buffers: RequestBuffers, holder: Holder, source: Source, length: int | None) -> None:
        """`length` is what is reserved; None for a body that grows. Raises ExchangeError if it can never fit."""
        self._buffers, self._holder, self._source = buffers, holder, source
        self.body_bytes = self._answer_bytes = 0
        self._paused = False
        try:
            self._claim = buffers.open(length, self._granted, self._refused)
        except NeverFits:
            raise ExchangeError("body_too_large", f"{length} bytes are more than {MESSAGE}") from None
        if self._claim.state == WAITING:
            self._pause()

    def arrived(self, size: int) -> None:
        """So many bytes of the body are there, and more are to come."""
        self.body_bytes = size
        if not self._buffers.grow(self._claim, size):
            self._pause()

    def keep(self, size: int) -> None:
        """So many bytes of the body are kept from now on."""
        self.body_bytes = size
        self._settle()

    def answer(self, size: int) -> None:
        """So many bytes of an answer are held until it is whole."""
        self._answer_bytes = size
        self._settle()

    def leave(self) -> None:
        """Nothing is held any more."""
        self._buffers.release(self._claim)

    def _settle(self) -> None:
        self._buffers.settle(self._claim, self.body_bytes + self._answer_bytes)
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
            fault = ExchangeError("body_too_large", f"more than {MESSAGE}")
        else:
            headers = (("Retry-After", retry_after(retry_after_s)),)
            fault = ExchangeError("request_buffers_full", f"{MESSAGE}: {reason}", headers)
        self._holder.fail(fault)
