"""Server-sent events: an incremental splitter; raw blocks for whoever passes on, parsed fields for whoever reads.

Laws:
1. The raw blocks and `rest`, joined, are the input byte for byte.
2. An event is out as soon as its blank line is: where that line ends in CR, a LF that follows later belongs to the next
   block. The parsed fields do not depend on how the input was cut.
3. Lines and events are bounded, and the cost is linear in the input.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
MOST_LINES = 65536  # of one event: short ones take many times their own size


class SseError(ValueError):
    """A stream is no acceptable event stream. `rule` is a stable word: `line_size`, `event_size` or `event_lines`."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class Event:
    """One block up to and with its blank line.

    `event` is empty where the stream gave none (readers say `message`); `data` and `id` are None where the block has no
    such line: a block without data dispatches nothing (comments, a retry time).
    """

    __slots__ = ("data", "event", "id", "raw")

    def __init__(self, raw: bytes, event: bytes, data: bytes | None, id: bytes | None) -> None:
        self.raw, self.event, self.data, self.id = raw, event, data, id

    def __repr__(self) -> str:
        return f"Event(event={self.event!r}, data={self.data!r}, id={self.id!r})"


class SseSplitter:
    """Splits one stream; owned by the exchange that carries it."""

    __slots__ = ("_after_cr", "_fast_bytes", "_buffer", "_first", "_line", "_lines", "_max_event", "_max_line", "_scan")

    def __init__(self, max_line: int = 1024 * 1024, max_event: int = 4 * 1024 * 1024) -> None:
        self._buffer = bytearray()  # from the first byte of the current block
        self._line = 0  # where the current line begins
        self._scan = 0  # where the search for its end goes on
        self._lines: list[bytes] = []
        self._first = True
        self._after_cr = False
        self._max_line = max_line
        self._max_event = max_event
        self._fast_bytes = min(max_line, max_event, MOST_LINES)  # what is no larger can break no bound

    @property
    def rest(self) -> bytes:
        """The bytes of the block that has not ended; a stream that ends here did not dispatch it."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """Take `data`, return the events that it completed. Raises SseError."""
        events: list[Event] = []
        if not data:
            return events
        buffer = self._buffer
        if len(data) <= self._fast_bytes and not buffer and not self._after_cr and not self._first and _is_plain(data):
            return [_parse(block + b"\n\n", block.split(b"\n")) for block in data[:-2].split(b"\n\n")]
        block = 0  # where the current block begins; what is before it goes at the end, in one step
        buffer += data
        position, line_start = self._scan, self._line
        if self._after_cr:
            self._after_cr = False
            if buffer[position] == 0x0A:
                position += 1
                line_start += 1
        search = _LINE_END.search
        while (match := search(buffer, position)) is not None:
            line = bytes(buffer[line_start : match.start()])
            position = line_start = match.end()
            if len(line) > self._max_line:
                raise SseError("line_size")
            if self._first:
                self._first = False
                line = line.removeprefix(_BOM)
            if position == len(buffer) and buffer[-1] == 0x0D:
                self._after_cr = True
            if position - block > self._max_event:
                raise SseError("event_size")
            if line:
                if len(self._lines) >= MOST_LINES:
                    raise SseError("event_lines")
                self._lines.append(line)
                continue
            events.append(_parse(bytes(buffer[block:position]), self._lines))
            self._lines = []
            block = position
        if len(buffer) - line_start > self._max_line:
            raise SseError("line_size")
        if len(buffer) - block > self._max_event:
            raise SseError("event_size")
        if block:
            del buffer[:block]
        self._line = line_start - block
        self._scan = len(buffer)
        return events


def _is_plain(data: bytes) -> bool:
    """Whether this is nothing but whole blocks, each with one blank line behind it, of lines that end in LF."""
    return data.endswith(b"\n\n") and data[0] != 0x0A and b"\r" not in data and b"\n\n\n" not in data


def _parse(raw: bytes, lines: list[bytes]) -> Event:
    if len(lines) == 1 and lines[0].startswith(b"data: "):
        return Event(raw, b"", lines[0][6:], None)
    event, data, identity = b"", None, None
    pieces: list[bytes] | None = None
    for line in lines:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            if data is None:
                data = value
            elif pieces is None:
                pieces = [data, value]
            else:
                pieces.append(value)
        elif name == b"event":
            event = value
        elif name == b"id" and b"\x00" not in value:
            identity = value
    return Event(raw, event, data if pieces is None else b"\n".join(pieces), identity)
