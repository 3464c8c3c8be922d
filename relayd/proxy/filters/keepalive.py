"""Keep-alive comments for a silent stream: while the client waits in a queue, for a retry or for tokens.

1. Comments are sent only between two frames.
2. A comment starts the response, so that later errors are sent in the stream. It does not commit the response.
"""

from __future__ import annotations

from relayd import clock
from relayd.proxy.filters.filter import Filter
from relayd.wire.response import ResponseHead

COMMENT = b": keep-alive\n\n"


def takes_comments(response: ResponseHead) -> bool:
    """True if comments may be inserted into this passthrough body. JSON lines have no comments; a content coding or a
    declared length excludes them."""
    return response.media.is_events and not response.coding_line and response.length is None


class KeepAlive(Filter):
    """The last filter. An exchange that requests a stream has one for all attempts; without a dialect, each attempt
    with an event stream has its own. `every_s` is the maximum silence in seconds; 0 disables comments."""

    __slots__ = ("_at_boundary", "_sent_s", "every_s")

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self.every_s = every_s
        self._sent_s = clock.monotonic()
        self._at_boundary = True  # the sent data ends with a complete frame

    def process(self, data: bytes) -> bytes:
        """Note the time of the data, and if it ends with a complete frame."""
        if data:
            self._sent_s = clock.monotonic()
            self._at_boundary = data.endswith((b"\n\n", b"\r\n\r\n"))
        return data

    def is_due(self, now_s: float) -> bool:
        """True if a comment is due and permitted; the caller must send it then."""
        if not self.every_s or not self._at_boundary or now_s - self._sent_s < self.every_s:
            return False
        self._sent_s = now_s
        return True
