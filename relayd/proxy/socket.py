"""The WebSocket transport of the Responses API: each message of the client is a request of its own on the path.

Laws:
1. A turn walks the whole path, as if it had come by HTTP, on the plan of that moment: authorised, admitted, accounted.
2. One turn is under way; further ones wait in their order, a bounded number, then nothing more is read.
3. What a turn sends the client leaves as text frames, one event each; a turn that fails says so and ends nothing else.
4. The client leaving cancels the turn under way and those that wait.

Source: Open Responses specification 2026-04-24, section on WebSocket.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from typing import Any

from relayd import clock
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Memory, WebSocketTransport
from relayd.proxy.downstream import Downstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.respond import answer
from relayd.stores.memory import Store
from relayd.upstream.spec import Timeouts
from relayd.wire.chunked import ChunkedDecoder
from relayd.wire.headers import TOKENS
from relayd.wire.http1 import RequestHead, parse_head
from relayd.wire.websocket import (
    GOING_AWAY,
    Broken,
    Closed,
    Decoder,
    HandshakeError,
    Message,
    Ping,
    accept,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)

WAITING = 16
PING_S = 30.0
SILENT_S = 120.0  # without even a pong
REMEMBERED_BYTES = 32 * 1024 * 1024
_NOT_PASSED = (b"upgrade", b"connection", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"host")
_TERMINAL = (
    b'{"type":"response.completed"', b'{"type":"response.failed"', b'{"type":"response.incomplete"', b'{"type":"error"',
)

Walk = Callable[[Exchange, bytes | None], None]


def begin(exchange: Exchange, walk: Walk) -> bool:
    """Answer the handshake; False for another Upgrade (which a server may ignore). `walk` takes a turn's path."""
    if b"websocket" not in TOKENS[exchange.head.upgrade or b""]:
        return False
    try:
        head = accept(exchange.head)
    except HandshakeError as refused:
        words = f"{refused.message}\n".encode()
        exchange.respond(answer(refused.status, "text/plain; charset=utf-8", words, refused.headers), "bad_request")
        return True
    exchange.tunnel = ResponsesSocket(exchange, walk)
    exchange.switch(head)
    return True


def transport_of(exchange: Exchange) -> WebSocketTransport:
    """How the route's dialect speaks over WebSocket; the pipeline opens a socket only where it does."""
    resilience = None if exchange.route is None else exchange.route.resilience
    assert resilience is not None and resilience.dialect is not None and resilience.dialect.websocket is not None
    return resilience.dialect.websocket


class ResponsesSocket:
    """One connection; owned by the exchange that was upgraded, as its tunnel."""

    def __init__(self, exchange: Exchange, walk: Walk) -> None:
        self.exchange, self._walk = exchange, walk
        self._decoder = Decoder()
        self.transport = transport_of(exchange)
        limit_s = self.transport.connection_limit_s
        self.memory = Store(max_entries=4, max_bytes=REMEMBERED_BYTES, ttl_s=limit_s).space("socket")
        self._waiting: collections.deque[bytes] = collections.deque()
        self._turn: Turn | None = None
        self._starting = self._ending = False
        self._began_s = self._heard_s = self._pinged_s = clock.monotonic()

    # ---- the client's side

    def upload(self, data: bytes) -> None:
        """Bytes of the client."""
        self._heard_s = clock.monotonic()
        for event in self._decoder.feed(data):
            if isinstance(event, Message):
                self._waiting.append(event.data.encode() if isinstance(event.data, str) else event.data)
                if len(self._waiting) >= WAITING:
                    self.exchange.down.pause_body()
            elif isinstance(event, Ping):
                self.exchange.tunnelled(pong_frame(event.data))
            elif isinstance(event, Closed | Broken):
                self._end(event.code if isinstance(event, Broken) else 1000)
                return
        self._next()

    def unhold(self) -> None:
        """The client can take more."""
        if self._turn is not None:
            self._turn.exchange_of_turn.on_drained()

    def check(self, now: float, timeouts: Timeouts) -> None:
        """The sweep."""
        if self._turn is None and self.exchange.gateway.draining:
            self._end(GOING_AWAY)
        elif now - self._began_s > self.transport.connection_limit_s and self._turn is None:
            self.exchange.tunnelled(text_frame(self.transport.write_error(self.transport.connection_limit)))
            self._end(1000)
        elif now - self._heard_s > SILENT_S:
            self._end(GOING_AWAY)
        elif now - self._pinged_s > PING_S:
            self._pinged_s = now
            self.exchange.tunnelled(ping_frame())

    def close(self) -> None:
        """The client has left, or the connection is ended."""
        self._ending = True
        self._waiting.clear()
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.exchange_of_turn.client_gone()

    def _end(self, code: int) -> None:
        if not self._ending:
            self._ending = True
            self.exchange.tunnelled(close_frame(code))
            self.exchange.complete()

    # ---- turns

    def _next(self) -> None:
        if self._starting:
            return
        self._starting = True
        try:
            while self._waiting and self._turn is None and not self._ending:
                self._start(self._waiting.popleft())
                if len(self._waiting) == WAITING - 1:
                    self.exchange.down.resume_body()
        finally:
            self._starting = False

    def _start(self, text: bytes) -> None:
        down = Turn(self)
        self._turn = down
        head = turn_head(self.exchange.head, len(text))
        made = Exchange(self.exchange.gateway, self.exchange.gateway.current(), down, head, clock.monotonic())
        down.exchange = down.exchange_of_turn = made
        self._walk(made, text)

    def ended(self, turn: Turn) -> None:
        """The turn is over."""
        if turn is self._turn:
            self._turn = None
            self._next()


