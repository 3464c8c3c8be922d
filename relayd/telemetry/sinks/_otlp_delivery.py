"""Delivery of one signal to a collector: a bounded queue, batches, retries with back-off.

1. `add` never waits, and costs no more than an append: items are encoded later, in steps of about a millisecond.
2. There is at most one request at a time. While the collector is slow or gone, the queue fills, up to a number of items
   and of bytes, and then new items are dropped and counted.
3. A batch is sent again after 429, 502, 503, 504 and after failed connections, until it is GIVE_UP_S old. Every other
   error drops it (OTLP specification, Failures).
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC
from typing import Generic, TypeVar

from relayd import clock
from relayd.dataclass import dataclass
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.outlet import Outlet, Reply

LOG = logging.getLogger("relayd.telemetry")
T = TypeVar("T")

QUEUE = 4096  # items of one signal
QUEUE_BYTES = 16 * 1024 * 1024  # that the items of one signal hold in memory
BATCH = 256
BATCH_BYTES = 512 * 1024
STEP = 8  # items that are encoded in one step
STEP_BYTES = 32 * 1024  # JSON after which a step ends
GIVE_UP_S = 300.0
BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
MAX_RETRY_AFTER_S = 300.0
LOGGED_S = 60.0
RETRYABLE = frozenset((0, 429, 502, 503, 504))
IDLE, ENCODING, SENDING, WAITING = range(4)


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how a signal is sent. `frame` is the text before and after the items of a request; `fields` are header
    lines. `gzip`: the body is compressed."""

    signal: str
    url: str
    ca: str | None
    fields: Sequence[bytes]
    frame: tuple[str, str]
    timeout_s: float
    gzip: bool


class Delivery(Generic[T]):
    """The queue of one signal; owned by its sink. `encode` returns the pieces of an item as JSON, none to leave it out.
    `size_of` returns the bytes that an item holds in memory."""

    def __init__(
        self, target: Target, encode: Callable[[T], Iterable[str]], size_of: Callable[[T], int], metrics: Metrics
    ) -> None:
        self._target, self._encode, self._size_of, self._metrics = target, encode, size_of, metrics
        self._outlet: Outlet | None = None
        self._queue: deque[tuple[T, int]] = deque()
        self._queued_bytes = 0
        self._item: Iterator[str] | None = None  # an item of which more pieces follow, and the pieces until now
        self._item_pieces: list[str] = []
        self._left = 0  # bytes that may be encoded in this step
        self._state = IDLE
        self._body = Body(target.frame, gzip=target.gzip)
        self._count = self._failures = self._attempts = 0
        self._batch_began_s = self._retry_at_s = 0.0
        self._finishing = False

    def connect(self, outlet: Outlet) -> None:
        """Set the tools; nothing is sent before."""
        self._outlet = outlet

    @property
    def is_idle(self) -> bool:
        """True if nothing is queued or under way."""
        return self._state == IDLE and not self._queue

    def add(self, item: T) -> None:
        """Queue an item, or drop it if the queue is full."""
        size_bytes = self._size_of(item)
        if len(self._queue) < QUEUE and self._queued_bytes + size_bytes <= QUEUE_BYTES:
            self._queue.append((item, size_bytes))
            self._queued_bytes += size_bytes
        else:
            self._drop(1)

    def flush(self) -> None:
        """Send the queued items, or send a failed batch again if it is due. Called at intervals."""
        if self._state == IDLE and self._queue:
            self._begin_batch()
        elif self._state == WAITING and (self._finishing or clock.monotonic() >= self._retry_at_s):
            self._send()

    def finish(self) -> None:
        """Send everything now; a batch that fails from now on is dropped, with everything behind it."""
        self._finishing = True
        self.flush()

    def _drop(self, count: int) -> None:
        self._metrics.add("relayd.telemetry.otlp_dropped", count, signal=self._target.signal)

    # ---- a batch

    def _begin_batch(self) -> None:
        if self._outlet is None:
            return
        self._state, self._count, self._attempts = ENCODING, 0, 0
        self._body = Body(self._target.frame, gzip=self._target.gzip)
        self._batch_began_s = clock.monotonic()
        self._outlet.defer(self._encode_step)

    def _encode_step(self) -> None:
        """Encode a few items; the last step sends the batch."""
        assert self._outlet is not None
        queue = self._queue
        items: list[str] = []
        self._left = STEP_BYTES
        for _ in range(STEP):
            if self._item is None:
                if not queue or self._left <= 0:
                    break
                item, size_bytes = queue.popleft()
                self._queued_bytes -= size_bytes
                self._item, self._item_pieces = iter(self._encode(item)), []
            if not self._finish_item(self._item):
                self._body.add(items)
                self._outlet.defer(self._encode_step)
                return
            self._item = None
            if self._item_pieces:
                items.append("".join(self._item_pieces))
                self._count += 1
        self._body.add(items)
        if queue and self._count < BATCH and self._body.size < BATCH_BYTES:
            self._outlet.defer(self._encode_step)
            return
        if self._body.is_empty:
            self._state = IDLE
            return
        self._body.end()
        self._send()

    def _finish_item(self, item: Iterator[str]) -> bool:
        """Append pieces of an item. Returns False if there may be more, which are for the next step."""
        try:
            for piece in item:
                self._item_pieces.append(piece)
                self._left -= len(piece)
                if self._left <= 0:
                    return False
        except Exception:  # rescue door: one item must not stop those behind it
            LOG.exception("an item of %s cannot be encoded", self._target.signal)
            self._drop(1)
            self._item_pieces = []
        return True

    def _send(self) -> None:
        assert self._outlet is not None
        target = self._target
        self._state = SENDING
        self._attempts += 1
        self._outlet.post(
            target.url, target.ca, target.fields, self._body.data, target.timeout_s, self._on_reply
        )

    def _on_reply(self, reply: Reply) -> None:
        if 200 <= reply.status < 300:
            self._on_success(reply)
            return
        self._metrics.add("relayd.telemetry.otlp_failed", signal=self._target.signal)
        self._failures += 1
        now_s = clock.monotonic()
        why = reply.fault or f"status {reply.status} {printable(reply.body)}".rstrip()
        can_retry = reply.status in RETRYABLE and not self._finishing and now_s - self._batch_began_s < GIVE_UP_S
        self._report(why, can_retry=can_retry)
        if can_retry:
            backoff_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(10, self._attempts - 1)) * random.uniform(0.5, 1.0)
            self._retry_at_s = now_s + (retry_after_s(reply.retry_after) or backoff_s)
            self._state = WAITING
            return
        self._drop(self._count)
        self._end_batch()
        if self._finishing and reply.status in RETRYABLE:
            self._drop(len(self._queue))
            self._queue.clear()
            self._queued_bytes = 0
        else:
            self.flush()

    def _on_success(self, reply: Reply) -> None:
        rejected, message = partial_success(reply.body)
        if rejected:
            self._drop(min(rejected, self._count))
        if rejected or message:
            self._report(f"partial success, {rejected} rejected: {message}", can_retry=False)
        elif self._failures and self._outlet is not None:
            self._outlet.journal.limited(
                f"otlp_recovered:{self._target.signal}", LOGGED_S, "info", "otlp_recovered",
                "The collector accepts telemetry again.", signal=self._target.signal, failures=self._failures,
            )
        if not rejected:
            self._failures = 0
        self._metrics.add("relayd.telemetry.otlp_sent", max(0, self._count - rejected), signal=self._target.signal)
        self._end_batch()
        if self._finishing or len(self._queue) >= BATCH:
            self.flush()

    def _end_batch(self) -> None:
        self._state, self._count = IDLE, 0
        self._body = Body(self._target.frame, gzip=False)

    def _report(self, why: str, *, can_retry: bool) -> None:
        assert self._outlet is not None
        what = "The batch is sent again later." if can_retry else "The batch is lost."
        self._outlet.journal.limited(
            f"otlp_failed:{self._target.signal}", LOGGED_S, "warning", "otlp_failed", what,
            signal=self._target.signal, why=why,
        )


