"""HTTP/1.1 messages as the tests see them: read from a socket byte by byte of framing, nothing repaired, nothing lost."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field

Fields = list[tuple[bytes, bytes]]
PATIENCE_S = 60.0  # until a test fails; nothing is measured by it


class Closed(Exception):
    """The other side closed or reset the connection before the message was whole."""


@dataclass
class Message:
    """A request or a response. `fields` keep order, case and duplicates; `complete` says whether the framing ended."""

    start: bytes = b""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    framing: bytes = b""
    trailers: Fields = field(default_factory=list)
    complete: bool = False
    interim: list[Message] = field(default_factory=list)
    arrived: float = 0.0

    def get(self, name: str) -> bytes | None:
        wanted = name.lower().encode()
        return next((value for key, value in self.fields if key.lower() == wanted), None)

    def get_all(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    @property
    def names(self) -> list[bytes]:
        return [key.lower() for key, _ in self.fields]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]


def reset_on_close(sock: socket.socket) -> None:
    """Closing this socket shall send RST, as a process that died does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Wire:
    """One connection, with what was received and not yet used. Owned by one test or by one thread of the upstream."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.received = 0
        self.gone = False
        self.patience_s = PATIENCE_S
        sock.settimeout(PATIENCE_S)

    def wait_longer(self, patience_s: float) -> None:
        """Fail later than usual, for what is much work on a busy machine."""
        self.patience_s = patience_s
        self.sock.settimeout(patience_s)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def fill(self, timeout_s: float | None = None) -> bool:
        """Wait for more bytes; False is the end, in whatever form it came."""
        if self.gone:
            return False
        self.sock.settimeout(self.patience_s if timeout_s is None else max(0.001, timeout_s))
        try:
            data = self.sock.recv(262144)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(self.patience_s)
        self.buffer += data
        self.received += len(data)
        self.gone = not data
        return bool(data)

    def take(self, count: int) -> bytes:
        pieces, size = [], 0
        while size + len(self.buffer) < count:  # large bodies are joined once
            pieces.append(self.rest())
            size += len(pieces[-1])
            if not self.fill():
                raise Closed(b"".join(pieces))
        pieces.append(self.buffer[: count - size])
        self.buffer = self.buffer[count - size :]
        return b"".join(pieces)

    def take_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self.fill():
                raise Closed(self.rest())
        data, _, self.buffer = self.buffer.partition(mark)
        return data + mark

    def rest(self) -> bytes:
        data, self.buffer = self.buffer, b""
        return data

    def read_all(self, timeout_s: float = PATIENCE_S) -> bytes:
        """Everything until the connection ends."""
        end, pieces = time.monotonic() + timeout_s, [self.rest()]
        while self.fill(end - time.monotonic()):
            pieces.append(self.rest())
        return b"".join(pieces)

    def read_some(self, timeout_s: float = PATIENCE_S) -> bytes:
        if not self.buffer:
            self.fill(timeout_s)
        return self.rest()

    def ended(self, timeout_s: float = PATIENCE_S) -> bool:
        """Whether the other side closes within the time; bytes that come before are kept."""
        end = time.monotonic() + timeout_s
        try:
            while self.fill(end - time.monotonic()):
                if time.monotonic() > end:
                    return False
        except TimeoutError:
            return False
        return True

    def silent(self, timeout_s: float = 0.2) -> bool:
        """Whether nothing at all comes within the time."""
        if self.buffer:
            return False
        try:
            self.fill(timeout_s)
        except TimeoutError:
            return True
        return False

    def head(self) -> Message:
        raw = self.take_until(b"\r\n\r\n")
        lines = raw[:-4].split(b"\r\n")
        message = Message(start=lines[0], arrived=time.monotonic())
        message.fields = [split_field(line) for line in lines[1:]]
        return message

    def body(self, message: Message, *, until_close: bool) -> None:
        """Read what the framing of a head says; `complete` stays False when the connection ended before that."""
        try:
            if (message.get("transfer-encoding") or b"").lower() == b"chunked":
                message.framing = b"chunked"
                self.chunked(message)
            elif message.get("content-length") is not None:
                message.framing = b"length"
                message.body = self.take(int(message.get("content-length") or b"0"))
            elif until_close:
                message.framing = b"close"
                message.body = self.to_fin()
            message.complete = True
        except Closed as fault:
            message.body += fault.args[0]
        except ConnectionResetError:
            pass

    def to_fin(self) -> bytes:
        """A body that ends with the connection; a reset is no end."""
        self.sock.settimeout(self.patience_s)
        while True:
            data = self.sock.recv(262144)
            if not data:
                self.gone = True
                return self.rest()
            self.buffer += data

    def chunked(self, message: Message) -> None:
        pieces: list[bytes] = []
        try:
            self.chunks(pieces)
        except Closed as fault:
            pieces.append(fault.args[0])
            raise Closed(b"") from fault
        finally:
            message.body = b"".join(pieces)
        while True:
            line = self.take_until(b"\r\n")
            if line == b"\r\n":
                return
            message.trailers.append(split_field(line[:-2]))

    def chunks(self, pieces: list[bytes]) -> None:
        while True:
            size = int(self.take_until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                return
            pieces.append(self.take(size))
            if self.take(2) != b"\r\n":
                raise AssertionError("a chunk does not end with CRLF")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def send_and_close(self, data: bytes) -> None:
        """Send data and the end of the connection in one segment: the other side never sees one without the other."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.send(data)
        self.close()

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            reset_on_close(self.sock)
        self.close()

    def finish(self) -> None:
        """Close only the sending side."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


def split_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    assert colon, f"no colon in {line!r}"
    return name, value.strip(b" \t")


def answer(
    body: bytes = b"hello", *lines: bytes, status: bytes = b"200 OK", length: bool = True, version: bytes = b"HTTP/1.1"
) -> bytes:
    """The bytes of a whole response."""
    fields = [*lines, b"Content-Length: %d" % len(body)] if length else list(lines)
    return b"\r\n".join([version + b" " + status, *fields, b"", b""]) + body


def request(
    target: bytes = b"/", *lines: bytes, method: bytes = b"GET", body: bytes | None = None, host: bytes = b"relayd.test",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """The bytes of a whole request."""
    fields = [b"Host: " + host] if host else []
    fields += lines
    if body is not None:
        fields.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([method + b" " + target + b" " + version, *fields, b"", b""]) + (body or b"")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
