"""Removes from a stream the usage chunk that relayd asked for and the client did not."""

from __future__ import annotations

from relayd.protocols.include_usage import UsageChunkFilter
from relayd.proxy.filters.filter import Filter
from relayd.wire.response import ResponseHead


class DropUsageChunk(Filter):
    """The body becomes shorter, so its length is not announced."""

    __slots__ = ("_remover",)

    def __init__(self, response: ResponseHead) -> None:
        super().__init__()
        self._remover = UsageChunkFilter()
        response.length = None

    def process(self, data: bytes) -> bytes:
        """The frames that the client asked for."""
        return self._remover.filter(data)

    def finish(self) -> bytes:
        """A last frame without its blank line."""
        return self._remover.flush()
