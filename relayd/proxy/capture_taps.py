"""The taps of a captured exchange: on what its client sends and receives, and on the transfers of its attempts.

1. A tap copies what passes and changes nothing: neither bytes, nor their order, nor when a side is paused. A tap of an
   exchange that is not kept copies nothing.
2. `CapturingWriter` and `CapturedBody` stand in the places of the exchange's writer and body, `AttemptTap` in the place
   of the transfer's sink, so that no code of an exchange knows of them.
"""

from __future__ import annotations

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.request_buffers import RequestBuffers
from relayd.plan.plan import PlannedRoute
from relayd.proxy.attempt import Attempt
from relayd.proxy.captured import CapturedAttempt, CapturedExchange, CapturedResponse
from relayd.proxy.downstream import Downstream
from relayd.proxy.request_body import Recipient, RequestBody, Transform
from relayd.proxy.response_writer import Http1Writer, ResponseWriter
from relayd.proxy.retry_loop import AttemptResult
from relayd.upstream.transport.slot import Slot
from relayd.wire.response import ResponseHead


class CapturedBody(RequestBody):
    """A request body whose pieces are copied as they arrive from the client."""

    __slots__ = ("_captured",)

    def __init__(
        self, captured: CapturedExchange, down: Downstream, buffers: RequestBuffers, present: bool
    ) -> None:
        super().__init__(down, buffers, None, present)
        self._captured = captured

    def receive(self, piece: bytes, last: bool, recipient: Recipient | None, recipient_expected: bool) -> None:
        """Copy the piece, then receive it."""
        captured = self._captured
        if not captured.is_dropped:
            captured.body.add(piece, clock.monotonic() - captured.started_s)
        super().receive(piece, last, recipient, recipient_expected)


class TransformTap:
    """Copies what a transform makes of a streamed body, which is what the endpoint gets."""

    def __init__(self, inner: Transform, captured: CapturedExchange, attempt: CapturedAttempt) -> None:
        self._inner, self._captured, self._attempt = inner, captured, attempt

    def feed(self, data: bytes, last: bool) -> bytes:
        """Convert a piece, and copy the result. Raises ExchangeError."""
        made = self._inner.feed(data, last)
        if not self._captured.is_dropped:
            self._attempt.body.add(made, clock.monotonic() - self._captured.started_s)
        return made


class CapturingWriter:
    """A ResponseWriter that copies the response as the client gets it, without its framing."""

    __slots__ = ("_captured", "_inner")

    def __init__(self, captured: CapturedExchange, inner: ResponseWriter) -> None:
        self._captured, self._inner = captured, inner

    @property
    def started(self) -> bool:
        """See ResponseWriter."""
        return self._inner.started

    @started.setter
    def started(self, value: bool) -> None:
        self._inner.started = value

    @property
    def committed(self) -> bool:
        """See ResponseWriter."""
        return self._inner.committed

    @committed.setter
    def committed(self, value: bool) -> None:
        self._inner.committed = value

    @property
    def route(self) -> PlannedRoute | None:
        """See ResponseWriter."""
        return self._inner.route

    @route.setter
    def route(self, value: PlannedRoute | None) -> None:
        self._inner.route = value

    @property
    def request_id(self) -> bytes:
        """See ResponseWriter."""
        return self._inner.request_id

    @request_id.setter
    def request_id(self, value: bytes) -> None:
        self._inner.request_id = value

    @property
    def adds_cors(self) -> bool:
        """See ResponseWriter."""
        return self._inner.adds_cors

    @adds_cors.setter
    def adds_cors(self, value: bool) -> None:
        self._inner.adds_cors = value

    def interim(self, heads: list[ResponseHead]) -> None:
        """Pass on; attempts note the status."""
        self._inner.interim(heads)

    def head(self, response: ResponseHead) -> None:
        """Copy the head as it is rendered."""
        inner = self._inner
        inner.head(response)
        rendered = inner.pending_head if isinstance(inner, Http1Writer) else b""
        lines = rendered.split(b"\r\n")[1:-2] if rendered else [line.rstrip(b"\r\n") for line in response.keep]
        self._note_head(response.status, response.reason, lines)

    def _note_head(self, status: int, reason: bytes, lines: list[bytes]) -> None:
        captured = self._captured
        if not captured.is_dropped:
            answer = captured.response
            answer.status, answer.reason, answer.fields = status, reason.strip(), lines
            answer.begun_s = clock.monotonic() - captured.started_s

    def comment(self, data: bytes) -> None:
        """Copy and pass on."""
        self._copy(data)
        self._inner.comment(data)

    def body(self, data: bytes) -> bool:
        """Copy and pass on."""
        self._copy(data)
        return self._inner.body(data)

    def flush(self) -> bool:
        """Pass on."""
        return self._inner.flush()

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """Copy and pass on."""
        self._copy(data)
        if trailers and not self._captured.is_dropped:
            self._captured.response.trailers = [line.rstrip(b"\r\n") for line in trailers]
        self._inner.end(data, trailers)

    def _copy(self, data: bytes) -> None:
        captured = self._captured
        if data and not captured.is_dropped:
            captured.response.body.add(data, clock.monotonic() - captured.started_s)

    def close(self) -> None:
        """Pass on."""
        self._inner.close()

    def abort(self, explained: bool = False) -> None:
        """Pass on."""
        self._inner.abort(explained)

    def switch(self, head: bytes) -> None:
        """Copy the head; the bytes of a tunnel are not copied."""
        start, *lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")
        self._note_head(101, start.partition(b" ")[2].partition(b" ")[2], lines)
        self._inner.switch(head)

    def raw(self, data: bytes) -> bool:
        """Pass on."""
        return self._inner.raw(data)

    def buffered(self) -> int:
        """Bytes that are not sent to the client yet."""
        return self._inner.buffered()


