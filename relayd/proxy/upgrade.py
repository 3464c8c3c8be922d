"""An Upgrade request: a tunnel after a valid 101 response, plain HTTP after any other response.

RFC 9110 7.8, RFC 6455 4: the endpoint must answer with a requested protocol, and a WebSocket endpoint must prove that
it has read the key. Bytes that arrive with the 101 go to the tunnel. The final head is bounded like every response
head: in bytes, in fields, in preceding interim heads, and by the timeout `first_byte`. Interim heads do not reset it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.plan import PlannedRoute
from relayd.proxy.downstream import Downstream
from relayd.proxy.location import relocate
from relayd.proxy.response_head import status_line
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import Timeouts, UpstreamSpec
from relayd.upstream.transport.slot import INTERIM_MAX
from relayd.upstream.transport.tunnel import Tunnel as Connection
from relayd.wire.chunked import ChunkedDecoder, ChunkedError
from relayd.wire.headers import TOKENS
from relayd.wire.http1 import RequestHead
from relayd.wire.response import BadResponse, ResponseHead, parse_response

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class UpgradedExchange(Protocol):
    """The interface of a tunnel to its exchange."""

    head: RequestHead
    down: Downstream
    route: PlannedRoute | None

    def switch(self, head: bytes) -> None: ...
    def write_tunnel(self, data: bytes) -> bool: ...
    def plain_answer(self, response: ResponseHead, body: bytes) -> bool: ...
    def complete(self) -> None: ...
    def guard(self, step: Callable[[], None]) -> None: ...
    def fail(self, fault: ExchangeError) -> None: ...
    def client_gone(self) -> None: ...


class Tunnel(Protocol):
    """The endpoint's side of an upgraded exchange, or a WebSocket session of relayd itself."""

    def upload(self, data: bytes) -> None: ...
    def end_upload(self) -> bool: ...
    def unhold(self) -> None: ...
    def enforce_timeouts(self, now: float, timeouts: Timeouts) -> None: ...
    def close(self) -> None: ...


