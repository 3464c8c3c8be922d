"""The WebSocket transport of the Responses API: each message of the client is a request of its own on the path.

Laws:
1. A turn walks the whole path, as if it had come by HTTP, on the plan of that moment: authorised, admitted, accounted.
2. One turn is under way; further ones wait in their order, bounded in number and bytes, then nothing more is read.
   Nor is anything read while the client does not take what it is sent, pongs included.
3. What a turn sends the client leaves as text frames, one event each; a turn that fails says so and ends nothing else.
4. The client leaving cancels the turn under way and those that wait.
5. One turn of the loop reads at most FRAMES frames and begins at most one turn of the API.

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

MAX_WAITING, MAX_WAITING_BYTES = 16, 1024 * 1024  # beyond these the message that exceeds them is the last that is read
MAX_FRAMES = 128
MAX_ERROR_BYTES = 64 * 1024
PING_INTERVAL_S = 30.0
PONG_TIMEOUT_S = 120.0  # without even a pong
SESSION_MEMORY_BYTES = 32 * 1024 * 1024
_NOT_FORWARDED = (b"upgrade", b"connection", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"host")
_JSON = b"Content-Type: application/json"
_TERMINAL = (
    b'{"type":"response.completed"', b'{"type":"response.failed"', b'{"type":"response.incomplete"', b'{"type":"error"',
)

Run = Callable[[Exchange], None]


def open_session(exchange: Exchange, run: Run) -> Answer | Wait | None:
    """Answer the handshake; None for another Upgrade, which a server may ignore. `run` runs the phases of a turn."""
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
    """How the route's dialect speaks over WebSocket; a session is opened only where it does."""
    resilience = None if exchange.route is None else exchange.route.resilience
    assert resilience is not None and resilience.dialect is not None and resilience.dialect.websocket is not None
    return resilience.dialect.websocket


class ResponsesSession:
    """One connection; owned by the exchange that was upgraded, as its tunnel."""

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
        self._body_memory: BodyMemory | None = None  # of messages that wait or are not whole yet
        self._client_behind = self._paused = self._is_ending = self._lacks_memory = False
        self._started_s = self._last_received_s = self._last_ping_s = clock.monotonic()

    # ---- the client's side

    def upload(self, data: bytes) -> None:
        """Bytes of the client; none, to go on with what has come."""
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
        """The client has ended its side without a close: it has left."""
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
        """Whether nothing more is read for now."""
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES
        return self._client_behind or self._lacks_memory or full

    def _adjust_reading(self) -> None:
        """Read on, go on in a later turn, or wait: for the client, for memory, or for the turn under way."""
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
        if not self._client_behind and ((self._waiting and self._turn is None) or (self._decoder.has_more and not is_full)):
            down.schedule_upload()

    def send(self, data: bytes) -> bool:
        """Frames for the client; False when it is behind, and then nothing more is read from it."""
        has_capacity = self.exchange.write_tunnel(data)
        if not has_capacity:
            self._client_behind = True
            self._adjust_reading()
        return has_capacity

    def unhold(self) -> None:
        """The client can take more."""
        self._client_behind = False
        if self._turn is not None:
            self._turn.on_drained()
        self._adjust_reading()

    def enforce_timeouts(self, now: float, timeouts: Timeouts) -> None:
        """The sweep."""
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
        """The client has left, or the connection is ended."""
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

    # ---- memory: messages count with the bodies of all other requests

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
        """There is no memory for more of a message."""
        self._lacks_memory = True
        self._adjust_reading()

    def resume_body(self) -> None:
        """There is memory again."""
        self._lacks_memory = False
        self._adjust_reading()

    def fail(self, fault: ExchangeError) -> None:
        """There was no memory for a message."""
        kind = fault.kind
        failure = Failure(kind.status, kind.message, kind.code, "server_error")
        self.exchange.write_tunnel(text_frame(self.transport.write_error(failure)))
        self._end(TRY_AGAIN_LATER if kind.status == 503 else TOO_LARGE if kind.status == 413 else GOING_AWAY)

    # ---- turns

    def _begin_turn(self) -> bool:
        """Begin the turn that waits next, if none is under way."""
        if not self._waiting or self._turn is not None or self._is_ending or self._client_behind:
            return False
        text = self._waiting.popleft()
        self._waiting_bytes -= len(text)
        session_exchange, gateway = self.exchange, self.exchange.gateway
        down = TurnConnection(self)
        turn = Exchange(gateway, gateway.current(), down, turn_head(session_exchange.head, len(text)), clock.monotonic(), text)
        turn.writer = self._writer = TurnWriter(self, turn.record)
        self._turn = turn
        turn.body.count(len(text), turn)
        self._run(turn)
        return True

    def turn_ended(self, writer: TurnWriter) -> None:
        """The turn is over."""
        if writer is self._writer:
            self._turn = self._writer = None
            self._count_memory()
            self._adjust_reading()


