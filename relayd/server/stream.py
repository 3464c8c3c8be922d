"""Client streams: IOStream without a Future for each read. Bytes go directly to the owner of the connection.

Laws:
1. One buffer serves all reads of the process: an idle connection allocates nothing.
2. A turn reads at most `READS` buffers, and `RECORDS` TLS records, from one client, so that other clients get theirs.
3. A paused stream does not wake its owner; only the end of the connection or of the client's side is noticed.
4. A plain stream is read by its listener's poller. It is registered with the loop only while writes are pending.

IOStream still does handshakes, writing and closing. The names of BaseIOStream used in server/ (`_state`, `_closed`,
`_connecting`, `_handle_events`, `_handle_write`, `_add_io_state`, `_maybe_add_error_listener`, `_write_buffer`,
`_write_futures`, `_StreamBuffer`) are the same from Tornado 6.2 to 6.6.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import struct
from asyncio import Future
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream, _StreamBuffer

from relayd.access.client_certificate import ClientCertificate, certificate_of, no_certificate
from relayd.server.read_poller import ReadPoller

READS = 4
RECORD, RECORDS = 16384, 256  # of TLS: the largest size in bytes, and the most records that one turn reads
SIZE = 65536
_BUFFER = bytearray(SIZE)
_VIEW = memoryview(_BUFFER)
_NOTHING_WRITTEN, _NO_FUTURES = _StreamBuffer(), collections.deque[Any]()  # of all streams before their first write
READ, WRITE, ERROR = IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR


class _CallbackStream(IOStream):
    """A stream that delivers what it reads to a callback."""

    on_bytes: Callable[[bytes], None] | None = None
    on_end: Callable[[], bool] | None = None  # end of stream; returns True if the stream must stay open for writing
    on_early_end: Callable[[], None] | None = None  # the client's end of stream has arrived behind unread bytes
    reading_enabled = True
    has_unread_end = False  # from then on
    is_reset = False

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._write_buffer, self._write_futures = _NOTHING_WRITTEN, _NO_FUTURES

    def write(self, data: bytes | memoryview) -> Future[None]:
        """Write, and resolve the result when all is written. The first write creates the buffer: without it, a
        connection needs 1.5 KiB less."""
        if self._write_buffer is _NOTHING_WRITTEN:
            self._write_buffer, self._write_futures = _StreamBuffer(), collections.deque()
        return super().write(data)

    def pause(self) -> None:
        """Stop reading for now."""
        self.reading_enabled = False

    def close(self, exc_info: Any = False) -> None:
        """Close the stream. The stored error loses its traceback, whose frames refer to this stream."""
        super().close(exc_info)
        if self.error is not None:
            self.error.__traceback__ = None

    def _end_reading(self) -> None:
        self.pause()
        if self.on_end is None or not self.on_end():
            self.close()

    def release_owner(self) -> None:
        """Drop the callbacks. This breaks a reference cycle: the owner's memory is freed at once."""
        self.on_bytes = self.on_end = self.on_early_end = None

    def on_hangup(self) -> None:
        """Close the stream: the connection was reset, or has ended in both directions."""
        self.close()

    def on_unread_end(self) -> None:
        """Tell the owner that the client's end of stream has arrived while reading is paused."""
        self.has_unread_end = True
        if self.on_early_end is not None:
            self.on_early_end()

    def end_writing(self) -> None:
        """Close the sending direction of the connection."""
        if not self.closed():
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection, so that the client sees no clean end."""
        if not self.closed():
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.is_reset = True
            self.close()

    def backlog(self) -> int:
        """The number of bytes not yet written."""
        waiting = self._write_buffer  # None once the stream is closed
        return len(waiting) if waiting else 0


class ClientStream(_CallbackStream):
    """A client connection without TLS, read by a ReadPoller.

    Its own members have slots: with more than 30 members in the dictionary of a stream, CPython would not share the
    keys between streams, which costs 1.4 KiB for each connection."""

    __slots__ = ("_poller", "has_unread_end", "on_bytes", "on_early_end", "on_end", "reading_enabled")

    def __init__(self, sock: socket.socket, poller: ReadPoller, **options: Any) -> None:
        self.release_owner()
        self.reading_enabled, self.has_unread_end = True, False
        super().__init__(sock, **options)
        self._poller: ReadPoller = poller

    def begin(self, on_bytes: Callable[[bytes], None]) -> None:
        """Start reading. Every piece is passed to `on_bytes`."""
        self.on_bytes = on_bytes
        self._poller.add(self.socket.fileno(), self)

    def resume(self) -> None:
        """Resume reading."""
        self.reading_enabled = True
        if not self.closed():
            self._poller.rearm(self.socket.fileno())

    def handshaking(self) -> bool:
        """False: a plain connection has no handshake."""
        return False

    def receive(self) -> None:
        """Read the bytes that have arrived."""
        recv_into, on_bytes = self.socket.recv_into, self.on_bytes
        assert on_bytes is not None
        for _ in range(READS):
            try:
                size = recv_into(_BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(exc_info=error)
                return
            if size == 0:
                self._end_reading()
                return
            on_bytes(bytes(_VIEW[:size]))
            if size < SIZE or not self.reading_enabled or self.closed():
                return

    client_certificate = staticmethod(no_certificate)

    def send_now(self, data: bytes) -> int:
        """Write what the socket accepts immediately. Returns the number of bytes written. Raises OSError."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def close_fd(self) -> None:
        if self.socket is not None:
            self._poller.remove(self.socket.fileno())
        super().close_fd()

    def _maybe_add_error_listener(self) -> None:
        """Nothing to do: the poller sees the end."""

    def _handle_events(self, fd: Any, events: int) -> None:
        """Called by the loop when the socket accepts bytes again, or is broken."""
        if self.closed():
            return
        if events & WRITE:
            self._handle_write()
        if not self.closed() and events & ERROR:
            self.close()
        if not self.closed() and not self._write_buffer:
            self._state = None
            self.io_loop.remove_handler(self.socket)