class AttemptTap:
    """The sink of a transfer in the place of an attempt, to which it passes everything on."""

    __slots__ = ("_attempt", "_captured", "_exchange", "_is_last", "_seen")

    def __init__(self, exchange: CapturedExchange, captured: CapturedAttempt, attempt: Attempt) -> None:
        self._exchange, self._captured, self._attempt = exchange, captured, attempt
        self._seen = 0  # pieces in the slot that the attempt has not taken, and that are copied already

    def on_progress(self, slot: Slot) -> None:
        """Copy the new bytes, then pass them on."""
        self._copy(slot)
        self._attempt.on_progress(slot)
        self._seen = len(slot.chunks) if self._attempt.slot is slot else 0

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """Copy the rest, then pass the end on."""
        self._copy(slot)
        captured = self._captured
        if not self._exchange.is_dropped:
            captured.response.ended_s = clock.monotonic() - self._exchange.started_s
            captured.response.trailers = [line.rstrip(b"\r\n") for line in slot.trailers or ()]
            if errno or slot.protocol_error:
                captured.detail = slot.protocol_error or message
        self._attempt.on_done(slot, errno, message)
        self._seen = len(slot.chunks) if self._attempt.slot is slot else 0

    def on_broken(self) -> None:
        """Pass it on."""
        self._attempt.on_broken()

    def _copy(self, slot: Slot) -> None:
        exchange, captured = self._exchange, self._captured
        if exchange.is_dropped:
            return
        at_s = clock.monotonic() - exchange.started_s
        if slot.interim:
            captured.interim += [one.status for one in slot.interim]
        answer = captured.response
        if answer.begun_s < 0 and slot.response is not None:
            note_response(answer, slot.response, at_s)
        for piece in slot.chunks[self._seen:]:
            answer.body.add(piece, at_s)


def note_response(answer: CapturedResponse, head: ResponseHead, at_s: float) -> None:
    """Copy an endpoint's response head."""
    answer.status, answer.reason, answer.begun_s = head.status, head.reason.strip(), at_s
    answer.fields = [line.rstrip(b"\r\n") for line in head.keep]
    if head.length is not None:
        answer.fields.append(b"Content-Length: %d" % head.length)
    if head.chunked:
        answer.fields.append(b"Transfer-Encoding: chunked")


def note_result(captured: CapturedAttempt, result: AttemptResult, at_s: float) -> None:
    """Note how an attempt failed."""
    fault: ExchangeError = result.fault
    captured.fault, captured.detail = fault.kind.code, fault.detail or captured.detail
    captured.ended_s = at_s