class Turn:
    """A Downstream that is no connection: what is sent to it leaves as text frames. Owned by the socket."""

    def __init__(self, socket: ResponsesSocket) -> None:
        down: Downstream = socket.exchange.down
        self._socket, self._down = socket, down
        self.listener, self.peer, self.trusted, self.networks, self.tls = (
            down.listener, down.peer, down.trusted, down.networks, down.tls
        )
        self.exchange: Any = None
        self.exchange_of_turn: Exchange
        self.forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
        self.socket_memory: Memory | None = socket.memory
        self._head = b""
        self._status = 0
        self._decoder: ChunkedDecoder | None = None
        self._text = b""
        self._told = False

    def send(self, data: bytes) -> bool:
        """A piece of an HTTP answer that relayd itself has written."""
        if not self._status:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return True
            self._status = int(head.split(b" ", 2)[1])
            if b"\r\nTransfer-Encoding: chunked" in head:
                self._decoder = ChunkedDecoder()
        if self._decoder is not None:
            data = self._decoder.feed(data, max_pieces=1 << 30)
        self._text += data
        if self._status != 200:
            return True
        *lines, self._text = self._text.split(b"\n")
        return self._tell([line for line in map(message_of, lines) if line])

    def _tell(self, messages: list[bytes]) -> bool:
        for message in messages:
            self._told = self._told or message.startswith(_TERMINAL)
        return self._socket.exchange.tunnelled(b"".join(map(text_frame, messages))) if messages else True

    def buffered(self) -> int:
        """Bytes that wait for the client."""
        return self._down.buffered()

    def body_complete(self) -> bool:
        """A turn's body is its message."""
        return True

    def reusable(self) -> bool:
        """Whatever becomes of a turn, the connection stays."""
        return True

    def pause_body(self) -> None:
        """Nothing is read."""

    def resume_body(self) -> None:
        """Nothing is read."""

    def start_tunnel(self) -> None:
        """A turn is never upgraded."""

    def finished(self, keep: bool) -> None:
        """The turn is over."""
        if self._status != 200:
            self._tell([self._socket.transport.write_error(failure_in(self._status, self._text))])
        self._over()

    def abort(self, reset: bool) -> None:
        """The turn broke off."""
        if not self._told:
            failure = Failure(502, "The answer broke off.", "upstream_cut", "server_error")
            self._tell([self._socket.transport.write_error(failure)])
        self._over()

    def _over(self) -> None:
        self.exchange = None
        self._socket.ended(self)


def message_of(line: bytes) -> bytes:
    """The event in one line of a stream, of relayd's own or of one that passes; empty for comments and names."""
    line = line.strip()
    if line.startswith(b"data:"):
        line = line[5:].strip()
    return line if line.startswith(b"{") else b""


def failure_in(status: int, body: bytes) -> Failure:
    """The failure that an error answer tells of."""
    try:
        told = json.loads(body)
        error = told["error"]
        return Failure(
            status, str(error["message"]), str(error.get("code") or ""), str(error.get("type") or ""),
            error.get("param"),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return Failure(status, f"The request failed with status {status}.")


def turn_head(head: RequestHead, length: int) -> RequestHead:
    """The request of a turn: the upgrade's own fields, without what made it an upgrade."""
    lines = [
        line for line in head.lines
        if not (name := line.partition(b":")[0].lower()).startswith(b"sec-websocket-") and name not in _NOT_PASSED
    ]
    lines += [b"Host: " + head.authority, b"Content-Type: application/json", b"Content-Length: %d" % length]
    start = b"POST " + head.path + head.query + b" HTTP/1.1"
    return parse_head(b"\r\n".join([start, *lines, b"", b""]))
