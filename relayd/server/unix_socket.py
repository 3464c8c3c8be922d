"""The Unix sockets of relayd's own applications: created with their folder, removed by their creator."""

from __future__ import annotations

import os
import socket

from tornado.tcpserver import TCPServer

from relayd.config.listener import Listener
from relayd.server.acceptor import Acceptor
from relayd.server.sockets import bind_unix

BACKLOG = 128


class ListeningUnixSocket:
    """One listening Unix socket. Created and closed by the application that serves it."""

    __slots__ = ("_acceptor", "_inode", "path", "socket")

    def __init__(self, path: str, mode: str, owner: str = "", inherited: socket.socket | None = None) -> None:
        """Bind the socket and create a missing folder, or use the socket `inherited` from the previous process.

        Raises OSError, also if another process listens on the path or a file exists there.
        """
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, mode=0o750, exist_ok=True)
        self.path = path
        self._acceptor: Acceptor | None = None
        if inherited is not None and os.path.exists(path):
            self.socket = inherited
            os.chmod(path, int(mode, 8))
            self._inode = os.lstat(path).st_ino
            return
        self.socket = bind_unix(path, Listener(address=f"unix:{path}", mode=mode, owner=owner, backlog=BACKLOG))
        self._inode = os.lstat(path).st_ino

    def serve(self, server: TCPServer) -> None:
        """Pass every accepted connection to a server of Tornado, whose own accepting would spin without descriptors."""
        self._acceptor = Acceptor([self.socket], server._handle_connection, _wait)
        self._acceptor.start()

    def close(self, unlink: bool = True) -> None:
        """Stop accepting, and close the socket. Remove its path, unless another process has bound the path or has
        inherited the socket."""
        if self._acceptor is not None:
            self._acceptor.pause()
        self.socket.close()
        if not unlink:
            return
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass


def _wait(reason: str) -> None:
    """Accepting is paused. The listeners, which share the descriptors, report it."""
