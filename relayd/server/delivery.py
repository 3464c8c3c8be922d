"""Detects stalled clients by the bytes that the client's kernel has acknowledged.

1. Each acknowledgement is progress, so a client that reads steadily is not stalled, however slowly it reads. A client
   with a large receive buffer acknowledges in steps of up to a sixteenth of it; smaller progress is invisible here.
2. The unsent bytes that the kernel holds for a client are bounded: a slow client does not hold megabytes, and a stopped
   one is noticed early, even on a quiet stream. Bytes in flight are not bounded, so long fast paths lose no throughput.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import Any, Protocol

from relayd import clock

# Unsent bytes in the kernel, beyond the client's window; a Unix socket's buffer is as small. With half of this limit a
# fast download over TLS took a fifth more CPU, because each wake-up moved fewer bytes.
UNSENT_BYTES = 256 * 1024


def bound_kernel_buffer(sock: socket.socket) -> None:
    """Limit the unsent bytes in the kernel for each client of a listening socket. Accepted sockets inherit it."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes in the kernel that the peer has not acknowledged; of a Unix socket, that the peer has not read. 0 if the
    kernel does not report it."""
    try:  # TIOCOUTQ is Python's name for SIOCOUTQ
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, struct.pack("i", 0)))[0])
    except OSError:
        return 0


class Stream(Protocol):
    """The part of a client stream that its Delivery uses."""

    socket: Any

    def backlog(self) -> int:
        """The number of bytes not yet written."""


class Delivery:
    """Exists from the first pending write of a client until all of them are done."""

    __slots__ = ("_backlog", "_kernel", "_progress_s", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._backlog, self._kernel = stream.backlog(), -1
        self._progress_s = clock.monotonic()

    def stalled_s(self, now: float) -> float:
        """The time in seconds since the client last made progress. Further queued bytes are no progress."""
        backlog, kernel = self._stream.backlog(), unacknowledged(self._stream.socket)
        if backlog < self._backlog or kernel != self._kernel:
            self._progress_s = now
        self._backlog, self._kernel = backlog, kernel
        return now - self._progress_s
