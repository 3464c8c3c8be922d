"""The Unix sockets of relayd's own applications: made with their folder, removed by whoever made them."""

from __future__ import annotations

import os
import socket

from relayd.config.listener import Listener
from relayd.server.sockets import bind_unix

BACKLOG = 128


class ListeningUnixSocket:
    """One listening Unix socket. Made and closed by the application that serves it."""

    __slots__ = ("_inode", "path", "socket")

    def __init__(self, path: str, mode: str, owner: str = "", inherited: socket.socket | None = None) -> None:
        """Bind it, and make its folder when that is missing; or go on with the one `taken` from the process before.

        Raises OSError, also when another process answers there or a file is in the way.
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
        """Close it, and remove its name unless another process has put its own there or goes on with this one."""
        self.socket.close()
        if not unlink:
            return
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass
