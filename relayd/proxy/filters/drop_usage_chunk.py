"""Removes the usage chunk from a stream if relayd requested it and the client did not."""

from __future__ import annotations

from relayd.protocols.include_usage import UsageChunkFilter
from relayd.proxy.filters.filter import Filter
from relayd.wire.response import ResponseHead


class DropUsageChunk(Filter):
    """Drops the response's length, because the body becomes shorter."""

    __slots__ = ("_remover",)

    def __init__(self, response: ResponseHead) -> None:
        super().__init__()
        self._remover = UsageChunkFilter()
        response.length = None

    def process(self, data: bytes) -> bytes:
        """The frames without the usage chunk."""
        return self._remover.filter(data)

    def finish(self) -> bytes:
        """The last frame, if its blank line is missing."""
        return self._remover.flush()