class Upgrade:
    """The endpoint's side of one upgraded exchange; owned by the exchange."""

    def __init__(
        self, exchange: UpgradedExchange, spec: UpstreamSpec, endpoint: Endpoint, target: bytes, fields: list[bytes]
    ) -> None:
        self._exchange, self._spec, self._endpoint = exchange, spec, endpoint
        self._limit, self._keys = spec.response_header_bytes, endpoint.key_filter
        self._buffer = bytearray()
        self._scanned = self._interim_count = self._head_bytes = 0
        self._response: ResponseHead | None = None
        self._decoder: ChunkedDecoder | None = None
        self._remaining_bytes = -1
        self._is_tunnel = self._upload_paused = self._client_behind = self._client_ended = False
        self._last_progress_s = clock.monotonic()
        head = exchange.head
        # The syntax of the transport: `Name:` suppresses a field, `Name;` is an empty one.
        expected = [line for line in fields if b":" not in line or line.partition(b":")[2].strip()]
        lines = [line if b":" in line else line[:-1] + b":" for line in expected]
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + (head.upgrade or b"") + b"\r\n\r\n"
        request = b"\r\n".join([head.method + b" " + target + b" HTTP/1.1", *lines, upgrade])
        self._tunnel = Connection(spec, endpoint.spec, request, self)

    # ---- the endpoint's side

    def on_connected(self) -> None:
        """The connection is open, and the request is sent."""
        self._last_progress_s = clock.monotonic()

    def on_bytes(self, data: bytes) -> None:
        """Receive bytes of the endpoint: the head, then the tunnel or the body."""
        self._exchange.guard(partial(self._receive, data))

    def _receive(self, data: bytes) -> None:
        if not self._is_tunnel and self._response is None:
            self._head(data)
            return
        self._last_progress_s = clock.monotonic()
        if not self._is_tunnel:
            self._body(data)
        elif not self._exchange.write_tunnel(data):
            self._hold()

    def _head(self, data: bytes) -> None:
        """Parse the final head. Interim heads before it are dropped."""
        buffer = self._buffer
        buffer += data
        while (end := buffer.find(b"\r\n\r\n", self._scanned)) >= 0:
            head = bytes(buffer[: end + 4])
            del buffer[: end + 4]
            self._scanned = 0
            self._head_bytes += len(head)
            if self._head_bytes > self._limit:
                self._malformed("response head too large")
                return
            try:
                response = parse_response(head)
            except BadResponse as fault:
                self._malformed(str(fault))
                return
            if self._keys is not None:
                self._keys.clean(response)
            if response.status >= 200 or response.status == 101:
                remainder = bytes(buffer)
                buffer.clear()
                self._last_progress_s = clock.monotonic()
                if response.status == 101:
                    self._switch(response, remainder)
                else:
                    self._answer(response, remainder)
                return
            self._interim_count += 1
            if self._interim_count > INTERIM_MAX:
                self._malformed("too many interim heads")
                return
        self._scanned = max(0, len(buffer) - 3)
        if self._head_bytes + len(buffer) > self._limit:
            self._malformed("response head too large")

    def _malformed(self, detail: str) -> None:
        self._exchange.fail(ExchangeError("upstream_malformed", detail))

    def _hold(self) -> None:
        """Pause the endpoint: the client is slow."""
        self._client_behind = True
        self._tunnel.pause()

    def _switch(self, response: ResponseHead, remainder: bytes) -> None:
        head = self._exchange.head
        asked = TOKENS[head.upgrade or b""]
        agreed = TOKENS[response.upgrade or b""]
        key = head.get(b"sec-websocket-key")
        if not agreed or not agreed <= asked or (agreed == {b"websocket"} and not _accepts_key(response, key)):
            self._malformed("101 for a protocol that was not requested")
            return
        self._is_tunnel = True
        lines = [b"Connection: Upgrade\r\n", b"Upgrade: ", response.upgrade or b"", b"\r\n\r\n"]
        self._exchange.switch(b"".join([status_line(101, response.reason), *response.keep, *lines]))
        if remainder:
            self._receive(remainder)

    def _answer(self, response: ResponseHead, remainder: bytes) -> None:
        """Forward an ordinary response, whose framing is decoded here."""
        self._response = response
        if self._exchange.head.method == b"HEAD" or response.status in (204, 304):
            self._remaining_bytes = 0
        elif response.chunked:
            self._decoder = ChunkedDecoder()
        elif response.length is not None:
            self._remaining_bytes = response.length
        if response.has_location and self._exchange.route is not None:
            relocate(response, self._exchange.head.path, self._exchange.route, self._spec, self._endpoint)
        self._exchange.plain_answer(response, b"")
        self._body(remainder)

    def _body(self, data: bytes) -> None:
        assert self._response is not None
        if self._decoder is not None:
            try:
                data = self._decoder.feed(data, max_pieces=1 << 30)
            except ChunkedError as fault:
                self._malformed(f"chunked body: {fault.rule}")
                return
            done = self._decoder.done
        elif self._remaining_bytes >= 0:
            data = data[: self._remaining_bytes]
            self._remaining_bytes -= len(data)
            done = self._remaining_bytes == 0
        else:
            done = False
        if data and not self._exchange.plain_answer(self._response, data):
            self._hold()
        if done:
            self._exchange.complete()

    def on_writable(self) -> None:
        """Resume the client: the endpoint has received all buffered bytes."""
        if self._upload_paused:
            self._upload_paused = False
            self._exchange.down.resume_body()

    def on_closed(self, code: str, detail: str) -> None:
        """The endpoint has closed the connection, or is unreachable."""
        framed = self._decoder is not None or self._remaining_bytes >= 0
        if self._client_ended:
            self._exchange.client_gone()  # the client ended the tunnel; buffered bytes are still sent
        elif not code and (self._is_tunnel or (self._response is not None and not framed)):
            self._exchange.complete()
        else:
            self._exchange.fail(ExchangeError(code or "upstream_closed", detail))

    # ---- the client's side

    def upload(self, data: bytes) -> None:
        """Send bytes of the client to the endpoint."""
        self._last_progress_s = clock.monotonic()
        if not self._tunnel.write(data):
            self._upload_paused = True
            self._exchange.down.pause_body()

    def end_upload(self) -> bool:
        """Close the sending side of the tunnel. Returns False if that is impossible, which ends the tunnel."""
        self._client_ended = self._is_tunnel and self._tunnel.end_writing()
        return self._client_ended

    def unhold(self) -> None:
        """Resume the endpoint: the client can receive more."""
        self._client_behind = False
        self._tunnel.resume()

    def enforce_timeouts(self, now: float, timeouts: Timeouts) -> None:
        """The sweep: `first_byte` applies before the response, `idle` in the tunnel."""
        if self._client_behind:
            self._last_progress_s = now  # the client is the slow side
        waited_s = now - self._last_progress_s
        if self._response is None and not self._is_tunnel:
            if timeouts.first_byte_s and waited_s > timeouts.first_byte_s:
                self._exchange.fail(ExchangeError("first_byte_timeout", f"{timeouts.first_byte_s:g} s"))
        elif timeouts.idle_s and waited_s > timeouts.idle_s:
            self._exchange.fail(ExchangeError("idle_timeout", f"{timeouts.idle_s:g} s"))

    def close(self) -> None:
        """Close the connection to the endpoint."""
        self._tunnel.close()


def _accepts_key(response: ResponseHead, key: bytes | None) -> bool:
    """True if Sec-WebSocket-Accept is valid for the key (RFC 6455 4.2.2)."""
    if key is None:
        return False
    expected = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    for line in response.keep:
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-accept":
            return value.strip() == expected
    return False
