"""The WebSocket transport of the Responses API: each message of the client is one request, called a turn.

Rules:
1. A turn runs through the whole pipeline like an HTTP request, with the plan that is current at its start: it is
   authorised, admitted and accounted.
2. One turn runs at a time. Further messages wait in order, bounded in number and bytes; at a bound, reading stops.
   Reading also stops while the client does not receive the data sent to it, including pongs.
3. The response of a turn is sent as text frames, one event each. A failed turn sends an error event and ends nothing
   else.
4. If the client leaves, the running turn and the waiting messages are cancelled.
5. One turn of the loop reads at most MAX_FRAMES frames and starts at most one turn of the API.

Source: Open Responses specification 2026-04-24, section on WebSocket.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.request_buffers import FREE_BYTES
from relayd.plan.plan import PlannedRoute
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import WebSocketTransport
from relayd.proxy.body_memory import BodyMemory
from relayd.proxy.downstream import NullDownstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.respond import WAIT, Answer, Wait, answer
from relayd.stores.memory import Store
from relayd.telemetry.outcome import Record
from relayd.upstream.spec import Timeouts
from relayd.wire.headers import TOKENS
from relayd.wire.http1 import TYPE, RequestHead
from relayd.wire.response import ResponseHead
from relayd.wire.websocket import (
    GOING_AWAY,
    MAX_MESSAGE_BYTES,
    TOO_LARGE,
    TRY_AGAIN_LATER,
    Broken,
    Closed,
    Decoder,
    Event,
    HandshakeError,
    Message,
    Ping,
    accept,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)

MAX_WAITING, MAX_WAITING_BYTES = 16, 1024 * 1024  # reading stops after the message that exceeds one
MAX_FRAMES = 128
MAX_ERROR_BYTES = 64 * 1024
PING_INTERVAL_S = 30.0
PONG_TIMEOUT_S = 120.0  # without any data from the client
SESSION_MEMORY_BYTES = 32 * 1024 * 1024
_NOT_FORWARDED = (
    b"upgrade", b"connection", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"host",
)
_JSON = b"Content-Type: application/json"
_TERMINAL = (
    b'{"type":"response.completed"', b'{"type":"response.failed"', b'{"type":"response.incomplete"', b'{"type":"error"',
)

Run = Callable[[Exchange], None]


def open_session(exchange: Exchange, run: Run) -> Answer | Wait | None:
    """Accept the handshake. Returns None for another Upgrade, which a server may ignore. `run` runs a turn's phases."""
    if b"websocket" not in TOKENS[exchange.head.upgrade or b""]:
        return None
    try:
        head = accept(exchange.head)
    except HandshakeError as refused:
        text = f"{refused.message}\n".encode()
        return answer(refused.status, "text/plain; charset=utf-8", text, refused.headers, "bad_request")
    exchange.tunnel = ResponsesSession(exchange, run)
    exchange.switch(head)
    return WAIT


def transport_of(exchange: Exchange) -> WebSocketTransport:
    """The WebSocket transport of the route's dialect; a session is opened only if it has one."""
    resilience = None if exchange.route is None else exchange.route.resilience
    assert resilience is not None and resilience.dialect is not None and resilience.dialect.websocket is not None
    return resilience.dialect.websocket


