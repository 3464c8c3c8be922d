"""A pool that sends nothing and records the request, for a dry run."""

from __future__ import annotations

from relayd.dataclass import dataclass
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import Sink, Slot


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as passed to the transport; see Pool.start."""

    method: bytes
    target: bytes
    fields: list[bytes]
    length: int | None
    body: bytes | None


class _NoDriver:
    """A driver without transfers."""

    def __init__(self) -> None:
        self.ready_slots: list[Slot] = []

    def resume(self, slot: Slot) -> None:
        """No transfer is running."""

    def reschedule(self, slot: Slot) -> None:
        """No transfer is running."""

    def cancel(self, slot: Slot) -> None:
        """No transfer is running."""


class RecordingPool(Pool):
    """Replaces the pool of an endpoint; `recorded` is the last request."""

    def __init__(self) -> None:
        self.options: list[tuple[int, object]] = []
        self.head_limit = 0
        self.origin = b""
        self.key_filter = None
        self.http2 = False
        self.name = None
        self.recorded: Recorded | None = None

    def acquire(self, method: bytes, has_body: bool) -> Slot:
        """A slot without a real driver."""
        return Slot(_NoDriver(), self, "OTHER")

    def release(self, slot: Slot) -> None:
        """Close the slot; it is not reused."""
        slot.close()

    def start(
        self, slot: Slot, sink: Sink, method: bytes, target: bytes, fields: list[bytes],
        length: int | None = None, body: bytes | None = None, *, new_connection: bool = False,
    ) -> None:
        """Record the request."""
        self.recorded = Recorded(method, target, fields, length, body)

    def close(self) -> None:
        """No connection is open."""
