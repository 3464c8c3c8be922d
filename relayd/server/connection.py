"""One client connection: parses bytes into request heads and bodies, carries one exchange at a time, writes bytes back.

Laws:
1. Only wire/http1.py parses a request. Pipelined bytes behind it are buffered, bounded, until its response has ended.
2. Only `send` writes: directly to the socket while no write is pending, otherwise through IOStream.
3. Every state has a timeout, which the listener's sweep enforces. Slow trickling of bytes resets none of them.
4. One loop turn handles one request or a bounded piece of a body. Buffered bytes behind it go through the work queue.
5. After a client's end of stream, pending bytes and responses without an endpoint are delivered, and with `half_close`
   all responses; else it is gone.
6. Rejecting a request of uncertain framing ends the connection; unread bytes are drained first (RFC 9112 9.6).
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from tornado.iostream import StreamClosedError

from relayd import clock
from relayd.config.listener import ListenerTimeouts
from relayd.errors import ExchangeError
from relayd.protocols.dialect import Memory
from relayd.proxy.exchange import Exchange
from relayd.proxy.gateway import Gateway
from relayd.server.body_rate import NO_BODY, BodyRate
from relayd.server.delivery import Delivery
from relayd.server.stream import ClientStream, TlsClientStream
from relayd.wire.chunked import ChunkedDecoder, ChunkedError
from relayd.wire.forwarded import Networks
from relayd.wire.http1 import HeadLimits, RequestHead, early_refusal, parse_head
from relayd.work_queue import WorkQueue

LOG = logging.getLogger("relayd.connection")
HIGH = PIPELINED = 64 * 1024
CHUNKS, DRAIN_BYTES, DRAIN_S = 1024, 1024 * 1024, 5.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD, BODY, WAIT, TUNNEL, CLOSING, LINGER, CLOSED = range(7)


class ListenerContext(Protocol):
    """The part of a listener that its connections use."""

    name: str
    gateway: Gateway
    limits: HeadLimits
    timeouts: ListenerTimeouts
    networks: Networks
    trailer_bytes: int
    max_requests: int
    half_close: bool

    @property
    def work(self) -> WorkQueue: ...

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has closed."""

    def tls_failed(self, peer: str, error: BaseException | None) -> None:
        """Report a connection that ended during its TLS handshake."""