class ResponsesSession:
    """One WebSocket connection; owned by the upgraded exchange, as its tunnel."""

    def __init__(self, exchange: Exchange, run: Run) -> None:
        self.exchange, self._run = exchange, run
        self._decoder = Decoder()
        self.transport = transport_of(exchange)
        limit_s = self.transport.connection_limit_s
        self.memory = Store(max_entries=4, max_bytes=SESSION_MEMORY_BYTES, ttl_s=limit_s).space("socket")
        self._waiting: collections.deque[bytes] = collections.deque()
        self._waiting_bytes = 0
        self._turn: Exchange | None = None
        self._writer: TurnWriter | None = None
        self._body_memory: BodyMemory | None = None  # for waiting and incomplete messages
        self._client_behind = self._paused = self._is_ending = self._lacks_memory = False
        self._started_s = self._last_received_s = self._last_ping_s = clock.monotonic()

    # ---- the client's side

    def upload(self, data: bytes) -> None:
        """Receive bytes of the client. Empty `data` continues with the bytes that were received before."""
        decoder = self._decoder
        if self._turn is not None and self._writer is not None and self._writer.too_large:
            self._turn.fail(ExchangeError("upstream_malformed", f"an event larger than {MAX_MESSAGE_BYTES} bytes"))
        if data:
            self._last_received_s = clock.monotonic()
            decoder.feed(data, 0)
        began = self._begin_turn()
        for _ in range(MAX_FRAMES):
            if began or self._is_ending or self._is_full() or not decoder.has_more:
                break
            for event in decoder.feed(b"", 1):
                self._handle_event(event)
            began = self._begin_turn()
        self._count_memory()
        self._adjust_reading()

    def end_upload(self) -> bool:
        """The client has closed its sending side without a close frame: it has left."""
        return False

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Message):
            self._waiting.append(event.data)
            self._waiting_bytes += len(event.data)
        elif isinstance(event, Ping):
            self.send(pong_frame(event.data))
        elif isinstance(event, Closed | Broken):
            self._end(event.code if isinstance(event, Broken) else 1000)

    def _is_full(self) -> bool:
        """True if reading must stop for now."""
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES
        return self._client_behind or self._lacks_memory or full

    def _adjust_reading(self) -> None:
        """Pause or resume reading, and schedule a later turn of the loop if input is left."""
        down, is_full = self.exchange.down, self._is_full()
        if self._is_ending:
            return
        if is_full and not self._paused:
            self._paused = True
            down.pause_body()
        elif self._paused and not is_full:
            self._paused = False
            self._last_received_s = clock.monotonic()
            down.resume_body()
        can_begin = bool(self._waiting) and self._turn is None
        if not self._client_behind and (can_begin or (self._decoder.has_more and not is_full)):
            down.schedule_upload()

    def send(self, data: bytes) -> bool:
        """Send frames. Returns False if the client is slow; reading from it stops then."""
        has_capacity = self.exchange.write_tunnel(data)
        if not has_capacity:
            self._client_behind = True
            self._adjust_reading()
        return has_capacity

    def unhold(self) -> None:
        """Resume: the client can receive more."""
        self._client_behind = False
        if self._turn is not None:
            self._turn.on_drained()
        self._adjust_reading()

    def enforce_timeouts(self, now: float, timeouts: Timeouts) -> None:
        """The sweep: limits of the connection, and pings."""
        if self._turn is None and self.exchange.gateway.draining:
            self._end(GOING_AWAY)
        elif now - self._started_s > self.transport.connection_limit_s and self._turn is None:
            self.exchange.write_tunnel(text_frame(self.transport.write_error(self.transport.connection_limit)))
            self._end(1000)
        elif now - self._last_received_s > PONG_TIMEOUT_S and not self._paused:
            self._end(GOING_AWAY)
        elif now - self._last_ping_s > PING_INTERVAL_S and not self._client_behind:
            self._last_ping_s = now
            self.send(ping_frame())

    def close(self) -> None:
        """The client has left, or the connection ends."""
        self._is_ending = True
        self._waiting.clear()
        if self._body_memory is not None:
            memory, self._body_memory = self._body_memory, None
            memory.release()
        turn, self._turn, self._writer = self._turn, None, None
        if turn is not None:
            turn.client_gone()

    def _end(self, code: int) -> None:
        if not self._is_ending:
            self._is_ending = True
            self.exchange.write_tunnel(close_frame(code))
            self.exchange.complete()

    # ---- memory: messages are counted with the bodies of all requests

    def _count_memory(self) -> None:
        partial_bytes, memory = self._decoder.held_bytes, self._body_memory
        size = partial_bytes + self._waiting_bytes
        if memory is None:
            if size <= FREE_BYTES or self._is_ending:
                return
            memory = self._body_memory = BodyMemory(self.exchange.gateway.buffers, self, self, None)
        if partial_bytes:
            memory.grow(size)
        else:
            memory.set_body_bytes(size)

    def pause_body(self) -> None:
        """Stop reading: there is no memory for more of a message."""
        self._lacks_memory = True
        self._adjust_reading()

    def resume_body(self) -> None:
        """Resume reading: there is memory again."""
        self._lacks_memory = False
        self._adjust_reading()

    def fail(self, fault: ExchangeError) -> None:
        """Close the session: there is no memory for a message."""
        kind = fault.kind
        failure = Failure(kind.status, kind.message, kind.code, "server_error")
        self.exchange.write_tunnel(text_frame(self.transport.write_error(failure)))
        self._end(TRY_AGAIN_LATER if kind.status == 503 else TOO_LARGE if kind.status == 413 else GOING_AWAY)

    # ---- turns

    def _begin_turn(self) -> bool:
        """Start the next waiting turn, if none is running."""
        if not self._waiting or self._turn is not None or self._is_ending or self._client_behind:
            return False
        text = self._waiting.popleft()
        self._waiting_bytes -= len(text)
        session_exchange, gateway = self.exchange, self.exchange.gateway
        down = TurnConnection(self)
        head = turn_head(session_exchange.head, len(text))
        turn = Exchange(gateway, gateway.current(), down, head, clock.monotonic(), text)
        turn.writer = self._writer = TurnWriter(self, turn.record)
        self._turn = turn
        turn.body.count(len(text), turn)
        self._run(turn)
        return True

    def turn_ended(self, writer: TurnWriter) -> None:
        """Continue after the end of a turn."""
        if writer is self._writer:
            self._turn = self._writer = None
            self._count_memory()
            self._adjust_reading()


class TurnConnection(NullDownstream):
    """The client's side of one turn, on the connection of the session."""

    def __init__(self, session: ResponsesSession) -> None:
        down = session.exchange.down
        super().__init__(down.listener, down.peer, down.networks, down.tls)
        self.trusted, self.client_certificate = down.trusted, down.client_certificate
        self.socket_memory = session.memory
        self._down = down

    def send(self, data: bytes) -> bool:
        """Never called: a turn has its own writer."""
        raise AssertionError("a turn is written by its TurnWriter")

    def buffered(self) -> int:
        """Bytes that wait for the client."""
        return self._down.buffered()


