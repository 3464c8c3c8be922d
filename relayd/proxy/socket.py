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
from typing import Any

from relayd import clock
from relayd.errors import ExchangeError
from relayd.protocols._socket_errors import CONNECTION_LIMIT, CONNECTION_LIMIT_S, write_error
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Memory
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
    MAX_MESSAGE_BYTES,
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

WAITING, WAITING_BYTES = 16, 1024 * 1024  # beyond these the message that exceeds them is the last that is read
FRAMES = 128
LARGEST_ERROR = 64 * 1024
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


class ResponsesSocket:
    """One connection; owned by the exchange that was upgraded, as its tunnel."""

    def __init__(self, exchange: Exchange, walk: Walk) -> None:
        self.exchange, self._walk = exchange, walk
        self._decoder = Decoder()
        self.memory = Store(max_entries=4, max_bytes=REMEMBERED_BYTES, ttl_s=CONNECTION_LIMIT_S).space("socket")
        self._waiting: collections.deque[bytes] = collections.deque()
        self._waiting_bytes = 0
        self._turn: Turn | None = None
        self._exchange_of_turn: Exchange | None = None  # not the turn's own: the two would be a ring
        self._behind = self._paused = self._ending = False
        self._began_s = self._heard_s = self._pinged_s = clock.monotonic()

    # ---- the client's side

    def upload(self, data: bytes) -> None:
        """Bytes of the client; none, to go on with what has come."""
        decoder = self._decoder
        if self._turn is not None and self._turn.too_large and self._exchange_of_turn is not None:
            fault = ExchangeError("upstream_malformed", f"an event larger than {MAX_MESSAGE_BYTES} bytes")
            self._exchange_of_turn.fail(fault)
        if data:
            self._heard_s = clock.monotonic()
            decoder.feed(data, 0)
        began = self._begin_turn()
        for _ in range(FRAMES):
            if began or self._ending or self._is_full() or not decoder.has_more:
                break
            for event in decoder.feed(b"", 1):
                self._take(event)
            began = self._begin_turn()
        self._pace()

    def end_upload(self) -> bool:
        """The client has ended its side without a close: it has left."""
        return False

    def _take(self, event: Event) -> None:
        if isinstance(event, Message):
            self._waiting.append(event.data)
            self._waiting_bytes += len(event.data)
        elif isinstance(event, Ping):
            self.send(pong_frame(event.data))
        elif isinstance(event, Closed | Broken):
            self._end(event.code if isinstance(event, Broken) else 1000)

    def _is_full(self) -> bool:
        """Whether nothing more is read for now."""
        return self._behind or len(self._waiting) >= WAITING or self._waiting_bytes > WAITING_BYTES

    def _pace(self) -> None:
        """Read on, go on in a later turn, or wait for the client or for the turn under way."""
        down, is_full = self.exchange.down, self._is_full()
        if self._ending:
            return
        if is_full and not self._paused:
            self._paused = True
            down.pause_body()
        elif self._paused and not is_full:
            self._paused = False
            self._heard_s = clock.monotonic()
            down.resume_body()
        if not self._behind and ((self._waiting and self._turn is None) or (self._decoder.has_more and not is_full)):
            down.again()

    def send(self, data: bytes) -> bool:
        """Frames for the client; False when it is behind, and then nothing more is read from it."""
        room = self.exchange.tunnelled(data)
        if not room:
            self._behind = True
            self._pace()
        return room

    def unhold(self) -> None:
        """The client can take more."""
        self._behind = False
        if self._exchange_of_turn is not None:
            self._exchange_of_turn.on_drained()
        self._pace()

    def check(self, now: float, timeouts: Timeouts) -> None:
        """The sweep."""
        if self._turn is None and self.exchange.gateway.draining:
            self._end(GOING_AWAY)
        elif now - self._began_s > CONNECTION_LIMIT_S and self._turn is None:
            self.exchange.tunnelled(text_frame(write_error(CONNECTION_LIMIT)))
            self._end(1000)
        elif now - self._heard_s > SILENT_S and not self._paused:
            self._end(GOING_AWAY)
        elif now - self._pinged_s > PING_S and not self._behind:
            self._pinged_s = now
            self.send(ping_frame())

    def close(self) -> None:
        """The client has left, or the connection is ended."""
        self._ending = True
        self._waiting.clear()
        self._turn, exchange = None, self._exchange_of_turn
        if exchange is not None:
            exchange.client_gone()

    def _end(self, code: int) -> None:
        if not self._ending:
            self._ending = True
            self.exchange.tunnelled(close_frame(code))
            self.exchange.complete()

    # ---- turns

    def _begin_turn(self) -> bool:
        """Begin the turn that waits next, if none is under way."""
        if not self._waiting or self._turn is not None or self._ending or self._behind:
            return False
        text = self._waiting.popleft()
        self._waiting_bytes -= len(text)
        self._start(text)
        return True

    def _start(self, text: bytes) -> None:
        down = Turn(self)
        self._turn = down
        head = turn_head(self.exchange.head, len(text))
        made = Exchange(self.exchange.gateway, self.exchange.gateway.current(), down, head, clock.monotonic())
        down.exchange = self._exchange_of_turn = made
        self._walk(made, text)

    def ended(self) -> None:
        """The turn is over."""
        self._turn = self._exchange_of_turn = None
        self._pace()


