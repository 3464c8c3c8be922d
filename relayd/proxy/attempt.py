"""One attempt: one request to one endpoint. Its response goes through filters to a writer. The only sink of a transfer.

    SENDING -> FORWARDING | READING_ERROR (when the response head has arrived) -> ENDED

1. The attempt holds a lease (endpoint, key, breaker permit), and releases it with a classification in the turn of the
   loop in which it ends.
2. It ends in exactly one of three ways: the response is complete; the attempt failed before the response was committed
   (the owner gets its result, and the client got nothing); or it failed afterwards. `cancel` ends it without a report.
3. The buffer of an error body is bounded (proxy/error_response.py): a larger body is forwarded unread, unless it is
   in another dialect than the client's or may contain a key of relayd; then it is discarded.
4. If the transfer fails before the response is committed, the client gets nothing of it, even if a part of the body had
   arrived.
"""

from __future__ import annotations

from typing import Protocol

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.protocols.canon import Failure, Request
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.body_memory import BodyOwner
from relayd.proxy.error_response import ErrorBody, classify_failure, classify_response, fault_of, read_error_response
from relayd.proxy.filters.chain import NO_FILTERS, chain_for, invalid_answer, reported_failure
from relayd.proxy.filters.keepalive import KeepAlive, takes_comments
from relayd.proxy.filters.translate import redact_keys
from relayd.proxy.request_body import RequestBody
from relayd.proxy.response_writer import ResponseWriter
from relayd.proxy.retry_loop import AttemptResult
from relayd.upstream.classify import UNPROCESSED, Classification
from relayd.upstream.lease import Lease
from relayd.upstream.spec import Timeouts
from relayd.upstream.transport.faults import AFTER_HANDSHAKE
from relayd.upstream.transport.pool import pool_of
from relayd.upstream.transport.slot import PARSED_TURN, Slot
from relayd.wire.response import ResponseHead

SENDING, FORWARDING, READING_ERROR, ENDED = range(4)


class AttemptOwner(BodyOwner, Protocol):
    """The creator of the attempt, which receives its result."""

    def relocate(self, head: ResponseHead, attempt: Attempt) -> None:
        """An interim response arrived; the owner may rewrite its URLs."""

    def attempt_begins_response(self, attempt: Attempt, head: ResponseHead) -> None:
        """The response is about to be committed. The owner may add fields to its head."""

    def reads_error(self, classification: Classification) -> bool:
        """True if the next step may depend on the body of an error response."""

    def attempt_completed(self, attempt: Attempt) -> None:
        """The response is complete and written."""

    def attempt_failed(self, attempt: Attempt, result: AttemptResult) -> None:
        """The attempt failed, and the client got nothing of its response."""

    def attempt_broke(self, attempt: Attempt, fault: ExchangeError, failure: Failure | None) -> None:
        """The attempt failed after its response was committed."""


