"""One epoll for reading the client connections of a listener. The event loop polls only its descriptor.

Laws:
1. It only reads. Pending writes go through IOStream and the loop.
2. `after` is called once behind all reads of a turn, within the same turn.
3. A connection is polled from `add` to `remove`. A paused one is polled only for its end: of the whole connection, or
   of the client's side, behind bytes that wait unread. The latter is known only once those bytes have arrived.
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
    """The part of a stream that the poller uses."""

    reading_enabled: bool

    def receive(self) -> None:
        """Called when bytes or an end of stream can be read."""

    def on_hangup(self) -> None:
        """Called when the connection has ended in both directions while reading is paused."""

    def on_unread_end(self) -> None:
        """Called once when the client's end of stream has arrived while reading is paused."""


class ReadPoller:
    """Owned by its listener. Closed with the last connection of a removed listener."""

    def __init__(self, loop: IOLoop, after: Callable[[], None]) -> None:
        self._loop, self._after = loop, after
        self._epoll = select.epoll()
        self._streams: dict[int, PolledStream] = {}
        self._disarmed: set[int] = set()
        loop.add_handler(self._epoll.fileno(), self._on_ready, IOLoop.READ)

    def add(self, fd: int, stream: PolledStream) -> None:
        """Poll a connection that reads."""
        self._streams[fd] = stream
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget a connection whose descriptor is about to be closed, which removes it from the epoll."""
        self._streams.pop(fd, None)
        self._disarmed.discard(fd)

    def watch_end(self, fd: int, stream: PolledStream) -> None:
        """Poll a paused connection that something else reads, until `unwatch`."""
        if fd not in self._streams:
            self._streams[fd] = stream
            self._epoll.register(fd, select.EPOLLRDHUP)

    def unwatch(self, fd: int) -> None:
        """End `watch_end`."""
        if self._streams.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def rearm(self, fd: int) -> None:
        """Poll a paused connection for reading again."""
        if fd in self._disarmed:
            self._disarmed.discard(fd)
            self._epoll.modify(fd, select.EPOLLIN)

    def _on_ready(self, poll_fd: Any, events: int) -> None:
        streams = self._streams
        for fd, event in self._epoll.poll(0, PER_TURN):
            stream = streams.get(fd)
            if stream is None:  # closed by an earlier event of this turn
                continue
            try:
                if stream.reading_enabled:
                    stream.receive()
                elif event & _ENDED:
                    stream.on_hangup()
                elif event & select.EPOLLRDHUP:
                    self._epoll.modify(fd, 0)
                    stream.on_unread_end()
                elif fd not in self._disarmed:  # the level-triggered event would repeat in every turn
                    self._disarmed.add(fd)
                    self._epoll.modify(fd, select.EPOLLRDHUP)
            except Exception:  # rescue door: one connection must not stop the others
                LOG.exception("reading a client connection")
        self._after()

    def close(self) -> None:
        """Stop polling."""
        with contextlib.suppress(KeyError, OSError):
            self._loop.remove_handler(self._epoll.fileno())
        self._epoll.close()
