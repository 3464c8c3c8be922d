"""A pool that sends nothing: it keeps what it was asked to send, for a dry run."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import Sink, Slot


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as the transport would have got it; see Pool.start."""

    method: bytes
    target: bytes
    fields: list[bytes]
    length: int | None
    body: bytes | None


class _NoDriver:
    """A driver that moves nothing."""

    def __init__(self) -> None:
        self.touched: list[Slot] = []

    def resume(self, slot: Slot) -> None:
        """Nothing is under way."""

    def go_on(self, slot: Slot) -> None:
        """Nothing is under way."""

    def cancel(self, slot: Slot) -> None:
        """Nothing is under way."""


class RecordingPool(Pool):
    """Stands where the pool of an endpoint would; `recorded` is the last request."""

    def __init__(self) -> None:
        self.options: list[tuple[int, object]] = []
        self.head_limit = 0
        self.origin = b""
        self.eof_at = 0.0
        self.key_filter = None
        self.http2 = False
        self.name = None
        self.recorded: Recorded | None = None

    def take(self, method: bytes, has_body: bool) -> Slot:
        """A slot that nobody moves."""
        return Slot(_NoDriver(), self, "OTHER")

    def give(self, slot: Slot) -> None:
        """The slot is not used again."""
        slot.close()

    def start(
        self, slot: Slot, sink: Sink, method: bytes, target: bytes, fields: list[bytes],
        length: int | None = None, body: bytes | None = None, *, new_connection: bool = False,
    ) -> None:
        """Keep the request."""
        self.recorded = Recorded(method, target, fields, length, body)

    def close(self) -> None:
        """Nothing is open."""
