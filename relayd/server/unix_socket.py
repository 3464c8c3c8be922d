"""The Unix sockets of relayd's own applications: created with their folder, removed by their creator."""

from __future__ import annotations

import os
import socket

from relayd.config.listener import Listener
from relayd.server.sockets import bind_unix

BACKLOG = 128


class ListeningUnixSocket:
    """One listening Unix socket. Created and closed by the application that serves it."""

    __slots__ = ("_inode", "path", "socket")

    def __init__(self, path: str, mode: str, owner: str = "", inherited: socket.socket | None = None) -> None:
        """Bind the socket and create a missing folder, or use the socket `inherited` from the previous process.

        Raises OSError, also if another process listens on the path or a file exists there.
        """
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, mode=0o750, exist_ok=True)
        self.path = path
        if inherited is not None and os.path.exists(path):
            self.socket = inherited
            os.chmod(path, int(mode, 8))
            self._inode = os.lstat(path).st_ino
            return
        self.socket = bind_unix(path, Listener(address=f"unix:{path}", mode=mode, owner=owner, backlog=BACKLOG))
        self._inode = os.lstat(path).st_ino

    def close(self, unlink: bool = True) -> None:
        """Close the socket. Remove its path, unless another process has bound the path or has inherited the socket."""
        self.socket.close()
        if not unlink:
            return
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass
