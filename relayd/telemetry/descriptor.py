"""Non-blocking output of log lines to a file descriptor; never raises.

1. A write never blocks the event loop. A pipe or terminal is opened again in non-blocking mode, because the original
   file description is shared with the parent process and must not be modified. A socket is written with MSG_DONTWAIT.
2. The buffer is bounded. Lines that do not fit are dropped as a whole and counted; a partially written line is
   completed first.
3. A regular file is opened for appending, which is safe with several instances and with logrotate's copytruncate.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from collections.abc import Callable

LIMIT = 1 << 20
NEWLINE = 10
MAX_PIECE = 4096  # PIPE_BUF: bytes that a writable pipe or terminal accepts without blocking

Fault = Callable[[str], None]


class Descriptor:
    """One destination of log lines; owned by the log that writes to it.

    `on_fault` is called once when writing begins to fail, and `on_recovery` once, with the number of lost lines, when
    it works again. `dropped` counts lost lines since the start.
    """

    __slots__ = (
        "_fd",
        "_is_partial",
        "_poll",
        "_rest",
        "_socket",
        "broken",
        "dropped",
        "lost",
        "on_fault",
        "on_recovery",
        "path",
    )

    def __init__(self, path: str | None = None, fd: int = 1) -> None:
        self.path = path
        self.dropped = 0
        self.lost = 0
        self.broken = ""
        self.on_fault: Fault | None = None
        self.on_recovery: Callable[[int], None] | None = None
        self._rest = b""
        self._is_partial = False
        self._fd = -1
        self._poll = False
        self._socket: socket.socket | None = None
        if path is None:
            self._open_shared(fd)
        else:
            self._fd = opened(path)

    def _open_shared(self, fd: int) -> None:
        """Use a descriptor that other processes share: its flags are never changed, and it is left open."""
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd = self._socket.fileno()
            return
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            try:
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                return
            except OSError:  # a terminal of another user: poll before each write instead
                self._poll = True
        self._fd = os.dup(fd)

    @property
    def terminal(self) -> bool:
        return self._fd >= 0 and os.isatty(self._fd)

    @property
    def waiting(self) -> int:
        return len(self._rest)

    def write(self, data: bytes, lines: int) -> None:
        """Write complete lines after the buffered ones; lines that exceed the buffer are dropped and counted."""
        if self._rest and len(self._rest) + len(data) > LIMIT:
            self.drain()
            if len(self._rest) + len(data) > LIMIT:
                self._drop(lines)
                return
        if self._rest:
            data = self._rest + data
        elif self._is_partial:  # the end of the previous line was lost: begin a new line
            data = b"\n" + data
        self._rest = data
        self.drain()

    def drain(self) -> bool:
        """Write as much as the destination accepts now. Returns True if the buffer is empty."""
        rest, has_written = self._rest, False
        while rest:
            try:
                written = self._send(rest)
                has_written = True
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                self._rest = b""
                self._drop(rest.count(b"\n"), os.strerror(error.errno or errno.EIO))
                return True
            self._is_partial = rest[written - 1] != NEWLINE
            rest = rest[written:]
        self._rest = rest
        if not rest and self.lost and has_written:
            lost, self.lost, self.broken = self.lost, 0, ""
            if self.on_recovery is not None:
                self.on_recovery(lost)
        return not rest

    def _send(self, data: bytes) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "closed")
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._poll:
            ready = select.poll()
            ready.register(self._fd, select.POLLOUT)
            if not ready.poll(0):
                raise BlockingIOError
            return os.write(self._fd, data[:MAX_PIECE])
        return os.write(self._fd, data)

    def _drop(self, lines: int, why: str = "the reader is too slow") -> None:
        self.dropped += lines
        first = not self.lost
        self.lost += lines
        self.broken = why
        if first and self.on_fault is not None:
            self.on_fault(why)

    def reopen(self) -> None:
        """Reopen the path after a rotation. Raises OSError; then the old file stays in use."""
        if self.path is None:
            return
        self.drain()
        fresh = opened(self.path)
        self.close()
        self._fd, self._is_partial = fresh, False

    def close(self) -> None:
        """Write what can be written without blocking, and close."""
        self.drain()
        if self._socket is not None:
            self._socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd, self._socket = -1, None


def opened(path: str) -> int:
    """Open a log file for appending, mode 0640; does not block on a FIFO. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o640)
