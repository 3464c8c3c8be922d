"""An Upgrade request and what comes of it: a tunnel after a valid 101, plain HTTP after anything else.

RFC 9110 7.8, RFC 6455 4: the endpoint must answer with a protocol that was asked for, and a WebSocket endpoint must
prove that it has read the key. Bytes that come with the 101 are not lost. The final head is bounded as everywhere: in
bytes, in fields, in interim heads before it, and by `first_byte` in time, which nothing before it resets.
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
from relayd.upstream.transport.slot import FIELDS_MAX, INTERIM_MAX
from relayd.upstream.transport.tunnel import Tunnel as Connection
from relayd.wire.chunked import ChunkedDecoder, ChunkedError
from relayd.wire.headers import TOKENS
from relayd.wire.http1 import RequestHead
from relayd.wire.response import BadResponse, ResponseHead, parse_response

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class UpgradedExchange(Protocol):
    """The exchange, as its endpoint's side sees it."""

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
    """The endpoint's side of an upgraded exchange, or a session that relayd itself holds."""

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
        # The transport's spelling: `Name:` means "no such field", `Name;` an empty one.
        expected = [line for line in fields if b":" not in line or line.partition(b":")[2].strip()]
        lines = [line if b":" in line else line[:-1] + b":" for line in expected]
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + (head.upgrade or b"") + b"\r\n\r\n"
        request = b"\r\n".join([head.method + b" " + target + b" HTTP/1.1", *lines, upgrade])
        self._tunnel = Connection(spec, endpoint.spec, request, self)

    # ---- the endpoint's side

    def on_connected(self) -> None:
        """The request is on its way."""
        self._last_progress_s = clock.monotonic()

    def on_bytes(self, data: bytes) -> None:
        """Bytes from the endpoint: the head, then the tunnel's or the body's."""
        self._exchange.guard(partial(self._take, data))

    def _take(self, data: bytes) -> None:
        if not self._is_tunnel and self._response is None:
            self._head(data)
            return
        self._last_progress_s = clock.monotonic()
        if not self._is_tunnel:
            self._body(data)
        elif not self._exchange.write_tunnel(data):
            self._hold()

    def _head(self, data: bytes) -> None:
        """Look for the final head, behind any interim ones; these are not passed on."""
        buffer = self._buffer
        buffer += data
        while (end := buffer.find(b"\r\n\r\n", self._scanned)) >= 0:
            head = bytes(buffer[: end + 4])
            del buffer[: end + 4]
            self._scanned = 0
            self._head_bytes += len(head)
            if self._head_bytes > self._limit or head.count(b"\n") > FIELDS_MAX:
                self._malformed("response head too large")
                return
            try:
                response = parse_response(head.splitlines(True))
            except BadResponse as fault:
                self._malformed(str(fault))
                return
            if self._keys is not None and self._keys.needs_cleaning(head):
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
        """The client is behind: read no more until it has caught up."""
        self._client_behind = True
        self._tunnel.pause()

    def _switch(self, response: ResponseHead, remainder: bytes) -> None:
        head = self._exchange.head
        asked = TOKENS[head.upgrade or b""]
        agreed = TOKENS[response.upgrade or b""]
        key = head.get(b"sec-websocket-key")
        if not agreed or not agreed <= asked or (agreed == {b"websocket"} and not _accepts_key(response, key)):
            self._malformed("101 that was not asked for")
            return
        self._is_tunnel = True
        lines = [b"Connection: Upgrade\r\n", b"Upgrade: ", response.upgrade or b"", b"\r\n\r\n"]
        self._exchange.switch(b"".join([status_line(101, response.reason), *response.keep, *lines]))
        if remainder:
            self._take(remainder)

    def _answer(self, response: ResponseHead, remainder: bytes) -> None:
        """No upgrade: an ordinary response, whose framing is followed here."""
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
        """The endpoint has taken what waited for it."""
        if self._upload_paused:
            self._upload_paused = False
            self._exchange.down.resume_body()

    def on_closed(self, code: str, detail: str) -> None:
        """The endpoint has closed the connection, or could not be reached."""
        framed = self._decoder is not None or self._remaining_bytes >= 0
        if self._client_ended:
            self._exchange.client_gone()  # it ended the tunnel; what waits for it is still delivered
        elif not code and (self._is_tunnel or (self._response is not None and not framed)):
            self._exchange.complete()
        else:
            self._exchange.fail(ExchangeError(code or "upstream_closed", detail))

    # ---- the client's side

    def upload(self, data: bytes) -> None:
        """Bytes from the client, after the switch."""
        self._last_progress_s = clock.monotonic()
        if not self._tunnel.write(data):
            self._upload_paused = True
            self._exchange.down.pause_body()

    def end_upload(self) -> bool:
        """The client sends no more; False where the endpoint cannot be told, so that the tunnel ends."""
        self._client_ended = self._is_tunnel and self._tunnel.end_writing()
        return self._client_ended

    def unhold(self) -> None:
        """The client can take more."""
        self._client_behind = False
        self._tunnel.resume()

    def enforce_timeouts(self, now: float, timeouts: Timeouts) -> None:
        """The sweep: before the answer first_byte counts, in the tunnel idle."""
        if self._client_behind:
            self._last_progress_s = now  # the client is the slow side
        waited_s = now - self._last_progress_s
        if self._response is None and not self._is_tunnel:
            if timeouts.first_byte_s and waited_s > timeouts.first_byte_s:
                self._exchange.fail(ExchangeError("first_byte_timeout", f"{timeouts.first_byte_s:g} s"))
        elif timeouts.idle_s and waited_s > timeouts.idle_s:
            self._exchange.fail(ExchangeError("idle_timeout", f"{timeouts.idle_s:g} s"))

    def close(self) -> None:
        """Leave the endpoint."""
        self._tunnel.close()


def _accepts_key(response: ResponseHead, key: bytes | None) -> bool:
    """Whether Sec-WebSocket-Accept answers the key (RFC 6455 4.2.2)."""
    if key is None:
        return False
    expected = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    for line in response.keep:
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-accept":
            return value.strip() == expected
    return False
