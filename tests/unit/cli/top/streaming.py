"""An admin socket that sends the event stream of the dashboard, as a test tells it to."""

from __future__ import annotations

import json
import queue
import socket
import threading
from pathlib import Path
from types import TracebackType

HEAD = b"HTTP/1.1 %d X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Streaming:
    """Answers /dashboard/session and actions, and gives each stream the next script: pieces of events, and its end."""

    def __init__(self, folder: Path, *, may_write: bool = True) -> None:
        self.path = str(folder / "admin.sock")
        self.may_write = may_write
        self.asked: list[str] = []
        self.last_ids: list[str] = []
        self.status = 200
        self.action: tuple[int, object] = (200, {})
        self.pieces: queue.Queue[bytes | None] = queue.Queue()  # None ends the stream
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]

    def event(self, name: str, data: object, number: int) -> None:
        """Send an event to the stream."""
        self.pieces.put(f"id: e-{number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def __enter__(self) -> Streaming:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for _ in range(8):
            self.pieces.put(None)
        for one in self._threads:
            one.join(60)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            received = client.recv(65536).decode()
            self.asked.append(" ".join(received.split(" ")[:2]))
            if "/dashboard/events" not in received:
                status, data = (200, {"may_write": self.may_write}) if "session" in received else self.action
                body = json.dumps(data).encode()
                client.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body)
                return
            self.last_ids.append(received.partition("Last-Event-ID: ")[2].partition("\r")[0])
            status = self.status  # a refused stream takes nothing from the next one, whatever the test decides meanwhile
            client.sendall(HEAD % status)
            while status == 200 and (piece := self.pieces.get(timeout=60)) is not None:
                client.sendall(piece)
