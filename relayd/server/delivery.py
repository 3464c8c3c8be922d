"""Detects stalled clients by the bytes that the client's kernel has acknowledged.

1. Each acknowledgement is progress, so a client that reads steadily is not stalled, however slowly it reads. A client
   with a large receive buffer acknowledges in steps of up to a sixteenth of it; smaller progress is invisible here.
2. The unsent bytes that the kernel holds for a client are bounded: a slow client does not hold megabytes, and a stopped
   one is noticed early, even on a quiet stream. Bytes in flight are not bounded, so long fast paths lose no throughput.
"""

from __future__ import annotations

from typing import Any, Protocol

from relayd import clock
from relayd.upstream.transport.kernel_buffer import unacknowledged


class Stream(Protocol):
    """The part of a client stream that its Delivery uses."""

    socket: Any

    def backlog(self) -> int:
        """The number of bytes not yet written."""


class Delivery:
    """Exists from the first pending write of a client until all of them are done."""

    __slots__ = ("_backlog", "_kernel", "_progress_s", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._backlog, self._kernel = stream.backlog(), -1
        self._progress_s = clock.monotonic()

    def stalled_s(self, now: float) -> float:
        """The time in seconds since the client last made progress. Further queued bytes are no progress."""
        backlog, kernel = self._stream.backlog(), unacknowledged(self._stream.socket)
        if backlog < self._backlog or kernel != self._kernel:
            self._progress_s = now
        self._backlog, self._kernel = backlog, kernel
        return now - self._progress_s