class TurnWriter:
    """Writes the response of one turn as text messages, one event each. An error response becomes one event."""

    def __init__(self, session: ResponsesSession, record: Record) -> None:
        self._session, self._record = session, record
        self.started = self.committed = False
        self.route: PlannedRoute | None = None
        self.request_id = b""
        self.adds_cors = False
        self._status = 0
        self._pending_line: list[bytes] = []  # pieces of an incomplete line, or of an error body
        self._pending_bytes = 0
        self._terminated = False  # the final event of the turn was sent
        self.too_large = False  # an event exceeds the limit; the session fails the turn

    def interim(self, heads: list[ResponseHead]) -> None:
        """Ignored: messages have no heads."""

    def head(self, response: ResponseHead) -> None:
        """Store the status; the fields have no equivalent."""
        self.started = True
        self._status = response.status
        self._record.status = response.status
        self._record.first_byte_s = clock.monotonic() - self._record.started

    def comment(self, data: bytes) -> None:
        """Ignored: a comment is not an event."""

    def body(self, data: bytes) -> bool:
        """Send the complete events of these bytes."""
        self.committed = True
        self._record.bytes_out += len(data)
        if self._status != 200:
            self._hold_piece(data[: MAX_ERROR_BYTES - self._pending_bytes])
            return True
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._pending_line, lines[0]])
            self._pending_line, self._pending_bytes = [], 0
        self._hold_piece(rest)
        has_capacity = self._send([line for line in map(message_of, lines) if line])
        if self._pending_bytes > MAX_MESSAGE_BYTES and not self.too_large:
            self.too_large = True
            self._pending_line = [b":"]  # the rest of the line becomes a comment
            self._session.exchange.down.schedule_upload()  # `upload` fails the turn: its exchange is writing now
        return has_capacity

    def _hold_piece(self, piece: bytes) -> None:
        if piece and not self.too_large:
            self._pending_line.append(piece)
            self._pending_bytes += len(piece)

    def flush(self) -> bool:
        """Nothing is sent before the first event."""
        self.committed = True
        return True

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """Send the last events, or the error."""
        self.body(data)
        if self._status != 200:
            self._send([self._session.transport.write_error(failure_in(self._status, b"".join(self._pending_line)))])

    def close(self) -> None:
        """Continue the session with the next message."""
        self._session.turn_ended(self)

    def abort(self, explained: bool = False) -> None:
        """End an incomplete turn with an error event, unless its final event was sent."""
        if not self._terminated:
            self._send([self._session.transport.write_error(
                Failure(502, "The response is incomplete.", "upstream_cut", "server_error"))])
        self._session.turn_ended(self)

    def switch(self, head: bytes) -> None:
        """Never called: a turn is not upgraded."""

    def raw(self, data: bytes) -> bool:
        """Never called: a turn is not a tunnel."""
        return True

    def buffered(self) -> int:
        """Bytes that wait for the client."""
        return self._session.exchange.down.buffered()

    def _send(self, messages: list[bytes]) -> bool:
        for message in messages:
            self._terminated = self._terminated or message.startswith(_TERMINAL)
        return self._session.send(b"".join(map(text_frame, messages))) if messages else True


def message_of(line: bytes) -> bytes:
    """The event in one line of a rendered or passthrough stream; empty for comments and event names."""
    line = line.strip()
    if line.startswith(b"data:"):
        line = line[5:].strip()
    return line if line.startswith(b"{") else b""


def failure_in(status: int, body: bytes) -> Failure:
    """The failure in the body of an error response."""
    try:
        error_body = json.loads(body)
        error = error_body["error"]
        return Failure(
            status, str(error["message"]), str(error.get("code") or ""), str(error.get("type") or ""),
            error.get("param"),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return Failure(status, f"The request failed with status {status}.")


def turn_head(head: RequestHead, length: int) -> RequestHead:
    """The request head of a turn: the fields of the handshake, without those of the upgrade itself."""
    turn = RequestHead(b"POST", head.path + head.query, 11, [line for line in head.lines if _is_forwarded(line)])
    turn.lines += [b"Host: " + head.authority, _JSON]
    for index, line in enumerate(head.keep):  # without the fields that Connection named (hop-by-hop)
        if _is_forwarded(line):
            if index in head.keys:
                turn.keys = (*turn.keys, len(turn.keep))
            turn.keep.append(line)
    turn.keep.append(_JSON)
    turn.type_line, turn.sent, turn.length = _JSON, head.sent | 1 << TYPE, length
    turn.host, turn.authority, turn.empty = head.host, head.authority, head.empty
    turn.forwarding, turn.via, turn.overrides = head.forwarding, head.via, head.overrides
    return turn


def _is_forwarded(line: bytes) -> bool:
    name = line.partition(b":")[0].lower()
    return not name.startswith(b"sec-websocket-") and name not in _NOT_FORWARDED
