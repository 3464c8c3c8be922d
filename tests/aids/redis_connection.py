"""A connection to a Redis server of a test that stays open; every command waits for its reply."""

from __future__ import annotations

import socket
from typing import Any

from relayd.stores._resp import ErrorReply, ReplyParser, encode_command


class RedisConnection:
    """Call it with the words of a command. Raises RuntimeError for an error."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._parser = ReplyParser()

    def __call__(self, *words: str | int | bytes) -> Any:
        self._socket.sendall(encode_command(words))
        replies: list[Any] = []
        while not replies:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the server has closed the connection")
            replies = self._parser.parse(data)
        if isinstance(replies[0], ErrorReply):
            raise RuntimeError(replies[0].text)
        return replies[0]

    def close(self) -> None:
        self._socket.close()