class Turn:
    """A Downstream that is no connection: what is sent to it leaves as text frames. Owned by the socket."""

    def __init__(self, socket: ResponsesSocket) -> None:
        down: Downstream = socket.exchange.down
        self._socket, self._down = socket, down
        self.listener, self.peer, self.trusted, self.networks, self.tls = (
            down.listener, down.peer, down.trusted, down.networks, down.tls
        )
        self.exchange: Any = None
        self.forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
        self.socket_memory: Memory | None = socket.memory
        self._head = b""
        self._status = 0
        self._decoder: ChunkedDecoder | None = None
        self._line: list[bytes] = []  # pieces of the line that has not ended, or of an error's body
        self._line_bytes = 0
        self._told = self.too_large = False

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
        if self._status != 200:
            self._keep(data[: LARGEST_ERROR - self._line_bytes])
            return True
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line, self._line_bytes = [], 0
        self._keep(rest)
        room = self._tell([line for line in map(message_of, lines) if line])
        if self._line_bytes > MAX_MESSAGE_BYTES and not self.too_large:
            self.too_large = True
            self._line = [b":"]  # what follows of it is a comment
            self._down.again()  # the turn fails there: its exchange is in the middle of sending
        return room

    def _keep(self, piece: bytes) -> None:
        if piece and not self.too_large:
            self._line.append(piece)
            self._line_bytes += len(piece)

    def _tell(self, messages: list[bytes]) -> bool:
        for message in messages:
            self._told = self._told or message.startswith(_TERMINAL)
        return self._socket.send(b"".join(map(text_frame, messages))) if messages else True

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

    def again(self) -> None:
        """A turn is no tunnel."""

    def start_tunnel(self) -> None:
        """A turn is never upgraded."""

    def finished(self, keep: bool) -> None:
        """The turn is over."""
        if self._status != 200:
            self._tell([error_of(self._status, b"".join(self._line))])
        self._over()

    def abort(self, reset: bool) -> None:
        """The turn broke off."""
        if not self._told:
            self._tell([write_error(Failure(502, "The answer broke off.", "upstream_cut", "server_error"))])
        self._over()

    def _over(self) -> None:
        self.exchange = None
        self._socket.ended()


def message_of(line: bytes) -> bytes:
    """The event in one line of a stream, of relayd's own or of one that passes; empty for comments and names."""
    line = line.strip()
    if line.startswith(b"data:"):
        line = line[5:].strip()
    return line if line.startswith(b"{") else b""


def error_of(status: int, body: bytes) -> bytes:
    """An error answer as the event that says the same."""
    try:
        told = json.loads(body)
        error = told["error"]
        failure = Failure(
            status, str(error["message"]), str(error.get("code") or ""), str(error.get("type") or ""),
            error.get("param"),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        failure = Failure(status, f"The request failed with status {status}.")
    return write_error(failure)


def turn_head(head: RequestHead, length: int) -> RequestHead:
    """The request of a turn: the upgrade's own fields, without what made it an upgrade."""
    lines = [
        line for line in head.lines
        if not (name := line.partition(b":")[0].lower()).startswith(b"sec-websocket-") and name not in _NOT_PASSED
    ]
    lines += [b"Host: " + head.authority, b"Content-Type: application/json", b"Content-Length: %d" % length]
    start = b"POST " + head.path + head.query + b" HTTP/1.1"
    return parse_head(b"\r\n".join([start, *lines, b"", b""]))
