"""Reads the PROXY protocol header in front of a connection, exactly to its last byte, so that TLS can follow."""

from __future__ import annotations

import socket
from typing import Protocol

from tornado.ioloop import IOLoop

from relayd import clock
from relayd.config.listener import ListenerTimeouts
from relayd.wire.proxy_protocol import ProxyProtocolError, parse

PEEK = 8192


class ProxyHeaderContext(Protocol):
    """The part of a listener that a header reader uses."""

    loop: IOLoop
    timeouts: ListenerTimeouts

    def on_proxy_header(self, reader: ProxyHeaderReader, source: str | None) -> None:
        """Called with the address that the header names, or None if it was rejected."""


class ProxyHeaderReader:
    """An accepted socket whose header is incomplete. Owned by its listener."""

    __slots__ = ("_owner", "_peer", "_since", "sock")

    def __init__(self, owner: ProxyHeaderContext, sock: socket.socket, peer: str) -> None:
        self.sock, self._owner, self._peer = sock, owner, peer
        self._since = clock.monotonic()
        owner.loop.add_handler(sock, self._on_readable, IOLoop.READ)

    def _on_readable(self, sock: socket.socket, events: int) -> None:
        try:
            seen = sock.recv(PEEK, socket.MSG_PEEK)
            found = parse(seen) if seen else None
            if found is None and seen and len(seen) < PEEK:
                # Peeked bytes would wake the level-triggered loop in every turn: poll on a timer instead.
                self._owner.loop.remove_handler(sock)
                self._owner.loop.call_later(0.05, self._retry)
                return
            if found is None:
                self._end(None)
                return
            source, size = found
            sock.recv(size)
        except BlockingIOError:
            return
        except (OSError, ProxyProtocolError):
            self._end(None)
            return
        self._end(self._peer if source is None else source.address)

    def _retry(self) -> None:
        if self.sock.fileno() >= 0:
            self._owner.loop.add_handler(self.sock, self._on_readable, IOLoop.READ)

    def _end(self, source: str | None) -> None:
        self._owner.loop.remove_handler(self.sock)
        self._owner.on_proxy_header(self, source)

    def enforce_timeouts(self, now: float) -> None:
        """Reject the connection if its header takes too long."""
        limit = self._owner.timeouts.handshake
        if limit and now - self._since > limit:
            self._end(None)
