"""Whether a client takes what it is sent: what its kernel has acknowledged counts, not what this process still holds.

1. Each acknowledgement is progress, so a client that reads steadily is not stalled, however slowly it reads. A client
   whose own kernel holds much for it acknowledges in steps of up to a sixteenth of its receive buffer: more cannot be
   known here.
2. What the kernel holds for a client is bounded: a slow one takes no megabytes, and one that has stopped is noticed
   before a quiet stream has filled them. Bytes under way are not bounded by this: a fast client far away loses nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import Any, Protocol

from relayd import clock

# In the kernel, beyond what the client's window takes; a Unix socket's buffer is as small. With half of it a fast
# download under TLS took a fifth more CPU, because each wake-up moved less.
UNSENT_BYTES = 256 * 1024


def bound_kernel_buffer(sock: socket.socket) -> None:
    """Bound what the kernel holds for each client of a listening socket; accepted sockets inherit it."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the kernel holds for a peer: not sent, or not acknowledged; of a Unix socket: not read. 0 where the
    kernel does not tell."""
    try:  # TIOCOUTQ is Python's name for SIOCOUTQ
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, struct.pack("i", 0)))[0])
    except OSError:
        return 0


class Stream(Protocol):
    """A client stream, as its delivery sees it."""

    socket: Any

    def backlog(self) -> int:
        """Bytes that wait to be written."""


class Delivery:
    """Made when bytes begin to wait for a client; looked at until none does."""

    __slots__ = ("_backlog", "_kernel", "_progress_s", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._backlog, self._kernel = stream.backlog(), -1
        self._progress_s = clock.monotonic()

    def stalled_s(self, now: float) -> float:
        """For how long the client has taken nothing. More bytes that wait for it are no sign of life."""
        backlog, kernel = self._stream.backlog(), unacknowledged(self._stream.socket)
        if backlog < self._backlog or kernel != self._kernel:
            self._progress_s = now
        self._backlog, self._kernel = backlog, kernel
        return now - self._progress_s
