"""A dedicated connection for an Upgrade request: a plain IOStream, because libcurl cannot tunnel it."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from typing import Any, Protocol
from urllib.parse import urlsplit

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.tcpclient import TCPClient
from tornado.util import TimeoutError as TornadoTimeoutError

from relayd import clock
from relayd.lazy_regex import lazy_regex
from relayd.upstream.spec import EndpointSpec, TlsSpec, UpstreamSpec
from relayd.upstream.transport.faults import is_exhaustion

HIGH_WATER = 64 * 1024
_REFUSED = lazy_regex(r"ALERT_(?:BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|ACCESS_DENIED)")
PIECE = 16 * 1024  # bytes read in one turn of the loop


class TunnelSink(Protocol):
    """Receives the events of a tunnel."""

    def on_connected(self) -> None:
        """The connection is established and the request was written."""

    def on_bytes(self, data: bytes) -> None:
        """Bytes from the endpoint."""

    def on_writable(self) -> None:
        """All buffered bytes were sent to the endpoint."""

    def on_closed(self, code: str, detail: str) -> None:
        """The connection ended; `code` is empty if the endpoint closed it, else the error code."""


@functools.lru_cache(maxsize=32)
def _context(tls: TlsSpec) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert and tls.key:
        context.load_cert_chain(tls.cert, tls.key)
    return context


class Tunnel:
    """One connection; owned by the exchange that opened it."""

    def __init__(self, spec: UpstreamSpec, endpoint: EndpointSpec, request: bytes, sink: TunnelSink) -> None:
        self._spec, self._endpoint, self._request = spec, endpoint, request
        self._sink: TunnelSink | None = sink  # None after the end: the sink refers to this connection
        self._stream: IOStream | None = None
        self._handshake_socket: socket.socket | None = None  # the connection during its handshake
        self._closed = self._reading = self._read_scheduled = self._ending = False
        self._ended: tuple[str, str] | None = None  # code and detail of the end; bytes sent before it are still read
        self._wants_data = True
        IOLoop.current().add_callback(self._open)

    async def _open(self) -> None:
        deadline = clock.monotonic() + self._spec.timeouts.connect_s
        try:
            context = _context(self._spec.tls) if self._endpoint.tls else None
        except (OSError, ValueError) as error:
            self._end("out_of_resources" if is_exhaustion(error) else "tls_failed", str(error))
            return
        try:
            stream = None if self._closed else await self._connect()
            if stream is not None and context is not None:
                stream = await self._tls_handshake(stream, context, deadline)
        except (TornadoTimeoutError, TimeoutError):
            self._end("connect_timeout", "")
            return
        except (OSError, StreamClosedError, ValueError, RuntimeError) as error:
            self._end(*self._cause(getattr(error, "real_error", None) or error))
            return
        finally:
            if self._handshake_socket is not None:
                self._handshake_socket.close()
                self._handshake_socket = None
        if stream is not None:
            self._begin(stream)

    def _cause(self, error: BaseException) -> tuple[str, str]:
        """Code and detail of a failure before the connection is established."""
        if is_exhaustion(error):
            return "out_of_resources", str(error)
        return "connect_failed" if self._handshake_socket is None else "tls_failed", str(error)

    def _begin(self, stream: IOStream) -> None:
        if self._closed:  # the client left during the connect
            stream.close()
            return
        self._stream = stream
        stream.set_close_callback(self._on_close)
        self.write(self._request)
        self._request = b""
        if self._sink is not None:
            self._sink.on_connected()
        self._read()

    async def _connect(self) -> IOStream:
        endpoint, timeout = self._endpoint, self._spec.timeouts.connect_s
        if endpoint.unix is not None:
            stream = IOStream(socket.socket(socket.AF_UNIX), read_chunk_size=16384)
            await stream.connect(endpoint.unix)
            return stream
        host, colon, port = endpoint.authority.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = endpoint.authority, "443" if endpoint.tls else "80"
        tcp = TCPClient()
        stream = await tcp.connect(host.strip("[]"), int(port), timeout=timeout)
        stream.set_nodelay(True)
        return stream

    async def _tls_handshake(self, stream: IOStream, context: ssl.SSLContext, deadline: float) -> IOStream:
        """TLS handshake. A second descriptor of the socket ends a handshake that times out or is cancelled."""
        host = urlsplit(self._endpoint.origin).hostname or ""
        self._handshake_socket = stream.socket.dup()
        if self._closed:
            self._hang_up()
        late = IOLoop.current().call_later(max(0.0, deadline - clock.monotonic()), self._too_late)
        try:
            return await stream.start_tls(False, context, server_hostname=self._spec.tls.server_name or host)
        finally:
            IOLoop.current().remove_timeout(late)

    def _too_late(self) -> None:
        self._end("connect_timeout", "during the TLS handshake")
        self._hang_up()

    def _hang_up(self) -> None:
        if self._handshake_socket is not None:
            with contextlib.suppress(OSError):
                self._handshake_socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        self._read_scheduled = False
        stream = self._stream
        if stream is None or self._reading or not self._wants_data or self._closed:
            return
        try:
            future: Any = stream.read_bytes(PIECE, partial=True)
        except (StreamClosedError, ssl.SSLError):  # an alert closes the stream, and is raised here as well
            if self._ended is not None:
                self._end(*self._ended)
            return
        self._reading = True
        if future.done():
            self._on_read(future)
        else:
            future.add_done_callback(self._on_read)

    def _on_read(self, future: Any) -> None:
        self._reading = False
        if self._closed or future.cancelled():
            return
        if future.exception() is not None:
            self._read()  # no bytes are left: report the end, if it is known by now
            return
        if self._sink is not None:
            self._sink.on_bytes(future.result())
        self._read_later()

    def _read_later(self) -> None:
        """Read in the next turn of the loop, so that a fast endpoint does not occupy this one."""
        if not self._read_scheduled and not self._closed:
            self._read_scheduled = True
            IOLoop.current().add_callback(self._read)

    def write(self, data: bytes) -> bool:
        """Send to the endpoint. Returns False if its buffer is above HIGH_WATER; `on_writable` will follow."""
        stream = self._stream
        if stream is None or self._closed:
            return True
        try:
            future = stream.write(data)
        except StreamClosedError:
            return True
        if not future.done():
            future.add_done_callback(self._on_written)
        waiting = stream._write_buffer
        return not waiting or len(waiting) <= HIGH_WATER

    def _on_written(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is None and self._sink is not None:
            self._shut()
            self._sink.on_writable()

    def end_writing(self) -> bool:
        """Half-close the connection after the bytes already written. Returns False if that is impossible (TLS)."""
        if self._stream is None or isinstance(self._stream, SSLIOStream):
            return False
        self._ending = True
        self._shut()
        return True

    def _shut(self) -> None:
        stream = self._stream
        if self._ending and stream is not None and not stream._write_buffer:
            with contextlib.suppress(OSError):
                stream.socket.shutdown(socket.SHUT_WR)

    def pause(self) -> None:
        """Stop reading from the endpoint."""
        self._wants_data = False

    def resume(self) -> None:
        """Read again, in the next turn."""
        if not self._wants_data:
            self._wants_data = True
            self._read_later()

    def buffered(self) -> int:
        """Bytes buffered for the endpoint."""
        waiting = self._stream._write_buffer if self._stream is not None else None
        return len(waiting) if waiting else 0

    def _on_close(self) -> None:
        error = self._stream.error if self._stream is not None else None
        if error is not None:
            error.__traceback__ = None  # its frames refer to the stream
        # Under TLS 1.3 a client certificate is refused after the handshake, by an alert.
        refused = isinstance(error, ssl.SSLError) and _REFUSED.search(error.reason or "") is not None
        code = "tls_failed" if refused else "upstream_closed"
        self._ended = (code if error is not None else "", str(error or ""))
        self._read()

    def _end(self, code: str, detail: str) -> None:
        sink, self._sink = self._sink, None
        self._closed = True
        if sink is not None:
            sink.on_closed(code, detail)

    def close(self) -> None:
        """Close the connection; the sink is not called again."""
        self._closed, self._sink, self._request = True, None, b""
        self._hang_up()
        if self._stream is not None:
            self._stream.close()
