"""Reads tokens, model, finish reason and a reported failure from a copy of a passthrough body; never changes or delays
a byte."""

from __future__ import annotations

from collections.abc import Callable

from relayd.protocols.canon import Failure
from relayd.protocols.dialect import TapFormat
from relayd.protocols.reported_failure import reported_failure
from relayd.protocols.tap import Tap, may_report_failure, observe_body
from relayd.proxy.account import record_observed
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.filter import Filter
from relayd.telemetry.outcome import Record
from relayd.wire.response import ResponseHead

_FRAME_ENDS = (b"\n\n", b"\r\n\r\n")


class TapUsage(Filter):
    """A body that arrives in one piece is read at the end; a stream is read as it passes."""

    __slots__ = (
        "_ai_request", "_format", "_length", "_response", "_search_facts", "_tail", "_tap", "_whole_body",
    )

    def __init__(self, ai_request: AiRequest, tap_format: TapFormat, response: ResponseHead) -> None:
        super().__init__()
        self._ai_request = ai_request
        self._format = tap_format
        self._response = response
        self._length = response.length if not response.coding_line else None
        # Set while all data so far are whole frames, and some further frames need not be observed.
        self._search_facts: Callable[[bytes], object] | None = None
        self._tap: Tap | None = None
        self._whole_body = self._tail = b""

    def process(self, data: bytes) -> bytes:
        """Tap a piece. Most pieces of a stream are complete frames without any data of interest."""
        search = self._search_facts
        if search is not None and search(data) is None and data.endswith(_FRAME_ENDS):
            self._tail = data
            return data
        tap = self._tap
        if tap is None:
            if self._length == len(data):
                self._whole_body = data
                return data
            tap = self._tap = Tap(self._format, self._response.coding)
        tap.observe(data)
        self._search_facts = tap.search_facts if data.endswith(_FRAME_ENDS) else None
        self._tail = data if len(data) >= 64 else self._tail[-64:] + data  # the marker may arrive in pieces
        return data

    def finish(self) -> bytes:
        """Check that a stream that ended with its connection is complete."""
        tap, response = self._tap, self._response
        if tap is None or response.length is not None or response.chunked or not response.media.is_stream:
            return b""
        # Without a length or chunks, the body ends with the connection: only its content shows if it is complete.
        if b"[DONE]" not in self._tail[-64:] and not tap.observed.finish:
            self.failure = Failure(502, "the stream ended without its final event", code="upstream_cut")
        return b""

    def reported_failure(self) -> Failure | None:
        """The error of a body or of a frame, which the client has got as it is."""
        if self._response.status >= 400:
            return None
        tap = self._tap
        if tap is None:
            if not may_report_failure(self._whole_body):
                return None
            tap = Tap(self._format)
            tap.observe(self._whole_body)
        data, is_stream = tap.possible_failure
        return reported_failure(self._ai_request.dialect, data, stream=is_stream) if data else None

    def account(self, record: Record) -> None:
        """Record tokens, finish reason and the model that served."""
        if self._tap is not None:
            record_observed(record, self._tap.observed, self._ai_request)
        elif self._whole_body:
            record_observed(record, observe_body(self._format, self._whole_body), self._ai_request)
