"""Shared by the tests of the commands: an admin socket with scripted responses that records the requests."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from types import TracebackType


class Admin:
    """Sends its responses in order, then repeats the last one."""

    def __init__(self, folder: Path, *answers: tuple[int, object]) -> None:
        self.path = str(folder / "admin.sock")
        self.options = ["--socket", self.path]
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self._answers = list(answers)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Admin:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                received = client.recv(65536)
                head, _, body = received.partition(b"\r\n\r\n")
                found = re.search(rb"(?i)content-length: (\d+)", head)
                while found and len(body) < int(found[1]) and (more := client.recv(65536)):
                    body += more
                self.asked.append(received.partition(b" HTTP/")[0].decode())
                self.bodies.append(body)
                status, told = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                reply = told if isinstance(told, bytes) else json.dumps(told).encode()
                client.sendall(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(reply)}\r\nConnection: close\r\n\r\n".encode() + reply
                )
