"""Peeks at the ClientHello of a connection, so that the certificate can depend on its protocols.

Used only while a challenge of tls-alpn-01 is pending.
"""

from __future__ import annotations

import socket
from typing import Protocol

from tornado.ioloop import IOLoop

from relayd import clock
from relayd.config.listener import ListenerTimeouts
from relayd.wire.client_hello import ClientHello, ClientHelloError, parse

PEEK = 16384
RETRY_S = 0.05


class ClientHelloContext(Protocol):
    """The part of a listener that a reader uses."""

    loop: IOLoop
    timeouts: ListenerTimeouts

    def on_client_hello(self, reader: ClientHelloReader, hello: ClientHello) -> None:
        """Called with the ClientHello."""

    def on_client_hello_fault(self, reader: ClientHelloReader, fault: Exception | None) -> None:
        """Called if the connection has ended (None), sent something else, or took too long (TimeoutError)."""


class ClientHelloReader:
    """An accepted socket of which nothing was read yet. Owned by its listener."""

    __slots__ = ("_owner", "_since", "counted", "peer", "sock")

    def __init__(self, owner: ClientHelloContext, sock: socket.socket, peer: str, counted: str) -> None:
        self.sock, self.peer, self.counted, self._owner = sock, peer, counted, owner
        self._since = clock.monotonic()
        owner.loop.add_handler(sock, self._on_readable, IOLoop.READ)

    def _on_readable(self, sock: socket.socket, events: int) -> None:
        try:
            seen = sock.recv(PEEK, socket.MSG_PEEK)
            hello = parse(seen) if seen else None
        except BlockingIOError:
            return
        except (OSError, ClientHelloError) as fault:
            self._fail(fault)
            return
        if hello is None and seen and len(seen) < PEEK:
            # Peeked bytes would wake the level-triggered loop in every turn: poll on a timer instead.
            self._owner.loop.remove_handler(sock)
            self._owner.loop.call_later(RETRY_S, self._retry)
        elif hello is None:
            self._fail(ClientHelloError("it is too long") if seen else None)
        else:
            self._owner.loop.remove_handler(sock)
            self._owner.on_client_hello(self, hello)

    def _retry(self) -> None:
        if self.sock.fileno() >= 0:
            self._owner.loop.add_handler(self.sock, self._on_readable, IOLoop.READ)

    def _fail(self, fault: Exception | None) -> None:
        self._owner.loop.remove_handler(self.sock)
        self._owner.on_client_hello_fault(self, fault)

    def enforce_timeouts(self, now: float) -> None:
        """End the connection if its ClientHello takes too long."""
        limit = self._owner.timeouts.handshake
        if limit and now - self._since > limit:
            self._fail(TimeoutError())
