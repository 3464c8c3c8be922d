"""Accepts connections from listening sockets: bounded work in each turn of the loop, and pauses instead of spinning.

1. At a limit, or without free descriptors, accepting pauses: new connections wait in the kernel's accept queue. It
   resumes on a timer, and after a limit also as soon as `resume_if_limited` is called.
2. A connection that fails before it is accepted is skipped (accept(2): network errors of the new socket).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

from tornado.ioloop import IOLoop

from relayd.errors import EXHAUSTED

PER_TURN = 64
RETRY_S = 0.25
_FAILED = (
    errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ETIMEDOUT,
)


def never_full() -> bool:
    """The limit of sockets without one."""
    return False


class Acceptor:
    """Owned by the server of the sockets, which closes them."""

    def __init__(
        self, sockets: Sequence[socket.socket], on_accepted: Callable[[socket.socket, object], None],
        on_paused: Callable[[str], None], is_full: Callable[[], bool] = never_full,
    ) -> None:
        """`on_paused` gets the reason: limit or descriptors."""
        self._sockets, self._on_accepted, self._on_paused, self._is_full = sockets, on_accepted, on_paused, is_full
        self._loop = IOLoop.current()
        self._timer: object | None = None
        self._is_limited = False
        self.active = False

    def start(self) -> None:
        """Start or resume accepting."""
        if not self.active:
            self.active = True
            for sock in self._sockets:
                self._loop.add_handler(sock, self.accept_waiting, IOLoop.READ)

    def pause(self) -> None:
        """Stop accepting."""
        self._is_limited = False
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
        if self.active:
            self.active = False
            for sock in self._sockets:
                self._loop.remove_handler(sock)

    def resume_if_limited(self) -> None:
        """Resume accepting if only a limit prevents it. Called when a connection has ended."""
        if self._is_limited:
            self.pause()
            self.start()

    def accept_waiting(self, sock: socket.socket, events: int) -> None:
        """Accept connections that wait, at most PER_TURN."""
        for _ in range(PER_TURN):
            if self._is_full():
                self._back_off("limit")
                return
            try:
                client, address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._back_off("descriptors")
                    return
                if error.errno in _FAILED:
                    continue
                raise
            self._on_accepted(client, address)

    def _back_off(self, reason: str) -> None:
        self.pause()
        self._is_limited = reason == "limit"
        self._timer = self._loop.call_later(RETRY_S, self._resume)
        self._on_paused(reason)

    def _resume(self) -> None:
        self._timer = None
        self.start()
