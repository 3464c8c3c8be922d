"""The request body of one exchange: none, whole, or streamed; gathered where it decides, replayed where it may be.

1. A whole body is kept until the response is committed, so that another attempt can send it.
2. A streamed body goes straight to the transfer under way. Until the endpoint has read a byte of it, it can be taken
   back for another attempt.
3. What waits here is bounded: the client is paused while the endpoint does not read, while nobody takes the body, while
   it is looked at (proxy/body_inspection), and while all bodies together have no memory for it (proxy/body_memory).
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
    """Reads a body in passing until it knows enough to go on."""

    @property
    def reads_all(self) -> bool:
        """Whether nothing is enough before the end of the body."""

    def feed(self, data: bytes) -> bool:
        """True when enough is known. Raises ExchangeError for a body that is refused."""


class Transform(Protocol):
    """Changes a streamed body on its way."""

    def feed(self, data: bytes, last: bool) -> bytes:
        """The bytes to send on. Raises ExchangeError."""


class Recipient(Protocol):
    """Who gets a streamed body: a transfer to an endpoint, or an application inside relayd."""

    @property
    def queued(self) -> int:
        """Bytes that wait for it."""

    @property
    def read_at(self) -> float:
        """When it has begun to read what waits; 0 before, and then the body can still be taken back."""

    def feed(self, data: bytes, last: bool, /) -> None:
        """The next piece."""


class Buffering:
    """A body that is read before the exchange goes on: whole, or until a probe knows enough."""

    __slots__ = ("body", "limit", "on_complete", "owner")

    def __init__(self, limit: int, on_complete: Callable[[], None], owner: BodyOwner) -> None:
        self.limit, self.on_complete, self.owner = limit, on_complete, owner
        self.body = bytearray()  # not a list: an object for each byte would cost forty times what is counted


class RequestBody:
    """Owned by its exchange. `data` is the whole body, None while it is not known. `complete`: the client has sent
    all of it. `present`: the request has a body. `paused`: the client was told to wait. `probe` is what has looked at a
    body that was gathered, `json_body` what is known of its JSON where somebody has looked. `memory` is its part of the
    bound on all bodies; most are so small that they need none."""

    __slots__ = (
        "_buffering", "_buffers", "_down", "_pauses", "_pending", "_untransformed", "complete", "data", "json_body",
        "memory", "paused", "present", "probe", "transform",
    )

    def __init__(self, down: Downstream, buffers: RequestBuffers, data: bytes | None, present: bool) -> None:
        """`data` is the whole body where it came with the head."""
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
        self._untransformed: list[bytes] | None = None  # with a transform: what the transfer was given, before it was changed
        self.paused = False
        self._pauses = 0

    @property
    def whole(self) -> bool:
        """Whether nothing more has to come before the request can be sent, now or again."""
        return self.data is not None or not self.present

    @property
    def is_buffering(self) -> bool:
        """Whether the body is being read before the exchange goes on."""
        return self._buffering is not None

    def start_buffering(
        self, limit: int, on_complete: Callable[[], None], owner: BodyOwner, length: int | None, probe: Probe | None = None
    ) -> None:
        """Read the body up to `limit` bytes (0: no bound), then go on; with `probe` maybe before its end. `length` is
        what was announced. Raises ExchangeError if there can never be memory for it."""
        self.probe = probe
        if length is not None and length > FREE_BYTES and (probe is None or probe.reads_all):
            self.memory = BodyMemory(self._buffers, owner, self, length)
        self._buffering = Buffering(limit, on_complete, owner)

    def receive(self, piece: bytes, last: bool, recipient: Recipient | None, recipient_expected: bool) -> None:
        """The next piece from the client. `recipient` takes it; `recipient_expected` says that one will come.

        Raises ExchangeError for a body that is too large or cannot be read.
        """
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

    def attach(self, recipient: Recipient) -> None:
        """A streamed body goes there from now on."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._feed(recipient, b"".join(pending), self.complete)

    def detach(self, slot: Slot) -> bool:
        """The transfer ends. True if the body can be sent once more: whole, absent, or not read by the endpoint."""
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
        """The recipient has taken something."""
        if self.paused and recipient.queued < LOW:
            self.paused = False
            self.resume_body()

    # ---- several may want the client to wait

    def pause_body(self) -> None:
        """Read nothing more from the client until `resume_body` was called as often."""
        self._pauses += 1
        if self._pauses == 1:
            self._down.pause_body()

    def resume_body(self) -> None:
        """One reason less to wait."""
        self._pauses -= 1
        if self._pauses == 0:
            self._down.resume_body()

    # ---- what is counted over all exchanges together

    def count(self, size: int, owner: BodyOwner, *, grows: bool = False) -> None:
        """So many bytes of the body are held; `grows` if more are to come. Small bodies are not counted."""
        if self.memory is None:
            if size <= FREE_BYTES:
                return
            self.memory = BodyMemory(self._buffers, owner, self, None)
        if grows:
            self.memory.grow(size)
        else:
            self.memory.set_body_bytes(size)

    def count_response(self, size: int, owner: BodyOwner) -> None:
        """So many bytes of a response are held until it is whole."""
        if self.memory is None:
            if size <= FREE_BYTES:
                return
            self.memory = BodyMemory(self._buffers, owner, self, None)
        self.memory.set_response_bytes(size)

    def recount(self, slot: Slot | None, payload: bytes | None = None) -> None:
        """What is held has changed: the body, `payload` as it was written for the endpoint, what `slot` still has."""
        if self.memory is not None:
            bodies = (self.data, payload, None if slot is None else slot.body)
            held = {id(body): len(body) for body in bodies if body is not None}
            self.memory.set_body_bytes(sum(held.values()) + (0 if slot is None else slot.queued))

    def buffered_bytes(self) -> int:
        """Bytes of the body that wait here."""
        if self.memory is not None:
            return self.memory.body_bytes
        return 0 if self._buffering is None else len(self._buffering.body)

    def release(self) -> None:
        """The exchange is over."""
        self.data = self._pending = self._untransformed = self._buffering = self.transform = self.probe = self.json_body = None
        if self.memory is not None:
            memory, self.memory = self.memory, None
            memory.release()
