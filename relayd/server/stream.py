"""Client streams: IOStream without a Future for every read; bytes go straight to whoever owns the connection.

Laws:
1. One buffer serves all reads of the process: nothing is allocated for a connection that waits.
2. A turn reads at most `READS` buffers, and `RECORDS` of TLS, from one client, so that others have their turn.
3. Whoever pauses a stream is not woken by it; while it is paused only a reset is noticed.
4. A plain stream is read by its listener's watch and has a place on the loop only while bytes wait to be written.

Handshakes, writing and closing remain IOStream's. The names of BaseIOStream used here (`_state`, `_handle_events`,
`_handle_write`, `_add_io_state`, `_maybe_add_error_listener`, `_write_buffer`) are the same from Tornado 6.2 to 6.6.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream

from relayd.server.read_poller import ReadPoller

READS = 4
RECORD, RECORDS = 16384, 256  # of TLS: the bytes that one may hold, and how many a turn reads
SIZE = 65536
_BUFFER = bytearray(SIZE)
_VIEW = memoryview(_BUFFER)
READ, WRITE, ERROR = IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR


class _CallbackStream(IOStream):
    """Reading by callback."""

    on_bytes: Callable[[bytes], None] | None = None
    on_end: Callable[[], bool] | None = None  # the client sends no more; whether the stream stays for what it must get
    reading_enabled = True

    def pause(self) -> None:
        """Read no more for now."""
        self.reading_enabled = False

    def close(self, exc_info: Any = False) -> None:
        """Close it. The error that is kept loses its traceback, whose frames refer to this stream."""
        super().close(exc_info)
        if self.error is not None:
            self.error.__traceback__ = None
    def _end_reading(self) -> None:
        self.pause()
        if self.on_end is None or not self.on_end():
            self.close()

    def end_writing(self) -> None:
        """End this side of the connection."""
        if not self.closed():
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection: the client sees a reset, never a clean end."""
        if not self.closed():
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def backlog(self) -> int:
        """Bytes that wait to be written."""
        waiting = self._write_buffer  # None once the stream is closed
        return len(waiting) if waiting else 0


class ClientStream(_CallbackStream):
    """A plain client connection, read by a watch."""

    def __init__(self, sock: socket.socket, poller: ReadPoller, **options: Any) -> None:
        super().__init__(sock, **options)
        self._poller = poller

    def begin(self, on_bytes: Callable[[bytes], None]) -> None:
        """Hand every piece of bytes to `on_bytes` from now on."""
        self.on_bytes = on_bytes
        self._poller.add(self.socket.fileno(), self)

    def resume(self) -> None:
        """Read again."""
        self.reading_enabled = True
        if not self.closed():
            self._poller.rearm(self.socket.fileno())

    def handshaking(self) -> bool:
        """Never: there is none."""
        return False

    def receive(self) -> None:
        """Read what has come."""
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

    def on_hangup(self) -> None:
        """The connection was reset, or has ended both ways."""
        self.close()

    def send_now(self, data: bytes) -> int:
        """Write what the socket takes at once; how much that was. Raises OSError."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def close_fd(self) -> None:
        if self.socket is not None:
            self._poller.remove(self.socket.fileno())
        super().close_fd()

    def _maybe_add_error_listener(self) -> None:
        """Nothing: the watch sees the end."""

    def _handle_events(self, fd: Any, events: int) -> None:
        """The loop's part: the socket takes bytes again, or is broken."""
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
    """A client connection under TLS, read by the loop; IOStream makes the handshake."""

    _ssl_accepting = False

    def begin(self, on_bytes: Callable[[bytes], None]) -> None:
        """Hand every piece of bytes to `on_bytes` from now on."""
        self.on_bytes = on_bytes
        self._add_io_state(READ)

    def resume(self) -> None:
        """Read again."""
        self.reading_enabled = True
        if not self.closed():
            self._add_io_state(READ)

    def handshaking(self) -> bool:
        """Whether the TLS handshake is still under way."""
        return self._ssl_accepting

    def _handle_events(self, fd: Any, events: int) -> None:
        if self.closed():
            return
        if self._ssl_accepting or self.on_bytes is None:
            super()._handle_events(fd, events)
            return
        if events & READ and self.reading_enabled:
            self._receive()
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

    def _receive(self) -> None:
        """Read what has come. Small records are handed on together: each piece costs its owner work."""
        records = 0
        for _ in range(READS):
            filled, ended, fault = 0, False, None
            # There is room for a whole record: nothing decrypted stays where no poll sees it.
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
        """Write what the connection takes at once; how much that was. Raises OSError."""
        return self.write_to_fd(memoryview(data)) or 0