class TlsClientStream(_CallbackStream, SSLIOStream):
    """A client connection with TLS, read by the loop. IOStream does the handshake. While the stream is paused, the
    listener's ReadPoller watches for its end: asyncio polls no descriptor that is neither read nor written."""

    _ssl_accepting = False
    _certificate_read = False
    _certificate: ClientCertificate | None = None

    def __init__(self, sock: socket.socket, poller: ReadPoller, **options: Any) -> None:
        super().__init__(sock, **options)
        self._poller = poller

    def begin(self, on_bytes: Callable[[bytes], None]) -> None:
        """Start reading. Every piece is passed to `on_bytes`."""
        self.on_bytes = on_bytes
        self._add_io_state(READ)

    def pause(self) -> None:
        """Stop reading for now."""
        super().pause()
        if not self.closed():
            self._poller.watch_end(self.socket.fileno(), self)

    def resume(self) -> None:
        """Resume reading."""
        self.reading_enabled = True
        if not self.closed():
            self._poller.unwatch(self.socket.fileno())
            self._add_io_state(READ)

    def close_fd(self) -> None:
        if self.socket is not None:
            self._poller.remove(self.socket.fileno())
        super().close_fd()

    def close(self, exc_info: Any = False) -> None:
        """Close the stream. A clean end is announced to the client."""
        if not exc_info and not self.is_reset and not self.closed():
            self._send_close_notify()
        super().close(exc_info)

    def end_writing(self) -> None:
        """Announce the end, and close the sending direction of the connection. The stream can still read."""
        if not self.closed():
            self._send_close_notify()
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_WR)  # that of SSLSocket ends decryption

    def _send_close_notify(self) -> None:
        """Send the alert that tells a complete end from a truncation (RFC 8446 6.1), unless the handshake or earlier
        bytes are incomplete."""
        if not self._ssl_accepting and not self._write_buffer:
            with contextlib.suppress(OSError, ValueError):  # the client's own alert has not arrived
                self.socket.unwrap()

    def handshaking(self) -> bool:
        """True during the TLS handshake."""
        return self._ssl_accepting

    def client_certificate(self) -> ClientCertificate | None:
        """The verified certificate of the client; None without one. Decoded once."""
        if not self._certificate_read:
            self._certificate_read = True
            self._certificate = certificate_of(self.socket.getpeercert())
        return self._certificate

    def _handle_events(self, fd: Any, events: int) -> None:
        if self.closed():
            return
        if self._ssl_accepting or self.on_bytes is None:
            super()._handle_events(fd, events)
            return
        if events & READ and self.reading_enabled:
            self.receive()
        if events & WRITE and not self.closed():
            self._handle_write()
        if self.closed():
            return
        if events & ERROR:
            self.close()
            return
        state = ERROR | (READ if self.reading_enabled else 0) | (WRITE if self._write_buffer else 0)
        if state != self._state:
            self._state = state
            self.io_loop.update_handler(self.fileno(), state)

    def receive(self) -> None:
        """Read the bytes that have arrived. Small records are delivered together, because each delivery costs work."""
        records = 0
        for _ in range(READS):
            filled, ended, fault = 0, False, None
            # Space for a whole record: decrypted bytes left inside the TLS library would wake no poll.
            while not ended and filled <= SIZE - RECORD and records < RECORDS:
                records += 1
                try:
                    size = self.read_from_fd(_VIEW[filled:])
                except OSError as error:
                    ended, fault = True, error
                    break
                if size is None:
                    records = RECORDS
                elif size == 0:
                    ended = True
                else:
                    filled += size
            if filled and self.on_bytes is not None:
                self.on_bytes(bytes(_VIEW[:filled]))
            if fault is not None and not self.closed():
                self.close(exc_info=fault)
            elif ended and not self.closed():
                self._end_reading()
            if records >= RECORDS or self.closed() or not self.reading_enabled:
                return

    def send_now(self, data: bytes) -> int:
        """Write what the connection accepts immediately. Returns the number of bytes written. Raises OSError."""
        return self.write_to_fd(memoryview(data)) or 0