class Attempt:
    """Owned by its creator. `slot` is None before the start and after the end. `filters` are those of the response."""

    __slots__ = (
        "_ai_request", "_body", "_buffered_bytes", "_canonical", "_client_key", "_error_body", "_last_progress_s",
        "_new_connection", "_owner", "_state", "_unacknowledged", "_upload_abandoned", "classification", "filters",
        "keepalive", "lease", "may_retry", "reported", "response", "slot", "started_s", "target", "translated",
        "writer",
    )

    def __init__(
        self, owner: AttemptOwner, target: Target, lease: Lease, writer: ResponseWriter, body: RequestBody,
        ai_request: AiRequest | None = None, canonical: Request | None = None, may_retry: bool = False,
        client_key: bool = False, keepalive_s: float = 0.0,
    ) -> None:
        """`canonical` is the translated request, None in passthrough. `may_retry`: another attempt could follow.
        `client_key`: the client's own key was forwarded. `keepalive_s`: the silence, in seconds, after which a comment
        is sent if the response of a route without a dialect is an event stream; 0 disables comments."""
        self._owner, self.target, self.lease, self.writer, self._body = owner, target, lease, writer, body
        self._ai_request, self._canonical = ai_request, canonical
        self.may_retry, self._client_key = may_retry, client_key
        self.translated = canonical is not None
        self.keepalive = KeepAlive(keepalive_s) if keepalive_s else None
        self.filters = NO_FILTERS
        self._state = SENDING
        self._error_body: ErrorBody | None = None
        self._buffered_bytes = self._unacknowledged = 0
        self._new_connection = False
        self._upload_abandoned = False
        self.slot: Slot | None = None
        self.response: ResponseHead | None = None
        self.classification: Classification | None = None
        self.reported: ExchangeError | None = None  # of a complete response, which has told the client itself
        self.started_s = self._last_progress_s = clock.monotonic()

    def start(
        self, method: bytes, wire_target: bytes, fields: list[bytes], payload: bytes | None, length: int | None,
        *, new_connection: bool = False,
    ) -> None:
        """Send the request. `payload` is the whole body, None without a body or for a streamed one. `length` is None
        without a body, -1 if unknown. `new_connection`: do not reuse a connection."""
        self._new_connection = new_connection
        pool = pool_of(self.lease.endpoint)
        slot = self.slot = pool.acquire(method, length is not None)
        if self._ai_request is not None:
            slot.turn = PARSED_TURN
        pool.start(slot, self, method, wire_target, fields, length, payload, new_connection=new_connection)
        if length is not None and payload is None:
            self._body.attach(slot)

    # ---- the transport's side

    def on_progress(self, slot: Slot) -> None:
        """The transfer received bytes, or can take more of the request body."""
        if slot is not self.slot:
            return
        response, body = slot.response, self._body
        if response is not None:  # interim heads do not extend first_byte
            self._last_progress_s = clock.monotonic()
        if body.paused:
            body.on_drained(slot)
        if body.memory is not None:
            body.recount(slot)
        if slot.interim:
            self._forward_interim(slot.interim)
            slot.interim = []
        if response is None:
            return
        if self._state == SENDING and not self._on_response_head(slot, response):
            return
        if slot.chunks or slot.unfinished:
            if not self._receive(slot, response):
                slot.hold = True
        elif self._state == FORWARDING and not self.writer.committed and self._may_send_head(response):
            self._commit(response)
            if not self.writer.flush():
                slot.hold = True
        if self._upload_abandoned and self.slot is slot:
            self._finish_without_upload(slot, response)

    def _forward_interim(self, heads: list[ResponseHead]) -> None:
        for head in heads:
            self._owner.relocate(head, self)
        self.writer.interim(heads)

    def abandon_upload(self) -> bool:
        """The client will not complete the request body, but the response has started. libcurl would wait for the body
        even after the response is complete: if the response length is known, the attempt ends with its last byte."""
        self._upload_abandoned = True
        if self.slot is not None:
            self.slot.unfinished = True  # the last byte may have arrived already: checked in a later turn
            self.slot.driver.reschedule(self.slot)
        return True

    def _finish_without_upload(self, slot: Slot, response: ResponseHead) -> None:
        if not self.filters:
            slot.unfinished = False
        if slot.unfinished or slot.paused or response.length is None or slot.received() < response.length:
            return
        if self._state == READING_ERROR:
            self._finish_error(slot, response)
        elif self.filters:
            self._finish_filtered(slot, response)
        else:
            self._complete(slot, response, response, b"")

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer has ended, successfully or not."""
        if slot is not self.slot:
            return
        response = slot.response
        if errno or response is None or slot.protocol_error:
            self._on_transfer_failure(slot, errno, message)
            return
        if slot.interim:
            self._forward_interim(slot.interim)
            slot.interim = []
        if self._state == SENDING and not self._on_response_head(slot, response):
            return
        if self._state == READING_ERROR:
            self._buffer_error(slot)
            if self._state == READING_ERROR:
                self._finish_error(slot, response)
            if self._state == ENDED:
                return
        if self.filters:
            data = self._filter(slot, response) if slot.chunks or slot.unfinished else b""
            if self.slot is slot and not slot.unfinished:
                self._finish_filtered(slot, response, data)
            elif data:  # the driver calls again
                slot.hold = not self._send(response, data)
            return
        chunks, slot.chunks = slot.chunks, []
        self._complete(slot, response, response, chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def on_broken(self) -> None:
        """One of the calls above raised: a fault of relayd itself. The transfer is cancelled already."""
        self._release(None)
        self._owner.attempt_broke(self, ExchangeError("internal"), None)

    # ---- the response head

    def _on_response_head(self, slot: Slot, response: ResponseHead) -> bool:
        """Choose the state and the filters for this response. Returns False if the attempt has ended."""
        self.response = response
        ai_request, status = self._ai_request, response.status
        if status >= 400:
            if ai_request is not None or (self.may_retry and self._owner.reads_error(self._classify("", response))):
                self._state, self._error_body = READING_ERROR, ErrorBody()
                return True
        else:
            if self.lease.permit:
                self.lease.answered()  # ends a half-open probe now: the body may take hours
            if ai_request is not None and status < 300:
                fault = invalid_answer(ai_request, response)
                if fault is not None:
                    self._fail(fault)
                    return False
                self.filters = chain_for(
                    ai_request, self.target, self._canonical, response, self.may_retry, self.lease.endpoint.key_filter
                )
            if self.keepalive is not None and takes_comments(response):
                self.filters = (*self.filters, self.keepalive)
        self._state = FORWARDING
        return True

    def _may_send_head(self, response: ResponseHead) -> bool:
        """True if the head may be sent before the body: a stream may be silent for long."""
        if not self.filters:
            return True
        return not self.translated and response.media.is_stream and not any(filter_.holds for filter_ in self.filters)

    def _commit(self, response: ResponseHead) -> None:
        """Commit the response: the client gets content of this attempt, and no other attempt may follow."""
        slot, writer = self.slot, self.writer
        self.may_retry = False
        self._canonical = None
        if slot is not None:
            slot.forget_body()
        if not writer.started:
            head = response
            for filter_ in self.filters:
                head = filter_.head(head)
            self._owner.attempt_begins_response(self, head)
            writer.head(head)
        else:
            self._owner.attempt_begins_response(self, response)

    # ---- the response body

    def _receive(self, slot: Slot, response: ResponseHead) -> bool:
        """Forward received pieces. Returns False if the client is slow."""
        if self._state == READING_ERROR:
            self._buffer_error(slot)
            return True
        if self.filters:
            data = self._filter(slot, response)
            if not data:
                return True
        else:
            chunks, slot.chunks = slot.chunks, []
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if not self.writer.committed:
            self._commit(response)
        return self.writer.body(data)

    def _send(self, response: ResponseHead, data: bytes) -> bool:
        """Send an output of the filters. Returns False if the client is slow."""
        if not self.writer.committed:
            self._commit(response)
        return self.writer.body(data)

    def _filter(self, slot: Slot, response: ResponseHead) -> bytes:
        """Pass received pieces through the filters. Returns what is to be sent; empty if a filter reported a failure,
        which is handled."""
        chunks, slot.chunks = slot.chunks, []
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self.translated and not response.media.is_stream:  # the renderer needs the whole body
            self._buffered_bytes += len(data)
            self._body.count_response(self._buffered_bytes, self._owner)
        slot.unfinished = False
        for filter_ in self.filters:
            data = filter_.process(data)
            if filter_.failure is not None:
                self._on_body_failure(slot, response, filter_.failure, data)
                return b""
            if filter_.unfinished:
                slot.unfinished = True
        if data and (ai_request := self._ai_request) is not None:
            ai_request.last_piece = data
            if ai_request.first_content_s < 0:
                ai_request.first_content_s = clock.monotonic()
        return data

    def _on_body_failure(self, slot: Slot, response: ResponseHead, failure: Failure, data: bytes) -> None:
        """The body reports a failure. `data` is the output of the filters: content that is rendered already is sent
        before the error."""
        if not self.writer.committed:
            if self._ai_request is None or not self._ai_request.content_rendered:
                self._fail(fault_of(failure), failure=failure)
                return
            self._commit(response)
        if data:
            self.writer.body(data)
        if self.slot is slot:
            self._fail(fault_of(failure), failure=failure)

    def _finish_filtered(self, slot: Slot, response: ResponseHead, data: bytes = b"") -> None:
        """Finish the filters, and complete the response. `data` is their output that has not been sent."""
        rest = b""
        for filter_ in self.filters:
            rest = filter_.process(rest) if rest else b""
            if filter_.failure is None:
                rest += filter_.finish()
            if filter_.failure is not None:
                if data:
                    self._send(response, data)
                self._on_body_failure(slot, response, filter_.failure, rest)
                return
            if filter_.unfinished:
                slot.unfinished = True
        if rest and (ai_request := self._ai_request) is not None:
            ai_request.last_piece = rest
            if ai_request.first_content_s < 0:
                ai_request.first_content_s = clock.monotonic()
        data += rest
        if slot.unfinished:  # the driver calls again
            if data:
                slot.hold = not self._send(response, data)
            return
        head = response
        for filter_ in self.filters:
            head = filter_.head(head)
        self._complete(slot, response, head, data)

    def _complete(self, slot: Slot, response: ResponseHead, head: ResponseHead, data: bytes) -> None:
        """Complete the response: its last bytes are sent together with the end of the framing."""
        writer = self.writer
        trailers = slot.trailers if head is response and writer.route is not None and writer.route.trailers else None
        for filter_ in self.filters:
            if line := filter_.trailer():
                trailers = [*(trailers or ()), line]
        if not writer.committed:
            self.may_retry = False
            self._owner.attempt_begins_response(self, head)
            if not writer.started:
                writer.head(head)
        failure = reported_failure(self.filters, self.lease.endpoint.key_filter) if self.filters else None
        self.reported = None if failure is None else fault_of(failure)
        self._release(self._classify("", response, failure))
        writer.end(data, trailers)
        self._owner.attempt_completed(self)

    # ---- error responses

    def _buffer_error(self, slot: Slot) -> None:
        """Buffer the body of an error response. A body too large for an error object is forwarded or discarded."""
        assert self._error_body is not None and slot.response is not None
        pieces, slot.chunks = slot.chunks, []
        if not self._error_body.add(pieces):
            if self._ai_request is not None and (self.translated or self.lease.endpoint.key_filter is not None):
                self._error_body.pieces = []
                self._finish_error(slot, slot.response)
                return
            self._state = FORWARDING
            slot.chunks, self._error_body = self._error_body.pieces, None
            if not self._receive(slot, slot.response):
                slot.hold = True

    def _finish_error(self, slot: Slot, response: ResponseHead) -> None:
        assert self._error_body is not None
        body, self._error_body = b"".join(self._error_body.pieces), None
        self._owner.relocate(response, self)
        failure = None
        if self.target.dialect is not None and self._ai_request is not None:
            failure, decoded = read_error_response(self.target.dialect, response, body)
            if decoded is not None or self.lease.endpoint.key_filter is not None:  # else only the client can decode it
                body = decoded or b""
        self._fail(ExchangeError("upstream_refused", f"status {response.status}"), response, body, failure)

    # ---- endings

    def _on_transfer_failure(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer failed. A committed response gets the remaining received bytes, then an incomplete end."""
        response = slot.response
        if response is not None and self.writer.committed and slot.chunks and self._state == FORWARDING:
            self._receive(slot, response)
            if self.slot is not slot:
                return
        self._fail(slot.fault(errno, message), was_sent=errno in AFTER_HANDSHAKE)

    def fail(self, fault: ExchangeError) -> None:
        """End the attempt because a timeout has expired."""
        self._fail(fault)

    def _fail(
        self, fault: ExchangeError, response: ResponseHead | None = None, body: bytes = b"",
        failure: Failure | None = None, was_sent: bool = False,
    ) -> None:
        """`was_sent`: a part of the request may have reached the endpoint, regardless of the fault's code."""
        slot = self.slot
        if self._state == ENDED:
            return
        keys = self.lease.endpoint.key_filter
        if keys is not None:  # errors of an endpoint are shown and logged
            fault = ExchangeError(fault.kind.code, keys.text(fault.detail), fault.headers, fault.message)
            body = keys.body(body)
            failure = None if failure is None else redact_keys(keys, failure)
        if failure is not None or response is not None:
            classification = self._classify("", response, failure)
        elif fault.kind.code == "upstream_unprocessed" and not self._new_connection:
            classification = UNPROCESSED
        else:
            classification = self._classify(fault.kind.code, None)
        sent = was_sent or not fault.kind.retryable
        replayable = True
        if slot is not None:
            if self._body.present and not slot.read_at:
                sent = False
            replayable = self._body.detach(slot)
        committed = self.writer.committed
        self._release(classification)
        if committed:
            self._owner.attempt_broke(self, fault, failure)
        else:
            result = AttemptResult(fault, classification, response, body, failure, sent, replayable, self.translated)
            self._owner.attempt_failed(self, result)

    def cancel(self, code: str = "") -> None:
        """End the attempt without a report. `code` is the reason if it may concern the endpoint, else empty."""
        if self._state != ENDED:
            status = 0 if self.response is None else self.response.status
            self._release(self.lease.classify(code, status) if code else None)

    def _release(self, classification: Classification | None) -> None:
        """Release the transfer and the lease."""
        self._state = ENDED
        self.classification = classification
        slot, self.slot = self.slot, None
        if slot is not None:
            slot.pool.release(slot)
        self.lease.release(classification)

    def _classify(self, code: str, response: ResponseHead | None, failure: Failure | None = None) -> Classification:
        if failure is not None:  # of an error response, or of a body behind status 200
            in_stream = response is None or response.status < 400
            return classify_failure(self.lease, failure, client_key=self._client_key, in_stream=in_stream)
        return classify_response(self.lease, code, response, client_key=self._client_key)

    # ---- the sweep

    def expired(self, now_s: float, timeouts: Timeouts, per_attempt_s: float) -> ExchangeError | None:
        """The error of an expired timeout or a withdrawn address, None if the attempt may go on."""
        if (slot := self.slot) is None:
            return None
        if slot.response is None:
            if self.lease.is_withdrawn and not slot.reached():
                return ExchangeError("connect_failed", "the address was removed before the connection was established")
            if per_attempt_s and now_s - self.started_s > per_attempt_s:
                code = "first_byte_timeout" if slot.reached() else "connect_timeout"
                return ExchangeError(code, f"{per_attempt_s:g} s for one attempt")
            if self._body.present:  # an endpoint that takes a long body, however slowly, is at work
                buffered_bytes, self._unacknowledged = self._unacknowledged, slot.unacknowledged()
                if buffered_bytes != self._unacknowledged:
                    self._last_progress_s = now_s
            since_s = max(self._last_progress_s, slot.read_at)
            if timeouts.first_byte_s and not slot.read_paused and now_s - since_s > timeouts.first_byte_s:
                return ExchangeError("first_byte_timeout", f"{timeouts.first_byte_s:g} s")
        elif slot.hold:
            self._last_progress_s = now_s  # the client is the slow side
        elif timeouts.idle_s and now_s - max(self._last_progress_s, slot.read_at) > timeouts.idle_s:
            return ExchangeError("idle_timeout", f"{timeouts.idle_s:g} s")
        return None

    def unhold(self) -> None:
        """Resume the transfer: the client has drained its buffer."""
        slot = self.slot
        if slot is not None:
            if slot.response is not None:
                self._last_progress_s = clock.monotonic()
            slot.unhold()

    def discard_response(self, writer: ResponseWriter) -> None:
        """Continue without the client: the remaining response goes to this writer."""
        self.writer = writer
        self.may_retry = False
        if self.slot is not None:
            self.slot.unhold()

    def buffered(self) -> int:
        """Bytes buffered here, in both directions."""
        slot = self.slot
        if slot is None:
            return 0
        error_bytes = 0 if self._error_body is None else self._error_body.size_bytes
        return slot.insize + slot.queued + self._buffered_bytes + error_bytes
