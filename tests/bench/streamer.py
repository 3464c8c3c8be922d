"""The upstream of the stream scenarios: one thread on epoll, told by the request's target what to send.

    /ready                              a short answer
    /stream?n=100&gap_ms=20&size=190    n server-sent events, one write each; each carries the time it was written
    /silent                             nothing, ever
    POST .../chat/completions           words of a chat completion, one write each; `chunks=N` and `gap_ms=N` stand in the body
    /down?bytes=N                       N bytes
    /up                                 reads the body, answers with its length
    /endless                            64 MiB, for readers that are slow
"""

from __future__ import annotations

import contextlib
import heapq
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

BLOCK = bytes(range(256)) * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Link:
    """One connection from a proxy; owned by the server."""

    __slots__ = ("asks", "body_left", "buffer", "left", "out", "sock", "waiting", "wanted")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.body_left = -1
        self.asks: bytes | None = None
        self.wanted = 0
        self.out: Iterator[bytes] | None = None
        self.left = b""
        self.waiting = False


def event(size: int) -> bytes:
    data = b'data: {"t":%020d,"choices":[{"index":0,"delta":{"content":"' % time.monotonic_ns()
    data += b"x" * max(0, size - len(data) - 10) + b'"}}]}\n\n'
    return b"%x\r\n%s\r\n" % (len(data), data)


def completion(number: int) -> Iterator[bytes]:
    """The chunks of a chat completion of so many words."""
    head = b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,'
    word = head + b'"delta":{"content":" sentence"},"logprobs":null,"finish_reason":null}]}\n\n'
    last = head + b'"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
    for data in (*(word for _ in range(number)), last, b"data: [DONE]\n\n"):
        yield b"%x\r\n%s\r\n" % (len(data), data)
    yield b"0\r\n\r\n"


class Server:
    """Owns everything; never leaves `run`."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=8192)
        self.listener.setblocking(False)
        self.selector = selectors.EpollSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.due: list[tuple[float, int, Link, Iterator[bytes], float]] = []
        self.count = 0

    def run(self) -> None:
        while True:
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                at, _, link, pieces, gap = heapq.heappop(self.due)
                self.tick(at, link, pieces, gap)
            pause = max(0.0, self.due[0][0] - time.monotonic()) if self.due else None
            for key, mask in self.selector.select(pause):
                if key.data is None:
                    self.accept()
                    continue
                try:
                    if mask & selectors.EVENT_READ:
                        self.read(key.data)
                    if mask & selectors.EVENT_WRITE:
                        self.pump(key.data)
                except OSError:
                    self.drop(key.data)

    def accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.selector.register(sock, selectors.EVENT_READ, Link(sock))

    def drop(self, link: Link) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(link.sock)
        link.sock.close()

    def tick(self, at: float, link: Link, pieces: Iterator[bytes], gap: float) -> None:
        if link.sock.fileno() < 0:
            return
        piece = next(pieces, None)
        if piece is None:
            return
        try:
            link.sock.send(piece)
        except BlockingIOError:
            pass
        except OSError:
            self.drop(link)
            return
        self.count += 1
        heapq.heappush(self.due, (at + gap, self.count, link, pieces, gap))

    def stream(self, link: Link, pieces: Iterator[bytes], gap_ms: float) -> None:
        """Answer with these pieces: as fast as they are taken, or one at a time, the streams spread over the gap."""
        link.sock.send(HEAD)
        if gap_ms:
            self.count += 1
            gap = gap_ms / 1000
            heapq.heappush(self.due, (time.monotonic() + gap * (self.count % 97) / 97, self.count, link, pieces, gap))
        else:
            link.out = pieces
            self.pump(link)

    def read(self, link: Link) -> None:
        data = link.sock.recv(262144)
        if not data:
            raise ConnectionError
        if link.asks is not None:
            self.gather(link, data)
            return
        if link.body_left > 0:
            link.body_left -= len(data)
            if link.body_left <= 0:
                self.answer_up(link)
            return
        link.buffer += data
        if b"\r\n\r\n" in link.buffer:
            head, _, link.buffer = link.buffer.partition(b"\r\n\r\n")
            self.serve(link, head)

    def gather(self, link: Link, data: bytes) -> None:
        """The body of a chat request, to its end."""
        link.asks = (link.asks or b"") + data
        if len(link.asks) >= link.body_left:
            asked = {key: int(value) for key, value in re.findall(rb"(chunks|gap_ms)=(\d+)", link.asks)}
            link.asks, link.body_left = None, -1
            self.stream(link, completion(asked.get(b"chunks", 100)), asked.get(b"gap_ms", 0))

    def answer_up(self, link: Link) -> None:
        text = b"%d" % link.wanted
        link.sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    def serve(self, link: Link, head: bytes) -> None:
        target = urlsplit(head.split(b" ", 2)[1].decode())
        asked = {key: value[0] for key, value in parse_qs(target.query).items()}
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        chunked = b"transfer-encoding: chunked" in head.lower()
        rest, link.buffer = link.buffer, b""
        if target.path == "/up" and not chunked:
            link.wanted, link.body_left = length, length - len(rest)
            if link.body_left <= 0:
                self.answer_up(link)
        elif target.path.endswith("/chat/completions"):
            link.body_left, link.asks, link.buffer = length, b"", b""
            self.gather(link, rest)
        elif target.path == "/stream":
            size, number = int(asked.get("size", 190)), int(asked.get("n", 100))
            pieces = (event(size) if place < number else b"0\r\n\r\n" for place in range(number + 1))
            self.stream(link, pieces, float(asked.get("gap_ms", 0)))
        elif target.path in ("/down", "/endless"):
            total = int(asked.get("bytes", 64 << 20))
            link.sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            link.out = (BLOCK[: min(len(BLOCK), total - place)] for place in range(0, total, len(BLOCK)))
            self.pump(link)
        elif target.path != "/silent":
            link.sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def pump(self, link: Link) -> None:
        """Send what is wanted until the socket is full; one write per piece."""
        for _ in range(64):
            if not link.left:
                link.left = next(link.out, b"") if link.out is not None else b""
            if not link.left:
                link.out = None
                break
            try:
                link.left = link.left[link.sock.send(link.left) :]
            except BlockingIOError:
                break
        waits = link.out is not None or bool(link.left)
        if waits != link.waiting:
            link.waiting = waits
            self.selector.modify(link.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0), link)


if __name__ == "__main__":
    Server(int(sys.argv[1])).run()
