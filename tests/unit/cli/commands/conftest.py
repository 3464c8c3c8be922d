"""A socket with scripted responses, for commands that talk to the running relayd."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ServeReply = Callable[[int, object], list[str]]


@pytest.fixture
def serve_reply(tmp_path: Path) -> Iterator[ServeReply]:
    """Serve one response, of JSON or raw bytes. Returns the options that select the socket."""
    path = str(tmp_path / "reply.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threads = []

    def answer(status: int, reply: object) -> list[str]:
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(head + body)

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        return ["--socket", path]

    yield answer
    for thread in threads:
        thread.join(60)
    listener.close()
