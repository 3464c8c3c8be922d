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
from hyperframe.frame import GoAwayFrame

CHUNK = bytes(range(256)) * 64
WHOLE = ("/echo", "/refuse", "/goaway", "/reset", "/last", "/begun")


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
    """The endpoint; a context manager. Paths: /echo, /big?BYTES, /hang, /cut (reset in the middle), /events?COUNT (waits
    for `more` before each). These answer the first COUNT requests in their way, and echo the others: /refuse?COUNT
    (REFUSED_STREAM), /goaway?COUNT (names the stream before as the last one). These never answer: /reset?ERROR,
    /last (a GOAWAY that names this stream, then the end). With `/begun` before them they do it at the first byte of the
    body, else at its end."""

    def __init__(self, certificate: tuple[str, str]) -> None:
        self.seen: list[Seen] = []
        self.more = threading.Semaphore(0)
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._context.set_alpn_protocols(["h2"])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[ssl.SSLSocket] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Http2:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        # A thread that still waits on a closed descriptor would take the connections of the next owner of its number.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(60)
        self._socket.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._socket.accept()
                sock = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                self._open.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
                self._threads[-1].start()

    def _serve(self, sock: ssl.SSLSocket) -> None:
        try:
            sock.do_handshake()
        except OSError:
            return
        with self._lock:
            self.connections += 1
            number = self.connections
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
            if not seen.headers[":path"].startswith(WHOLE):
                threading.Thread(target=self._answer, args=(seen,), daemon=True).start()
        elif isinstance(event, h2.events.DataReceived):
            seen = self.streams[event.stream_id]
            first = not seen.body
            seen.body += event.data
            if first and seen.headers[":path"].startswith("/begun"):
                threading.Thread(target=self._answer, args=(seen,), daemon=True).start()
            self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            seen = self.streams[event.stream_id]
            seen.ended = True
            if seen.headers[":path"].startswith(WHOLE) and not seen.headers[":path"].startswith("/begun"):
                threading.Thread(target=self._answer, args=(seen,), daemon=True).start()
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].reset = True

    def _answer(self, seen: Seen) -> None:
        path, _, amount = seen.headers[":path"].partition("?")
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError, KeyError):
            if path == "/hang":
                return
            path = path.removeprefix("/begun")
            before = sum(one.headers[":path"] == seen.headers[":path"] for one in self.owner.seen[: self.owner.seen.index(seen)])
            if path == "/refuse" and before < int(amount):
                self._reset(seen, ErrorCodes.REFUSED_STREAM)
                return
            if path == "/goaway" and before < int(amount):
                self._goaway(seen.stream - 2)
                return
            if path == "/reset":
                self._reset(seen, ErrorCodes[amount])
                return
            if path == "/last":
                self._goaway(seen.stream)
                self.sock.shutdown(socket.SHUT_RDWR)
                return
            self._head(seen)
            if path in WHOLE:
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

    def _goaway(self, last: int) -> None:
        frame = GoAwayFrame(0, last_stream_id=max(last, 0))
        with self.room:  # h2 itself would say nothing more on this connection
            self._flush()
            self.sock.sendall(frame.serialize())

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
