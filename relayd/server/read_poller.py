"""The watch: one epoll for the client connections of a listener; the loop sees only its descriptor.

Laws:
1. It reads; what must be written later goes through IOStream and the loop.
2. What one turn brought is handed on together: `after` is called once behind the last of it, not by the next turn.
3. A connection is watched from `add` to `remove`; a paused one only for the end of the whole connection.
"""

from __future__ import annotations

import contextlib
import logging
import select
from collections.abc import Callable
from typing import Any, Protocol

from tornado.ioloop import IOLoop

LOG = logging.getLogger("relayd.connection")
PER_TURN = 64
_ENDED = select.EPOLLERR | select.EPOLLHUP


class PolledStream(Protocol):
    """A stream, as the watch sees it."""

    reading_enabled: bool

    def receive(self) -> None:
        """There is something to read, or it has ended."""

    def on_hangup(self) -> None:
        """The connection has ended both ways while nobody reads it."""


class ReadPoller:
    """Owned by its listener; closed when the listener has gone and its last connection with it."""

    def __init__(self, loop: IOLoop, after: Callable[[], None]) -> None:
        self._loop, self._after = loop, after
        self._epoll = select.epoll()
        self._streams: dict[int, PolledStream] = {}
        self._disarmed: set[int] = set()
        loop.add_handler(self._epoll.fileno(), self._on_ready, IOLoop.READ)

    def add(self, fd: int, stream: PolledStream) -> None:
        """Watch a connection that wants to be read."""
        self._streams[fd] = stream
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Its descriptor will be closed now, which takes it out of the epoll."""
        self._streams.pop(fd, None)
        self._disarmed.discard(fd)

    def rearm(self, fd: int) -> None:
        """A paused connection is to be read again."""
        if fd in self._disarmed:
            self._disarmed.discard(fd)
            self._epoll.modify(fd, select.EPOLLIN)

    def _on_ready(self, poll_fd: Any, events: int) -> None:
        streams = self._streams
        for fd, event in self._epoll.poll(0, PER_TURN):
            stream = streams.get(fd)
            if stream is None:  # closed by what came before it in this turn
                continue
            try:
                if stream.reading_enabled:
                    stream.receive()
                elif event & _ENDED:
                    stream.on_hangup()
                else:  # nobody reads it: level-triggered, it would come again and again
                    self._disarmed.add(fd)
                    self._epoll.modify(fd, 0)
            except Exception:  # rescue door: one connection must not stop the others
                LOG.exception("watch")
        self._after()

    def close(self) -> None:
        """Nothing is watched any more."""
        with contextlib.suppress(KeyError, OSError):
            self._loop.remove_handler(self._epoll.fileno())
        self._epoll.close()
