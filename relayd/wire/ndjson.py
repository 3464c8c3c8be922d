"""Newline-delimited JSON: an incremental splitter of lines.

Laws:
1. A line ends with LF; a CR before it is not part of the line. Blank lines are ignored.
2. The length of a line is bounded, and the cost is linear in the input, regardless of its segmentation.
"""

from __future__ import annotations


class NdjsonError(ValueError):
    """A line is too long. `rule` is a stable identifier."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class LineSplitter:
    """Splits one stream; owned by the exchange that carries it."""

    __slots__ = ("_buffer", "_max_line")

    def __init__(self, max_line: int = 4 * 1024 * 1024) -> None:
        self._buffer = bytearray()
        self._max_line = max_line

    @property
    def waiting(self) -> int:
        """How many bytes `rest` has."""
        return len(self._buffer)

    @property
    def rest(self) -> bytes:
        """The bytes after the last line end."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Add `data`. Returns the completed lines without their ends. Raises NdjsonError."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return []
        whole = data[:end]
        if self._buffer:
            whole = bytes(self._buffer) + whole
            self._buffer.clear()
        lines = []
        for line in whole.split(b"\n"):
            line = line.removesuffix(b"\r")
            if len(line) > self._max_line:
                raise NdjsonError("line_size")
            if line and not line.isspace():
                lines.append(line)
        self._hold(data[end:])
        return lines

    def finish(self) -> bytes | None:
        """The last line of a stream that ended without a line end; None if it is blank."""
        line = bytes(self._buffer)
        self._buffer.clear()
        return None if not line or line.isspace() else line

    def _hold(self, data: bytes) -> None:
        self._buffer += data
        # One more byte is allowed: it can be the CR of a line of exactly the maximum length.
        if len(self._buffer) > self._max_line + 1:
            raise NdjsonError("line_size")