class Body:
    """The body of one request, built piece by piece; `data` is complete after `end`."""

    def __init__(self, frame: tuple[str, str], *, gzip: bool) -> None:
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, 31) if gzip else None
        self._pieces: list[bytes] = []
        self._frame = frame
        self.is_empty = True
        self.size = 0
        self.data = b""

    def add(self, items: Sequence[str]) -> None:
        """Append items of the JSON array."""
        if items:
            self._write(("," if not self.is_empty else self._frame[0]) + ",".join(items))
            self.is_empty = False

    def end(self) -> None:
        """Append the end of the frame."""
        self._write(self._frame[1])
        if self._compressor is not None:
            self._pieces.append(self._compressor.flush())
        self.data = b"".join(self._pieces)
        self._pieces.clear()

    def _write(self, text: str) -> None:
        data = text.encode("ascii")
        self.size += len(data)
        self._pieces.append(data if self._compressor is None else self._compressor.compress(data))


def partial_success(body: bytes) -> tuple[int, str]:
    """The number of rejected items in a successful response, and the collector's message; (0, "") if it has none."""
    if not body:
        return 0, ""
    try:
        found = json.loads(body)["partialSuccess"]
        counts = [int(value) for key, value in found.items() if key.startswith("rejected")]
        return max(0, *counts, 0), printable(str(found.get("errorMessage", "")).encode("utf-8", "replace"))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):  # another form
        return 0, ""


def printable(text: bytes) -> str:
    """The beginning of a response for the log."""
    return " ".join(text[:400].decode("utf-8", "replace").split())[:200]


def retry_after_s(value: str) -> float:
    """The time of Retry-After in seconds, bounded; 0.0 without a usable one."""
    if value.isascii() and value.isdigit():
        return min(MAX_RETRY_AFTER_S, float(value[:6]))
    try:
        when = email.utils.parsedate_to_datetime(value).replace(tzinfo=UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(MAX_RETRY_AFTER_S, max(0.0, when - clock.wall()))
