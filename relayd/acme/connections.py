"""Connections of the ACME library that can be cut, which bounds the time of a call in all.

The timeouts of the library bound a single read. A directory that sends a byte now and then exceeds none of them.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import requests.adapters  # noqa: TID251  # the ACME library brings it, and blocks in its own thread
import urllib3
import urllib3.exceptions

from relayd.acme.state import MAX_BYTES


class Connections:
    """The connections of one session of requests, used by one thread. `are_cut`: a call took too long; every further
    connection of the session is closed as soon as it is established."""

    def __init__(self, session: Any) -> None:
        self.are_cut = False
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        adapter = _Adapter(self._add)
        session.mount("http://", adapter)
        session.mount("https://", adapter)

    def cut_after(self, seconds: float) -> threading.Timer:
        """Cut the connections after this time unless the timer is cancelled: reads then end at once, with an error."""
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        return timer

    def _add(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
            if self.are_cut:
                _shut(connection)

    def _cut(self) -> None:
        with self._lock:
            self.are_cut = True
            for connection in self._open:
                _shut(connection)


def read_bounded(response: Any, **_: Any) -> None:
    """Read the body of a response before the library does. Raises ValueError if it is large, OSError if it is cut."""
    try:
        data = response.raw.read(MAX_BYTES + 1, decode_content=True)
    except urllib3.exceptions.HTTPError as error:
        raise OSError(f"the response broke off: {error}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"the directory sent more than {MAX_BYTES >> 20} MiB")
    response.raw = io.BytesIO(data)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not that of TLS, which is not safe beside a read


class _Adapter(requests.adapters.HTTPAdapter):  # type: ignore[misc]  # the library is not type-checked
    """Reports the socket of each new connection."""

    def __init__(self, add: Callable[[socket.socket], None]) -> None:
        pools = (("http", urllib3.HTTPConnectionPool), ("https", urllib3.HTTPSConnectionPool))
        self._pools = {scheme: _reporting(pool, add) for scheme, pool in pools}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _reporting(pool: Any, add: Callable[[socket.socket], None]) -> Any:
    """A class of pools like `pool` whose connections report their socket."""

    def connect(self: Any) -> None:
        pool.ConnectionCls.connect(self)
        add(self.sock)

    connection = type("Connection", (pool.ConnectionCls,), {"connect": connect})
    return type("Pool", (pool,), {"ConnectionCls": connection})
