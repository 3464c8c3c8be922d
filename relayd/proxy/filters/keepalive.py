"""Comments for a client whose stream has been silent for long: while it waits in a queue, for a retry or for tokens.

1. A comment stands between two frames only, never inside one.
2. A comment starts the response, so that errors come in the stream from then on; it does not commit it.
"""

from __future__ import annotations

from relayd import clock
from relayd.proxy.filters.filter import Filter
from relayd.wire.response import ResponseHead

COMMENT = b": keep-alive\n\n"


def takes_comments(response: ResponseHead) -> bool:
    """Whether comments may be put into this body as it passes: JSON lines have none, and neither a content coding nor
    a declared length leaves room for them."""
    return response.media.is_events and not response.coding_line and response.length is None


class KeepAlive(Filter):
    """The last filter of each attempt: one for all attempts of an exchange whose request asks for a stream, one for
    each attempt whose response turns out to be one. `every_s` is the longest silence; 0 is no comments."""

    __slots__ = ("_at_boundary", "_sent_s", "every_s")

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self.every_s = every_s
        self._sent_s = clock.monotonic()
        self._at_boundary = True  # whether what was sent ends with a whole frame

    def process(self, data: bytes) -> bytes:
        """Note when, and where in a frame, the stream stands."""
        if data:
            self._sent_s = clock.monotonic()
            self._at_boundary = data.endswith((b"\n\n", b"\r\n\r\n"))
        return data

    def is_due(self, now_s: float) -> bool:
        """Whether a comment may and should be sent; counts it as sent."""
        if not self.every_s or not self._at_boundary or now_s - self._sent_s < self.every_s:
            return False
        self._sent_s = now_s
        return True