class TurnConnection(NullDownstream):
    """The client's side of one turn: no connection of its own, but that of the session."""

    def __init__(self, session: ResponsesSession) -> None:
        down = session.exchange.down
        super().__init__(down.listener, down.peer, down.networks, down.tls)
        self.trusted = down.trusted
        self.socket_memory = session.memory
        self._down = down

    def send(self, data: bytes) -> bool:
        """A turn has a writer of its own, which is no HTTP."""
        raise AssertionError("a turn is written by its TurnWriter")

    def buffered(self) -> int:
        """Bytes that wait for the client."""
        return self._down.buffered()


class TurnWriter:
    """The response of one turn as text messages, one event each; an error response becomes one event."""

    def __init__(self, session: ResponsesSession, record: Record) -> None:
        self._session, self._record = session, record
        self.started = self.committed = False
        self.route: PlannedRoute | None = None
        self.request_id = b""
        self.adds_cors = False
        self._status = 0
        self._pending_line: list[bytes] = []  # pieces of the line that has not ended, or of an error's body
        self._pending_bytes = 0
        self._terminated = False  # whether the event that ends a turn was sent
        self.too_large = False  # whether an event has no end; the session then fails the turn

    def interim(self, heads: list[ResponseHead]) -> None:
        """Messages have no heads."""

    def head(self, response: ResponseHead) -> None:
        """Only the status matters."""
        self.started = True
        self._status = response.status
        self._record.status = response.status
        self._record.first_byte_s = clock.monotonic() - self._record.started

    def comment(self, data: bytes) -> None:
        """A message is an event; comments are none."""

    def body(self, data: bytes) -> bool:
        """The complete events of these bytes."""
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
            self._pending_line = [b":"]  # what follows of it is a comment
            self._session.exchange.down.schedule_upload()  # the turn fails there: its exchange is in the middle of writing
        return has_capacity

    def _hold_piece(self, piece: bytes) -> None:
        if piece and not self.too_large:
            self._pending_line.append(piece)
            self._pending_bytes += len(piece)

    def flush(self) -> bool:
        """There is nothing to send before the first event."""
        self.committed = True
        return True

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """The last events, or the error."""
        self.body(data)
        if self._status != 200:
            self._send([self._session.transport.write_error(failure_in(self._status, b"".join(self._pending_line)))])

    def close(self) -> None:
        """The session goes on with the next message."""
        self._session.turn_ended(self)

    def abort(self, explained: bool = False) -> None:
        """The turn broke off: the client is told, if it was not yet."""
        if not self._terminated:
            self._send([self._session.transport.write_error(
                Failure(502, "The answer broke off.", "upstream_cut", "server_error"))])
        self._session.turn_ended(self)

    def switch(self, head: bytes) -> None:
        """A turn is never upgraded."""

    def raw(self, data: bytes) -> bool:
        """A turn is never a tunnel."""
        return True

    def buffered(self) -> int:
        """Bytes that wait for the client."""
        return self._session.exchange.down.buffered()

    def _send(self, messages: list[bytes]) -> bool:
        for message in messages:
            self._terminated = self._terminated or message.startswith(_TERMINAL)
        return self._session.send(b"".join(map(text_frame, messages))) if messages else True


def message_of(line: bytes) -> bytes:
    """The event in one line of a stream, of relayd's own or of one that passes; empty for comments and names."""
    line = line.strip()
    if line.startswith(b"data:"):
        line = line[5:].strip()
    return line if line.startswith(b"{") else b""


def failure_in(status: int, body: bytes) -> Failure:
    """The failure that an error answer tells of."""
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
    """The request of a turn: the handshake's own fields, as they were accepted, without what made it a handshake."""
    turn = RequestHead(b"POST", head.path + head.query, 11, [line for line in head.lines if _is_forwarded(line)])
    turn.lines += [b"Host: " + head.authority, _JSON]
    for index, line in enumerate(head.keep):  # without what Connection named, which has ended at this hop
        if _is_forwarded(line):
            if index in head.keys:
                turn.keys.append(len(turn.keep))
            turn.keep.append(line)
    turn.keep.append(_JSON)
    turn.type_line, turn.sent, turn.length = _JSON, head.sent | 1 << TYPE, length
    turn.host, turn.authority, turn.empty = head.host, head.authority, head.empty
    turn.forwarding, turn.via = list(head.forwarding), list(head.via)
    return turn


def _is_forwarded(line: bytes) -> bool:
    name = line.partition(b":")[0].lower()
    return not name.startswith(b"sec-websocket-") and name not in _NOT_FORWARDED
