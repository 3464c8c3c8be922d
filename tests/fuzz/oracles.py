"""Second readers: h11, llhttp and a slow chunk decoder that is obviously right; and makers of almost valid input."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import h11
import httptools

FUZZ_SECONDS = float(os.environ.get("RELAYD_FUZZ_SECONDS", "20"))

TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Reading:
    """What a reader made of its input; `refused` holds its words if it did not take it."""

    method: bytes = b""
    target: bytes = b""
    names: tuple[bytes, ...] = ()
    values: tuple[bytes, ...] = ()
    body: bytes = b""
    complete: bool = False
    refused: str = ""


def read_h11(message: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(message)
    request: h11.Request | None = None
    body, complete = b"", False
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                complete = True
                break
            else:
                break
    except h11.RemoteProtocolError as error:
        return Reading(refused=f"h11: {error}")
    if request is None:
        return Reading(refused="h11: incomplete")
    names = tuple(bytes(name) for name, _ in request.headers)
    values = tuple(bytes(value) for _, value in request.headers)
    return Reading(bytes(request.method), bytes(request.target), names, values, body, complete)


class _Sink:
    def __init__(self) -> None:
        self.target = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.heads = self.complete = False

    def on_url(self, data: bytes) -> None:
        self.target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.heads:  # the rest are trailers
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.heads = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def read_llhttp(message: bytes) -> Reading:
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(message)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        return Reading(refused=f"llhttp: {error}")
    if not sink.heads:
        return Reading(refused="llhttp: incomplete")
    names = tuple(name for name, _ in sink.fields)
    values = tuple(value for _, value in sink.fields)
    return Reading(parser.get_method(), sink.target, names, values, sink.body, sink.complete)


@dataclass(frozen=True)
class SlowChunks:
    """`verdict` is `done`, `more` or `refused`."""

    verdict: str
    body: bytes = b""
    consumed: int = 0
    trailers: tuple[bytes, ...] = ()




def read_slowly(data: bytes) -> SlowChunks:
    """The grammar of RFC 9112 7.1 without optional blanks, one byte after the other; no limits."""
    position, body = 0, bytearray()

    def peek() -> int:
        return data[position] if position < len(data) else -1

    while True:
        digits = bytearray()
        while peek() >= 0 and peek() in b"0123456789abcdefABCDEF":
            digits.append(peek())
            position += 1
        if len(digits) > 15 or (not digits and peek() >= 0):
            return SlowChunks("refused")
        if not digits:
            return SlowChunks("more", bytes(body))
        while peek() == 0x3B:
            position += 1
            outcome, position = _slow_extension(data, position)
            if outcome != "ok":
                return SlowChunks(outcome, bytes(body))
        outcome, position = _slow_crlf(data, position)
        if outcome != "ok":
            return SlowChunks(outcome, bytes(body))
        size = int(digits.decode(), 16)
        if size == 0:
            break
        body += data[position : position + size]
        if position + size > len(data):
            return SlowChunks("more", bytes(body))
        position += size
        outcome, position = _slow_crlf(data, position)
        if outcome != "ok":
            return SlowChunks(outcome, bytes(body))
    trailers: list[bytes] = []
    while True:
        if peek() == 0x0D:
            outcome, position = _slow_crlf(data, position)
            if outcome != "ok":
                return SlowChunks(outcome, bytes(body))
            return SlowChunks("done", bytes(body), position, tuple(trailers))
        start = position
        while peek() >= 0 and peek() in TCHAR:
            position += 1
        if peek() >= 0 and (peek() != 0x3A or position == start):
            return SlowChunks("refused")
        position += 1
        while peek() == 9 or 0x20 <= peek() <= 0x7E or peek() >= 0x80:
            position += 1
        line = data[start:position]
        outcome, position = _slow_crlf(data, position)
        if outcome != "ok":
            return SlowChunks(outcome, bytes(body))
        trailers.append(line)


def _slow_crlf(data: bytes, position: int) -> tuple[str, int]:
    for code in (0x0D, 0x0A):
        if position >= len(data):
            return "more", position
        if data[position] != code:
            return "refused", position
        position += 1
    return "ok", position


def _slow_extension(data: bytes, position: int) -> tuple[str, int]:
    start = position
    while position < len(data) and data[position] in TCHAR:
        position += 1
    if position == len(data):
        return "more", position
    if position == start:
        return "refused", position
    if data[position] != 0x3D:
        return "ok", position
    position += 1
    start = position
    if data[position : position + 1] != b'"':
        while position < len(data) and data[position] in TCHAR:
            position += 1
        if position == len(data):
            return "more", position
        return ("refused" if position == start else "ok"), position
    position += 1
    while position < len(data) and data[position] != 0x22:
        if data[position] == 0x5C:
            position += 1
            if position == len(data):
                break
        if data[position] != 9 and (data[position] < 0x20 or data[position] == 0x7F):
            return "refused", position
        position += 1
    if position >= len(data):
        return "more", position
    return "ok", position + 1


Mutation = Callable[[random.Random, bytes], bytes]

# What has been the difference between two parsers somewhere.
MORSELS = (
    b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\x00", b"\x0b", b"\x0c", b"\x1c", b"\x7f", b"\x85", b"\xa0", b"\xff", b" ",
    b"\t", b":", b";", b",", b"=", b'"', b"\\", b"#", b"?", b"/", b"//", b"@", b"[", b"]", b"%", b"%00", b"*", b"_", b"-", b"+",
    b"0", b"00", b"0x", b"1", b"5", b"a", b"F", b"g", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"chunked", b"gzip",
    b"identity", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\tchunked\r\n", b"Connection: close, content-length\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b" folded\r\n", b"A: b\r\n", b": b\r\n", b"\xc2\xa0", b"http://c",
)  # fmt: skip


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to four small injuries."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind <= 1:
            data = data[:at] + rng.choice(MORSELS) + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + rng.choice((1, 1, 1, 2, 3, 8)) :]
        elif kind == 3:
            data = data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]
        elif kind == 4:
            data = data[:at] + rng.choice(MORSELS) + data[at + rng.choice((1, 1, 2, 4)) :]
        elif kind == 5:
            lines = data.split(b"\r\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            data = b"\r\n".join(lines)
        else:
            end = min(len(data), at + rng.randrange(1, 12))
            data = data[:at] + rng.choice((data[at:end].swapcase(), data[at:end] * 2)) + data[end:]
    return data


def until_time_is_up(seed: int, corpus: tuple[bytes, ...]) -> Iterator[tuple[random.Random, bytes]]:
    """Mutants of the corpus for `FUZZ_SECONDS`, the same ones on every run as far as it gets."""
    rng = random.Random(seed)
    deadline = time.monotonic() + FUZZ_SECONDS
    while time.monotonic() < deadline:
        for _ in range(200):
            yield rng, mutate(rng, rng.choice(corpus))


def cuts(rng: random.Random, data: bytes) -> list[bytes]:
    """The data in random pieces, now and then byte for byte."""
    if rng.random() < 0.2:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))})
    return [data[start:end] for start, end in itertools.pairwise(places)]
