"""Server-sent events: an incremental splitter that returns each event as raw bytes and as parsed fields.

Laws:
1. The concatenation of all raw blocks and `rest` equals the input.
2. An event is returned as soon as its blank line is complete. If that line ends with CR, a LF that arrives later
   belongs to the next block. The parsed fields do not depend on the segmentation of the input. Blank lines without a
   block are one event as far as they arrive together.
3. The sizes of lines and events are bounded, and the cost is linear in the input: that of a call in its own bytes,
   because the lines of a long block are parsed when they arrive and not when it ends.
"""

from __future__ import annotations

from relayd.lazy_regex import lazy_regex

_LINE_END = lazy_regex(rb"\r\n|\n|\r")
_BLANK_LINES = lazy_regex(rb"[\r\n]*+")
_BOM = b"\xef\xbb\xbf"
MOST_LINES = 65536  # of one event: short lines use many times their size in memory
_MOST_UNPARSED = 64  # lines of an incomplete block


class SseError(ValueError):
    """A stream exceeds a bound. `rule` is a stable identifier: `line_size`, `event_size` or `event_lines`."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class Event:
    """One block including its blank line.

    `event` is empty if the block has no event field (clients use `message`). `data` and `id` are None if the block has
    no such line. A block without data dispatches no event (comments, a retry time).
    """

    __slots__ = ("data", "event", "id", "raw")

    def __init__(self, raw: bytes, event: bytes, data: bytes | None, id: bytes | None) -> None:
        self.raw, self.event, self.data, self.id = raw, event, data, id

    def __repr__(self) -> str:
        return f"Event(event={self.event!r}, data={self.data!r}, id={self.id!r})"


class SseSplitter:
    """Splits one stream; owned by the exchange that carries it."""

    __slots__ = (
        "_after_cr", "_buffer", "_data", "_event", "_fast_bytes", "_first", "_id", "_line", "_lines", "_max_event",
        "_max_line", "_parsed", "_scan", "keeps_raw",
    )  # fmt: skip

    def __init__(self, max_line: int = 1024 * 1024, max_event: int = 4 * 1024 * 1024) -> None:
        self.keeps_raw = True  # False: the raw bytes of blocks with data are not needed, and may be missing
        self._buffer = bytearray()  # from the first byte of the current block
        self._line = 0  # the beginning of the current line
        self._scan = 0  # the position at which the search for its end continues
        self._lines: list[bytes] = []  # of the current block, not yet parsed
        self._parsed = 0  # lines of the current block before those; their fields:
        self._event = b""
        self._id: bytes | None = None
        self._data: list[bytes] = []
        self._first = True
        self._after_cr = False
        self._max_line = max_line
        self._max_event = max_event
        self._fast_bytes = min(max_line, max_event, MOST_LINES)  # a smaller input cannot exceed a bound

    @property
    def waiting(self) -> int:
        """How many bytes `rest` has."""
        return len(self._buffer)

    @property
    def rest(self) -> bytes:
        """The bytes of the incomplete block; a stream that ends here does not dispatch it."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """Add `data`. Returns the completed events. Raises SseError."""
        events: list[Event] = []
        if not data:
            return events
        buffer = self._buffer
        if len(data) <= self._fast_bytes and not buffer and not self._after_cr and not self._first and _is_plain(data):
            return [_parse(block + b"\n\n", block.split(b"\n")) for block in data[:-2].split(b"\n\n")]
        block = 0  # the beginning of the current block; earlier bytes are removed once, at the end
        buffer += data
        position, line_start = self._scan, self._line
        if self._after_cr:
            self._after_cr = False
            if buffer[position] == 0x0A:
                position += 1
                line_start += 1
        search = _LINE_END.search
        while (match := search(buffer, position)) is not None:
            line = _cut(buffer, line_start, match.start())
            position = line_start = match.end()
            if len(line) > self._max_line:
                raise SseError("line_size")
            if self._first:
                self._first = False
                line = line.removeprefix(_BOM)
            if not line and not self._lines and not self._parsed:
                position = line_start = _BLANK_LINES.match(buffer, position).end()  # type: ignore[union-attr]  # always matches
            elif position - block > self._max_event:
                raise SseError("event_size")
            if position == len(buffer) and buffer[-1] == 0x0D:
                self._after_cr = True
            if line:
                if len(self._lines) + self._parsed >= MOST_LINES:
                    raise SseError("event_lines")
                self._lines.append(line)
                continue
            event = self._end_of_long_block() if self._parsed else _parse(b"", self._lines)
            if self.keeps_raw or event.data is None:
                event.raw = _cut(buffer, block, position)
            events.append(event)
            self._lines = []
            block = position
        if len(self._lines) > _MOST_UNPARSED:
            self._parse_lines()
        if len(buffer) - line_start > self._max_line:
            raise SseError("line_size")
        if len(buffer) - block > self._max_event:
            raise SseError("event_size")
        if block:
            del buffer[:block]
        self._line = line_start - block
        self._scan = len(buffer)
        return events

    def _parse_lines(self) -> None:
        """Parse the lines that an incomplete block has until now."""
        self._event, self._id = _fields(self._lines, self._data, self._event, self._id)
        self._parsed += len(self._lines)
        self._lines = []

    def _end_of_long_block(self) -> Event:
        self._parse_lines()
        event = Event(b"", self._event, b"\n".join(self._data) if self._data else None, self._id)
        self._parsed, self._event, self._id, self._data = 0, b"", None, []
        return event


def _cut(buffer: bytearray, start: int, end: int) -> bytes:
    """A part of the buffer, copied once."""
    with memoryview(buffer) as view:
        return bytes(view[start:end])


def _is_plain(data: bytes) -> bool:
    """True if the data consists of complete blocks, each followed by one blank line, of lines that end with LF."""
    return data.endswith(b"\n\n") and data[0] != 0x0A and data.find(b"\r") < 0 and data.find(b"\n\n\n") < 0


def _parse(raw: bytes, lines: list[bytes]) -> Event:
    if len(lines) == 1 and lines[0].startswith(b"data: "):
        return Event(raw, b"", lines[0][6:], None)
    data: list[bytes] = []
    event, identity = _fields(lines, data, b"", None)
    return Event(raw, event, b"\n".join(data) if data else None, identity)


def _fields(lines: list[bytes], data: list[bytes], event: bytes, identity: bytes | None) -> tuple[bytes, bytes | None]:
    """Append the values of data lines to `data`; return those of the event and id fields, given those so far."""
    for line in lines:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
        elif name == b"id" and b"\x00" not in value:
            identity = value
    return event, identity
