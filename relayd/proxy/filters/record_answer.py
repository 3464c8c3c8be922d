"""Records the answer of a request whose route has a cache, as the client gets it, and tells the client that it is not
from the cache. Changes no byte of the body and holds none back."""

from __future__ import annotations

from array import array

from relayd.plan.plan import Target
from relayd.proxy.cache_use import CacheUse
from relayd.proxy.cached_answer import MOST_PIECES
from relayd.proxy.filters.filter import Filter
from relayd.wire.cache_control import forbids_storing
from relayd.wire.response import ResponseHead


class RecordAnswer(Filter):
    """Behind the filters that make the client's bytes, in front of the field with the cost, which a replay has not. At
    most `answer_size` bytes are held, until the end of the exchange."""

    __slots__ = ("_body", "_content_type", "_has_head", "_sizes", "_use")

    def __init__(self, use: CacheUse, target: Target, response: ResponseHead) -> None:
        super().__init__()
        self._use = use
        keeps = use.on_complete is not None and target is use.target and response.status == 200
        lines = response.keep
        if keeps and (response.coding_line or any(line[:14].lower() == b"cache-control:" for line in lines)):
            values = [line[14:] for line in lines if line[:14].lower() == b"cache-control:"]
            keeps = not response.coding_line and not forbids_storing(values)
        self._body = bytearray() if keeps else None
        self._sizes = array("L")
        self._content_type = ""
        self._has_head = False

    def process(self, data: bytes) -> bytes:
        """Record a piece."""
        body = self._body
        if body is not None and data:
            if len(body) + len(data) > self._use.policy.largest_bytes:
                self._body = None
                if self._use.on_dropped is not None:
                    self._use.on_dropped("too_large")
            else:
                body += data
                if len(self._sizes) < MOST_PIECES:
                    self._sizes.append(len(data))
        return data

    def head(self, response: ResponseHead) -> ResponseHead:
        """The head with Cache-Status."""
        if not self._has_head:
            self._has_head = True
            self._content_type = response.get(b"content-type")
            response.keep.append(self._use.line())
        return response

    def trailer(self) -> bytes:
        """The response is complete: keep it."""
        body, self._body = self._body, None
        if body and self._content_type and self._use.on_complete is not None:
            self._use.on_complete(self._sizes, bytes(body), self._content_type)
        return b""
