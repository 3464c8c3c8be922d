"""The request body of one exchange: absent, whole, or streamed. It is buffered if it decides the target, and replayed
for another attempt if possible.

1. A whole body is held until the response is committed, so that another attempt can send it.
2. A streamed body goes directly to the current transfer. It can be replayed for another attempt until the endpoint has
   read a byte of it.
3. The buffers are bounded. The client is paused while the endpoint does not read, while the body has no recipient,
   while it is inspected (proxy/body_inspection), and while there is no memory for it (proxy/body_memory).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relayd.errors import ExchangeError
from relayd.limits.request_buffers import FREE_BYTES, RequestBuffers
from relayd.proxy.body_memory import BodyMemory, BodyOwner
from relayd.proxy.downstream import Downstream
from relayd.upstream.transport.slot import Slot
from relayd.wire.body import JsonBody

HIGH = 128 * 1024  # bytes queued for the endpoint above which the client is paused
LOW = 64 * 1024


class Probe(Protocol):
    """Reads a body as it arrives until no more of it is needed."""

    @property
    def reads_all(self) -> bool:
        """True if the probe needs the whole body."""

    def feed(self, data: bytes) -> bool:
        """Read a piece. Returns True if no more is needed. Raises ExchangeError for a refused body."""


class Transform(Protocol):
    """Converts a streamed body."""

    def feed(self, data: bytes, last: bool) -> bytes:
        """Convert a piece. Raises ExchangeError."""


class Recipient(Protocol):
    """The recipient of a streamed body: a transfer to an endpoint, or an application inside relayd."""

    @property
    def queued(self) -> int:
        """Bytes that the recipient has not consumed."""

    @property
    def read_at(self) -> float:
        """The clock time of the first read; 0 before it. The body can be replayed until then."""

    def feed(self, data: bytes, last: bool, /) -> None:
        """Receive the next piece."""


class Buffering:
    """A body that is buffered before the exchange continues: whole, or until its probe needs no more."""

    __slots__ = ("body", "limit", "on_complete", "owner")

    def __init__(self, limit: int, on_complete: Callable[[], None], owner: BodyOwner) -> None:
        self.limit, self.on_complete, self.owner = limit, on_complete, owner
        self.body = bytearray()  # not a list: one object per byte would use forty times the counted memory


class RequestBody:
    """Owned by its exchange. `data` is the whole body, None before it is complete. `complete`: the client has sent all
    of it. `present`: the request has a body. `paused`: the client is paused. `probe` has read a buffered body;
    `json_body` is the result of its inspection, if any. `memory` is its share of the memory for all bodies, None for a
    small body."""

    __slots__ = (
        "_buffering", "_buffers", "_down", "_held", "_pauses", "_pending", "_untransformed", "complete", "data",
        "json_body", "memory", "paused", "present", "probe", "transform",
    )

    def __init__(self, down: Downstream, buffers: RequestBuffers, data: bytes | None, present: bool) -> None:
        """`data` is the whole body if it arrived with the head."""
        self._down, self._buffers = down, buffers
        self.data = data
        self.present = present
        self.complete = data is not None or not present
        self.transform: Transform | None = None
        self.probe: Probe | None = None
        self.json_body: JsonBody | None = None
        self.memory: BodyMemory | None = None
        self._buffering: Buffering | None = None
        self._pending: list[bytes] | None = None
        self._held: list[bytes] | None = None  # what arrives while an early phase waits; None while none does
        self._untransformed: list[bytes] | None = None  # the input of the transform, for a replay
        self.paused = False
        self._pauses = 0

    @property
    def whole(self) -> bool:
        """True if the request can be sent, and replayed, without further data from the client."""
        return self.data is not None or not self.present

    @property
    def is_buffering(self) -> bool:
        """True while the body is buffered before the exchange continues."""
        return self._buffering is not None

    def start_buffering(
        self, limit: int, on_complete: Callable[[], None], owner: BodyOwner, length: int | None,
        probe: Probe | None = None,
    ) -> None:
        """Buffer the body up to `limit` bytes (0: unlimited), then call `on_complete`; a `probe` may end this early.
        `length` is the announced size. Raises ExchangeError if the size exceeds the memory for all bodies."""
        self.probe = probe
        if length is not None and length > FREE_BYTES and (probe is None or probe.reads_all):
            self.memory = BodyMemory(self._buffers, owner, self, length)
        self._buffering = Buffering(limit, on_complete, owner)

    def receive(self, piece: bytes, last: bool, recipient: Recipient | None, recipient_expected: bool) -> None:
        """Receive the next piece from the client, for `recipient`. `recipient_expected`: one will be attached.

        Raises ExchangeError for a body that is too large or invalid.
        """
        if self._held is not None:
            if recipient is None:
                self._hold_piece(self._held, piece, last)
                return
            self._pass_held()
        if self._buffering is not None:
            self._add_to_buffer(self._buffering, piece, last)
            return
        self.complete = last
        if recipient is not None:
            self._feed(recipient, piece, last)
        elif recipient_expected:
            self._pending = [*(self._pending or ()), piece]
            if not self.paused:
                self.paused = True
                self.pause_body()

    def _add_to_buffer(self, buffering: Buffering, piece: bytes, last: bool) -> None:
        buffering.body += piece
        size = len(buffering.body)
        if buffering.limit and size > buffering.limit:
            self._buffering = None
            raise ExchangeError("body_too_large")
        is_known = self.probe is not None and self.probe.feed(piece)  # also the last piece
        done = last or is_known
        self.count(size, buffering.owner, grows=not done)
        if done:
            self._buffering = None
            self.complete = last
            data = bytes(buffering.body)
            if last:
                self.data = data
            else:
                self._pending = [data]
            buffering.on_complete()

    # ---- while a phase before the choice of a recipient waits

    def hold(self) -> None:
        """Keep what arrives until the exchange continues. Has no effect on a body that is whole or being buffered."""
        if self._held is None and self._buffering is None and not self.whole and not self.complete:
            self._held = []

    def await_recipient(self) -> None:
        """Read nothing until the body has a recipient, or is buffered: its client asks first (100-continue)."""
        if not self.paused and self._buffering is None and not self.whole and not self.complete:
            self.paused = True
            self.pause_body()

    def end_hold(self) -> None:
        """The exchange continues. A body that has arrived meanwhile is whole; another one is held until it has a
        recipient, or is buffered (`replay_held`)."""
        if self._held is not None and self.complete:
            self.data, self._held = b"".join(self._held), None

    @property
    def is_held(self) -> bool:
        """True if pieces are kept."""
        return self._held is not None

    def replay_held(self) -> None:
        """Buffer what was held. Raises ExchangeError as `receive` does."""
        held, self._held = self._held, None
        if self.paused:
            self.paused = False
            self.resume_body()
        if held and self._buffering is not None:
            self._add_to_buffer(self._buffering, b"".join(held), self.complete)

    def _hold_piece(self, held: list[bytes], piece: bytes, last: bool) -> None:
        held.append(piece)
        self.complete = last
        if not last and not self.paused:
            self.paused = True
            self.pause_body()

    def _pass_held(self) -> None:
        """Queue what was held for the recipient."""
        if self._held:
            self._pending = [*(self._pending or ()), *self._held]
        self._held = None

    def attach(self, recipient: Recipient) -> None:
        """Send the streamed body to this recipient from now on."""
        if self._held is not None:
            self._pass_held()
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._feed(recipient, b"".join(pending), self.complete)
        self.on_drained(recipient)

    def detach(self, slot: Slot) -> bool:
        """The transfer ends. Returns True if the body can be replayed: whole, absent, or not read by the endpoint."""
        if self.whole:
            return True
        if slot.read_at:
            return False
        self._pending = [bytes(piece) for piece in slot.queue or ()] if self.transform is None else self._untransformed
        self.transform = self._untransformed = None
        return True

    def _feed(self, recipient: Recipient, piece: bytes, last: bool) -> None:
        if self.transform is not None:
            self._untransformed = None if recipient.read_at else [*(self._untransformed or ()), piece]
            piece = self.transform.feed(piece, last)
        recipient.feed(piece, last)
        if not last and not self.paused and recipient.queued > HIGH:
            self.paused = True
            self.pause_body()

    def on_drained(self, recipient: Recipient) -> None:
        """The recipient has consumed data: resume the client if few bytes are queued."""
        if self.paused and recipient.queued < LOW:
            self.paused = False
            self.resume_body()

    # ---- nested pauses of the client

    def pause_body(self) -> None:
        """Pause the client until `resume_body` was called as often."""
        self._pauses += 1
        if self._pauses == 1:
            self._down.pause_body()

    def resume_body(self) -> None:
        """Undo one `pause_body`."""
        self._pauses -= 1
        if self._pauses == 0:
            self._down.resume_body()

    # ---- the memory for the bodies of all exchanges

    def count(self, size: int, owner: BodyOwner, *, grows: bool = False) -> None:
        """Set the held bytes of the body; `grows` if more are to come. Small bodies are not counted."""
        if self.memory is None:
            if size <= FREE_BYTES:
                return
            self.memory = BodyMemory(self._buffers, owner, self, None)
        if grows:
            self.memory.grow(size)
        else:
            self.memory.set_body_bytes(size)

    def count_response(self, size: int, owner: BodyOwner) -> None:
        """Set the held bytes of a response that is buffered until complete."""
        if self.memory is None:
            if size <= FREE_BYTES:
                return
            self.memory = BodyMemory(self._buffers, owner, self, None)
        self.memory.set_response_bytes(size)

    def recount(self, slot: Slot | None, payload: bytes | None = None) -> None:
        """Count again: the body, `payload` as encoded for the endpoint, and the data queued in `slot`."""
        if self.memory is not None:
            bodies = (self.data, payload, None if slot is None else slot.body)
            held = {id(body): len(body) for body in bodies if body is not None}
            self.memory.set_body_bytes(sum(held.values()) + (0 if slot is None else slot.queued))

    def buffered_bytes(self) -> int:
        """Bytes of the body buffered here."""
        if self.memory is not None:
            return self.memory.body_bytes
        return 0 if self._buffering is None else len(self._buffering.body)

    def release(self) -> None:
        """Release all data; the exchange is over."""
        self.data = self._pending = self._held = self._untransformed = self._buffering = None
        self.transform = self.probe = self.json_body = None
        if self.memory is not None:
            memory, self.memory = self.memory, None
            memory.release()
