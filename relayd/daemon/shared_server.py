"""The Redis server of the store that is in force, as a service asks it: one call at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_server import RedisServer, Script


class SharedServer:
    """Owned by its service. `instance` is the random name of this process for the service."""

    def __init__(self, find: Callable[[], RedisServer | None]) -> None:
        """`find` returns the server of the store that is in force, None if the store is not shared."""
        self._find = find
        self._server: RedisServer | None = None
        self._is_asking = False
        self.instance = secrets.token_hex(8)

    def follow(self) -> bool:
        """A plan has come into force. Returns True if its server is another one than before; replies of the old one
        are not delivered any more."""
        server = self._find()
        if server is self._server:
            return False
        self._server, self._is_asking = server, False
        return True

    def on_available(self, callback: Callable[[], None]) -> None:
        """Call back each time when this server has become available."""
        if self._server is not None:
            self._server.on_change(lambda available: callback() if available else None)

    @property
    def is_ready(self) -> bool:
        """True if the server can be asked, and the last call has ended."""
        return self._server is not None and self._server.available and not self._is_asking

    def call(
        self, script: Script, key: str, args: Sequence[str | int], on_reply: Callable[[Any], None]
    ) -> None:
        """Run a script with one key, if the server is ready. `on_reply` is not called if the call fails."""
        server = self._server
        assert server is not None

        def done(reply: Any) -> None:
            if server is self._server:
                self._is_asking = False
                if not isinstance(reply, RedisFailure):
                    on_reply(reply)

        self._is_asking = True
        server.call(script, [server.key(key)], args, done)

    def close(self) -> None:
        """Ask no more."""
        self._server = None
