"""An HTTP/2 endpoint over TLS, on the h2 library: what it saw of streams, windows and resets is kept for the tests."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass, field
from types import TracebackType

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes

CHUNK = bytes(range(256)) * 64


@dataclass(slots=True)
class Seen:
    """One request."""

    connection: int
    stream: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False
    sent: int = 0


class Http2:
    """The endpoint; a context manager. Paths: /echo, /big?BYTES, /hang, /refuse (reset before an answer), /cut (reset in
    the middle), /events?COUNT (waits for `more` before each)."""

    def __init__(self, certificate: tuple[str, str]) -> None:
        self.seen: list[Seen] = []
        self.more = threading.Semaphore(0)
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._context.set_alpn_protocols(["h2"])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Http2:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            sock = self._context.wrap_socket(raw, server_side=True)
        except OSError:
            return
        with self._lock:
            self.connections += 1
            number = self.connections
            self._open.append(sock)
        Connection(self, sock, number).run()


class Connection:
    """One connection: a thread reads, others send; h2's state is under one lock."""

    def __init__(self, owner: Http2, sock: ssl.SSLSocket, number: int) -> None:
        self.owner, self.sock, self.number = owner, sock, number
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.room = threading.Condition()
        self.streams: dict[int, Seen] = {}

    def run(self) -> None:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            with self.room:
                self.state.initiate_connection()
                self._flush()
            while data := self.sock.recv(65536):
                with self.room:
                    for event in self.state.receive_data(data):
                        self._on(event)
                    self._flush()
                    self.room.notify_all()
        with self.room:
            for seen in self.streams.values():
                seen.reset = seen.reset or not seen.ended
            self.room.notify_all()

    def _flush(self) -> None:
        if data := self.state.data_to_send():
            self.sock.sendall(data)

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            seen = Seen(self.number, event.stream_id, {str(name): str(value) for name, value in event.headers})
            self.streams[event.stream_id] = seen
            self.owner.seen.append(seen)
            if not seen.headers[":path"].startswith("/echo"):
                threading.Thread(target=self._answer, args=(seen,), daemon=True).start()
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].body += event.data
            self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            seen = self.streams[event.stream_id]
            seen.ended = True
            if seen.headers[":path"].startswith("/echo"):
                threading.Thread(target=self._answer, args=(seen,), daemon=True).start()
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].reset = True

    def _answer(self, seen: Seen) -> None:
        path, _, amount = seen.headers[":path"].partition("?")
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError, KeyError):
            if path == "/hang":
                return
            if path == "/refuse":
                self._reset(seen, ErrorCodes.REFUSED_STREAM)
                return
            self._head(seen)
            if path == "/echo":
                self._data(seen, bytes(seen.body))
            elif path == "/big":
                for _ in range(int(amount) // len(CHUNK)):
                    self._data(seen, CHUNK)
            elif path == "/cut":
                self._data(seen, CHUNK)
                self._reset(seen, ErrorCodes.INTERNAL_ERROR)
                return
            elif path == "/events":
                for number in range(int(amount)):
                    self.owner.more.acquire()
                    self._data(seen, b"data: %d\n\n" % number)
            with self.room:
                self.state.end_stream(seen.stream)
                self._flush()

    def _head(self, seen: Seen) -> None:
        with self.room:
            fields = [(":status", "200"), ("content-type", "application/octet-stream"), ("x-number", str(seen.stream))]
            self.state.send_headers(seen.stream, fields)
            self._flush()

    def _reset(self, seen: Seen, code: ErrorCodes) -> None:
        with self.room:
            self.state.reset_stream(seen.stream, code)
            self._flush()

    def _data(self, seen: Seen, data: bytes) -> None:
        view = memoryview(data)
        while view:
            with self.room:
                while not (size := min(self.state.local_flow_control_window(seen.stream), 16384)) and not seen.reset:
                    self.room.wait()
                if seen.reset:
                    raise KeyError(seen.stream)
                piece = bytes(view[:size])
                self.state.send_data(seen.stream, piece)
                seen.sent += len(piece)
                self._flush()
            view = view[size:]
