"""Removes the models that a consumer may not use from an endpoint's list of models, in the form of any dialect.

The list is held until it is complete, at most MAX_HELD_BYTES of it. A list that cannot be read is an error: it could
name models that are hidden from the consumer.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd.protocols.canon import Failure
from relayd.protocols.model_list import permitted_steps
from relayd.proxy.filters.filter import Filter
from relayd.wire.json_steps import Steps
from relayd.wire.response import ResponseHead

MAX_HELD_BYTES = 4 * 1024 * 1024
VALIDATORS = (b"etag:", b"digest:", b"content-digest:", b"repr-digest:", b"content-md5:")  # of the whole list


class PermittedModels(Filter):
    """In front of all other filters that see the client's bytes."""

    __slots__ = ("_held", "_held_bytes", "_is_read", "_may_use", "_result", "_steps")

    def __init__(self, may_use: Callable[[str], bool], response: ResponseHead) -> None:
        """`may_use` is true for the names of models that the consumer may use."""
        super().__init__()
        self._may_use = may_use
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._steps: Steps[bytes] | None = None
        self._result, self._is_read = b"", False
        if response.coding:
            self._fail("is compressed")

    def _fail(self, reason: str) -> None:
        self.failure = Failure(502, f"the list of models {reason}", code="upstream_unreadable")
        self._held = []

    def process(self, data: bytes) -> bytes:
        """Hold a piece; after the end, continue to read the list."""
        if self._steps is not None:
            self._advance(self._steps)
        elif self.failure is None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > MAX_HELD_BYTES:
                self._fail(f"is larger than {MAX_HELD_BYTES >> 20} MiB")
        return b""

    def finish(self) -> bytes:
        """The list without the hidden models, once it is read."""
        if self._steps is None and self.failure is None and not self._is_read:
            document, self._held = b"".join(self._held), []
            self._steps = permitted_steps(document, self._may_use)
            self._advance(self._steps)
        return self._result

    def _advance(self, steps: Steps[bytes]) -> None:
        self.unfinished = False
        try:
            next(steps)
            self.unfinished = True
        except StopIteration as end:
            self._result, self._is_read, self._steps = end.value, True, None
        except ValueError:
            self._fail("cannot be read")

    def head(self, response: ResponseHead) -> ResponseHead:
        """The head with the length of the shorter list."""
        response.length = len(self._result)
        response.keep = [line for line in response.keep if not line.lower().startswith(VALIDATORS)]
        return response
