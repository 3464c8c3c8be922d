"""Reads the PROXY protocol header in front of a connection, exactly to its last byte, so that TLS can follow."""

from __future__ import annotations

import socket
from typing import Protocol

from tornado.ioloop import IOLoop

from relayd import clock
from relayd.config.listener import ListenerTimeouts
from relayd.server.rejections import CLOSED, TIMEOUT
from relayd.wire.proxy_protocol import ProxyProtocolError, parse

PEEK = 8192


class ProxyHeaderContext(Protocol):
    """The part of a listener that a header reader uses."""

    loop: IOLoop
    timeouts: ListenerTimeouts

    def on_proxy_header(self, reader: ProxyHeaderReader, source: str) -> None:
        """Called with the address that the header names."""

    def on_proxy_header_fault(self, reader: ProxyHeaderReader, rule: str) -> None:
        """Called with the rule that the header violates, CLOSED or TIMEOUT."""


class ProxyHeaderReader:
    """An accepted socket whose header is incomplete. Owned by its listener."""

    __slots__ = ("_owner", "_since", "peer", "sock")

    def __init__(self, owner: ProxyHeaderContext, sock: socket.socket, peer: str) -> None:
        self.sock, self._owner, self.peer = sock, owner, peer
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
                self._fail("length" if seen else CLOSED)
                return
            source, size = found
            sock.recv(size)
        except BlockingIOError:
            return
        except ProxyProtocolError as fault:
            self._fail(fault.rule)
            return
        except OSError:
            self._fail(CLOSED)
            return
        self._owner.loop.remove_handler(sock)
        self._owner.on_proxy_header(self, self.peer if source is None else source.address)

    def _retry(self) -> None:
        if self.sock.fileno() >= 0:
            self._owner.loop.add_handler(self.sock, self._on_readable, IOLoop.READ)

    def _fail(self, rule: str) -> None:
        self._owner.loop.remove_handler(self.sock)
        self._owner.on_proxy_header_fault(self, rule)

    def enforce_timeouts(self, now: float) -> None:
        """Reject the connection if its header takes too long."""
        limit = self._owner.timeouts.handshake
        if limit and now - self._since > limit:
            self._fail(TIMEOUT)