class Connection:
    """A Downstream. Its listener owns it until it is closed."""

    socket_memory: Memory | None = None
    __slots__ = (
        "_body_paused", "_buffer", "_chunks", "_client_eof", "_continue_due", "_delivery", "_keep_alive",
        "_pending_writes", "_rate", "_remaining", "_requests", "_resume_due", "_scanned", "_since",
        "_state", "_stream", "client_certificate", "exchange", "forwarding_cache", "listener", "networks", "owner",
        "peer", "tls", "trusted",
    )

    def __init__(
        self, stream: ClientStream | TlsClientStream, owner: ListenerContext, peer: str, trusted: bool, tls: bool
    ) -> None:
        self.owner, self.listener, self.networks = owner, owner.name, owner.networks
        self.peer, self.trusted, self.tls = peer, trusted, tls
        self.exchange: Exchange | None = None
        self.forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
        self._stream, self.client_certificate = stream, stream.client_certificate
        self._state, self._buffer = HEAD, b""
        self._scanned = self._remaining = self._requests = self._pending_writes = 0
        self._chunks: ChunkedDecoder | None = None
        self._keep_alive = self._body_paused = self._resume_due = self._client_eof = self._continue_due = False
        self._since = clock.monotonic()
        self._rate = NO_BODY
        self._delivery: Delivery | None = None  # set while writes are pending
        stream.set_close_callback(self._on_close)
        stream.on_end, stream.on_early_end = self._on_end, self._on_early_end
        stream.begin(self._on_data)

    # ---- reading

    def _on_data(self, data: bytes) -> None:
        try:
            if self._state != HEAD:
                self._dispatch(data)
            else:
                if not self._buffer:
                    self._since = clock.monotonic()
                self._buffer = self._buffer + data if self._buffer else data
                if not self._resume_due:
                    self._parse_next()
                if len(self._buffer) > PIPELINED and self._must_wait():
                    self._stream.pause()
            if self._stream.has_unread_end:
                self._on_early_end()
        except Exception:  # rescue door: an internal fault ends one connection, never the process
            LOG.exception("connection of listener %s", self.listener)
            self.end("internal")

    def _dispatch(self, data: bytes) -> None:
        state = self._state
        if state == WAIT:
            self._buffer += data
            if len(self._buffer) > PIPELINED:
                self._stream.pause()
        elif state == BODY:
            self._since = clock.monotonic()
            self._rate.received += len(data)
            self._on_body(data)
        elif state == TUNNEL:
            if self.exchange is not None:
                self.exchange.upload(data, False)
        elif state == LINGER:
            self._remaining -= len(data)
            if self._remaining < 0:
                self._close()

    def _must_wait(self) -> bool:
        """True if buffered bytes must wait: for the current response, for a later loop turn, or for a slow client."""
        return self._state == WAIT or self._resume_due or (self._pending_writes > 0 and self._stream.backlog() > HIGH)

    def _schedule_resume(self) -> None:
        """Handle the buffered bytes in a later loop turn."""
        if not self._resume_due:
            self._resume_due = True
            self.owner.work.put(self._on_resume)

    def _on_resume(self) -> None:
        self._resume_due = False
        self._on_data(b"")
        if self._client_eof and self._state == HEAD and not self._must_wait():
            self._close_when_written()
        self._resume_reading()

    def _resume_reading(self) -> None:
        """Read from the client, unless bytes received earlier must be handled first."""
        idle = self._body_paused or self._resume_due or self._client_eof or self._stream.reading_enabled
        if idle or self._state == CLOSED:
            return
        if self._state not in (HEAD, WAIT) or len(self._buffer) <= PIPELINED or not self._must_wait():
            self._stream.resume()

    def _parse_next(self) -> None:
        """Parse one whole request from the buffer. `finished` schedules the next one."""
        if self._pending_writes and self._must_wait():
            return
        buffer = self._buffer
        if buffer.startswith(b"\r\n") and self._scanned == 0:
            buffer = self._buffer = buffer[2:]  # RFC 9112 2.2: at most one empty line
            self._scanned = -1
            if not buffer:
                return
        end = buffer.find(b"\r\n\r\n", self._scanned - 3 if self._scanned > 3 else 0)
        limits = self.owner.limits
        if end < 0:
            refusal = early_refusal(buffer, limits)
            if refusal is not None:
                self._refuse(refusal)
            elif buffer != b"\r":
                self._scanned = len(buffer)
            return
        self._scanned = 0
        try:
            head = parse_head(buffer[: end + 4], limits)
        except ExchangeError as refusal:
            self._refuse(refusal)
            return
        self._start_exchange(head, buffer[end + 4 :])

    def _start_exchange(self, head: RequestHead, remainder: bytes) -> None:
        """Start the exchange of this head. `remainder`: the bytes received behind it."""
        self._requests += 1
        body: bytes | None = None
        self._buffer = partial = b""
        if head.length is not None:
            if len(remainder) >= head.length:
                body, self._buffer = remainder[: head.length], remainder[head.length :]
                self._state = WAIT
            else:
                self._state, self._remaining, partial = BODY, head.length, remainder
                self._rate = BodyRate()
        elif head.chunked:
            self._chunks = ChunkedDecoder(trailer_bytes=self.owner.trailer_bytes)
            self._state, self._rate = BODY, BodyRate()
            try:
                partial = self._chunks.feed(remainder, CHUNKS)
            except ChunkedError as fault:
                self._refuse(ExchangeError("bad_request", f"chunked body: {fault.rule}"))
                return
            if self._chunks.done:
                body, self._buffer, head.length, head.chunked = partial, self._chunks.rest, len(partial), False
                self._chunks = None
                self._state = WAIT
        else:
            self._buffer = remainder
            self._state = WAIT
        self._keep_alive = head.keep_alive
        gateway = self.owner.gateway
        exchange = self.exchange = gateway.accept(self, head, body, self._since)
        gateway.begin(exchange)
        if self.exchange is not exchange or self._state != BODY:
            return
        if head.expect and not remainder:  # RFC 9110 10.1.1: once route, key, limit and size are accepted
            if self._body_paused:
                self._continue_due = True  # sent once the body may use memory
            else:
                self.send(CONTINUE)
        if partial:
            if self._chunks is not None:
                exchange.upload(partial, False)
                self._defer_chunks()
            else:
                self._on_body(partial)

    def _on_body(self, data: bytes) -> None:
        """Pass on a piece of a streamed request body."""
        exchange, decoder = self.exchange, self._chunks
        if exchange is None:
            return
        if decoder is None:
            extra = len(data) - self._remaining
            if extra >= 0:
                if extra:
                    self._buffer = data[self._remaining :]
                    data = data[: self._remaining]
                self._remaining = 0
                self._state = WAIT
                exchange.upload(data, True)
            else:
                self._remaining -= len(data)
                exchange.upload(data, False)
            return
        try:
            piece = decoder.feed(data, CHUNKS)
        except ChunkedError as fault:
            exchange.fail_upload(ExchangeError("bad_request", f"chunked body: {fault.rule}"))
            return
        if decoder.done:
            self._buffer, self._chunks, self._state = decoder.rest, None, WAIT
            exchange.upload(piece, True)
        else:
            if piece:
                exchange.upload(piece, False)
            self._defer_chunks()

    def _defer_chunks(self) -> None:
        """Decode the rest of a segment in a later loop turn, because the work of one turn is bounded."""
        if self._chunks is not None and self._chunks.pending and self._state == BODY:
            self._stream.pause()
            self._schedule_resume()

    # ---- writing

    def send(self, data: bytes) -> bool:
        """Write now. Returns False if the client reads too slowly, or has left: its exchange ends in a later turn."""
        stream = self._stream
        if self._state == CLOSED or stream._closed:
            return False
        if not self._pending_writes and not stream._connecting:  # directly to the socket: no Future, no copy
            try:
                sent = stream.send_now(data)
            except OSError as error:
                stream.close(exc_info=error)
                return False
            if sent == len(data):
                return True
            data = data[sent:]
        try:
            future = stream.write(data)
        except StreamClosedError:
            return False
        if not future.done():
            if not self._pending_writes:
                self._delivery = Delivery(stream)
            self._pending_writes += 1
            future.add_done_callback(self._on_written)
        return not stream.closed() and stream.backlog() <= HIGH

    def _on_written(self, future: Any) -> None:
        self._pending_writes -= 1
        if not self._pending_writes:
            self._delivery = None
        if future.cancelled() or future.exception() is not None or self._pending_writes:
            return
        if self._state == CLOSING:
            self._close()
        elif self._state == LINGER:
            self._since = clock.monotonic()
            self._half_close()
        elif self.exchange is not None:
            self.exchange.on_drained()
        elif self._buffer or self._client_eof:
            self._schedule_resume()

    # ---- Downstream

    def buffered(self) -> int:
        """The number of bytes not yet written to the client."""
        return self._stream.backlog()

    def reusable(self) -> bool:
        """True if the connection may carry another request after this one."""
        max_requests = self.owner.max_requests
        return (
            self._keep_alive and self._state == WAIT and (not max_requests or self._requests < max_requests)
            and not self.owner.gateway.draining and not self.owner.gateway.leaving
            and not (self.exchange is not None and not self.exchange.head.keep_alive)
        )

    def pause_body(self) -> None:
        """Stop reading the request body."""
        self._body_paused = True
        self._stream.pause()

    def resume_body(self) -> None:
        """Resume reading the request body."""
        if not self._body_paused:
            return
        self._body_paused = False
        self._since = clock.monotonic()
        self._rate.restart()
        if self._continue_due:
            self._continue_due = False
            self.send(CONTINUE)
        if self._chunks is not None and self._chunks.pending:
            self._schedule_resume()
        else:
            self._resume_reading()

    def schedule_upload(self) -> None:
        """Call `Exchange.upload` with no bytes in a later loop turn, and read nothing until then."""
        self._stream.pause()
        self._schedule_resume()

    def start_tunnel(self) -> None:
        """Pass every byte to the tunnel from now on."""
        self._state = TUNNEL
        early, self._buffer = self._buffer, b""
        self._body_paused = False
        self._resume_reading()
        if early and self.exchange is not None:
            self.exchange.upload(early, False)

    def finished(self, keep: bool) -> None:
        """The exchange has ended: handle the next request, or end the connection."""
        self.exchange = None
        if self._state == CLOSED:
            return
        if keep and self._state == WAIT:
            self._state = HEAD
            self._since = clock.monotonic()
            self._body_paused = False
            if self._buffer:
                self._schedule_resume()
            elif self.owner.gateway.draining or self._client_eof:
                self._close_when_written()
                return
            if not self._stream.reading_enabled:
                self._resume_reading()
        elif self._state in (BODY, TUNNEL) or self._buffer or self._body_paused:  # bytes may be unread
            self._linger()  # closing now could reset the connection before the client has read the response
        else:
            self._close_when_written()

    def abort(self, reset: bool) -> None:
        """Break the connection, because the response is incomplete."""
        self.exchange = None
        if self._state == CLOSED:
            return
        if reset:
            self._stream.reset()
        else:
            self._close_when_written()

    # ---- ending

    def _refuse(self, fault: ExchangeError) -> None:
        """Answer a malformed request with an error, and end the connection."""
        self._state = CLOSING
        answer = self.owner.gateway.refuse(self, fault, self._since)
        self._buffer = b""
        self.send(answer)
        self._linger()

    def _close_when_written(self) -> None:
        if self._pending_writes:
            self._state = CLOSING
        else:
            self._close()

    def _linger(self) -> None:
        if self._state == CLOSED:
            return
        self._state, self._remaining = LINGER, DRAIN_BYTES
        self._buffer, self._chunks = b"", None
        self._body_paused = self._resume_due = self._continue_due = False
        self._since = clock.monotonic()
        self._resume_reading()
        if not self._pending_writes:
            self._half_close()

    def _half_close(self) -> None:
        if self._client_eof:
            self._close()
        else:
            self._stream.end_writing()

    def _close(self) -> None:
        if self._state != CLOSED:
            self._stream.close()

    def _on_close(self) -> None:
        self._state = CLOSED
        self._delivery = None
        self._stream.release_owner()
        self._buffer, self._chunks = b"", None
        exchange, self.exchange = self.exchange, None
        if self._stream.handshaking():
            self.owner.tls_failed(self.peer, self._stream.error)
        self.owner.forget(self)
        if exchange is not None:
            exchange.client_gone()

    def _on_end(self) -> bool:
        """Handle the client's end of stream. Returns True if a request or a body piece must still be handled."""
        self._client_eof = True
        if self._state == HEAD:
            if not self._buffer or not self._must_wait():
                self._close_when_written()
            return True
        exchange = self.exchange
        if exchange is None:
            return self._pending_writes > 0  # CLOSING or LINGER
        awaits = self._state == WAIT and self.owner.half_close
        if exchange.tunnel is not None:
            return exchange.end_upload() or awaits or (self._state == WAIT and exchange.writer.started)
        return awaits or (self._state == BODY and exchange.end_upload())  # the response came early

    def _on_early_end(self) -> None:
        """The client's end of stream has arrived behind unread bytes: a client that waits for a response is gone."""
        exchange = self.exchange
        if self._state == WAIT and not self.owner.half_close and exchange is not None and exchange.tunnel is None:
            self._close()

    def close_idle(self) -> bool:
        """Close the connection if it is between requests. Used by a drain."""
        if self._state == HEAD and not self._buffer:
            self._close_when_written()
            return True
        return False

    def end(self, code: str = "stopped") -> None:
        """End the connection now, in any state. `code` is the error of its exchange."""
        if self.exchange is not None:
            self.exchange.fail_upload(ExchangeError(code))
        self._close()

    def enforce_timeouts(self, now: float) -> None:
        """End the connection or its exchange if the timeout of the current state has passed. Called by the sweep."""
        timeouts, state, delivery = self.owner.timeouts, self._state, self._delivery
        if delivery is not None and timeouts.write and delivery.stalled_s(now) > timeouts.write:
            if self.exchange is not None:
                self.exchange.client_gone("client_stalled")
            self._stream.reset()
            return
        if state == HEAD:
            self._enforce_head_timeouts(now)
        elif state == BODY and self._stream.reading_enabled:
            slow = now - self._since > timeouts.body or self._rate.is_too_slow(now, timeouts.body)
            if timeouts.body and slow and self.exchange is not None:
                self.exchange.fail_upload(ExchangeError("request_timeout", "body"))
        elif state == LINGER and not self._pending_writes and now - self._since > DRAIN_S:
            self._close()

    def _enforce_head_timeouts(self, now: float) -> None:
        timeouts = self.owner.timeouts
        if self._stream.handshaking():
            if timeouts.handshake and now - self._since > timeouts.handshake:
                self._stream.close(TimeoutError())
        elif self._buffer:
            if timeouts.header and not self._must_wait() and now - self._since > timeouts.header:
                self._refuse(ExchangeError("request_timeout", "header section"))
        elif self._requests:
            if timeouts.keepalive and now - self._since > timeouts.keepalive:
                self._close_when_written()
        elif timeouts.header and now - self._since > timeouts.header:
            self._close()
