"""The record of a captured exchange: heads, bodies up to a bound, times and results.

1. The bytes that all captured exchanges keep are counted in one `Allowance`. A body beyond its own bound keeps its
   beginning and its end; a body for which the allowance has no room keeps what it has. The number of missing bytes is
   known in both cases.
2. Nothing here is masked: `capture_masking` masks an exchange when it has ended, before anything of it can be read.

All times are in seconds since the beginning of the exchange.
"""

from __future__ import annotations

from array import array

from relayd.proxy.attempt import Attempt
from relayd.telemetry.outcome import Record
from relayd.telemetry.record_filter import JsonRecord

EDGE_BYTES = 4096  # kept behind a cut until the body is masked, so that no part of a key remains at the cut
MAX_PIECES = 2000
PIECE_BYTES = 16  # what its time and its size use
EXCHANGE_BYTES = 16 * 1024  # what an exchange uses beside its heads and bodies


class Allowance:
    """The bytes that captured exchanges may keep together. One per process."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.used_bytes = limit_bytes, 0

    def take(self, size: int) -> int:
        """Count up to `size` bytes. Returns how many may be kept."""
        granted = max(0, min(size, self.limit_bytes - self.used_bytes))
        self.used_bytes += granted
        return granted

    def count(self, size: int) -> None:
        """Count bytes that are kept in any case."""
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Uncount bytes that are not kept any more."""
        self.used_bytes -= size

    @property
    def is_full(self) -> bool:
        """True if there is no room for a further exchange."""
        return self.used_bytes + EXCHANGE_BYTES > self.limit_bytes


class BodyCopy:
    """A copy of a body: its beginning, and its end if it is long. `size` are the bytes of the body itself, `missing`
    those of them that are not kept. `times` and `sizes` are those of its pieces; the last one also counts the pieces
    beyond MAX_PIECES (`uncounted`). `is_masked`: a key was replaced, so that `size` is that of the original, or the
    content was dropped because of keys."""

    __slots__ = (
        "_allowance", "_half_bytes", "_is_closed", "_taken_bytes", "head", "is_masked", "missing", "size", "sizes",
        "tail", "times", "uncounted",
    )

    def __init__(self, allowance: Allowance, limit_bytes: int) -> None:
        """At most `limit_bytes` are kept; with 0 only the sizes and times of the pieces."""
        self._allowance, self._half_bytes = allowance, limit_bytes // 2
        self._is_closed = limit_bytes == 0
        self._taken_bytes = 0
        self.head, self.tail = bytearray(), bytearray()
        self.size = self.missing = self.uncounted = 0
        self.times, self.sizes = array("d"), array("L")
        self.is_masked = False

    def add(self, data: bytes | memoryview, at_s: float) -> None:
        """Copy the next piece."""
        size = len(data)
        if not size:
            return
        self.size += size
        if len(self.sizes) < MAX_PIECES and (not self.sizes or self._takes_piece()):
            self.times.append(at_s)
            self.sizes.append(size)
        else:
            self.sizes[-1] += size
            self.uncounted += 1
        if self._is_closed:
            return
        most = self._half_bytes + EDGE_BYTES
        room = most - len(self.head)
        if room > 0:
            self._keep(self.head, data[:room])
            data = data[room:]
        if data and not self._is_closed:
            tail = self.tail
            self._keep(tail, data[-most:])
            if len(tail) > 2 * most:
                self._release(len(tail) - most)
                del tail[:-most]

    def _takes_piece(self) -> bool:
        granted = self._allowance.take(PIECE_BYTES)
        self._taken_bytes += granted
        return granted == PIECE_BYTES

    def _keep(self, part: bytearray, data: bytes | memoryview) -> None:
        granted = self._allowance.take(len(data))
        self._taken_bytes += granted
        part += data[:granted]
        self._is_closed = granted < len(data)

    def _release(self, size: int) -> None:
        self._allowance.give_back(size)
        self._taken_bytes -= size

    def finish(self) -> None:
        """The body is complete: join its parts if nothing is missing between them, and drop what is beyond the
        bound."""
        most = self._half_bytes + EDGE_BYTES
        if len(self.tail) > most:
            self._release(len(self.tail) - most)
            del self.tail[:-most]
        if self._is_closed and self.size > len(self.head) + len(self.tail):
            self._release(len(self.tail))  # its place in the body is not known
            self.tail.clear()
        self._is_closed = True
        if self.size == len(self.head) + len(self.tail):
            self.head += self.tail
            self.tail.clear()
        self.missing = self.size - len(self.head) - len(self.tail)

    def cut_edges(self) -> None:
        """Drop the bytes behind the cuts. Called after the parts are masked."""
        if not self.missing:
            return
        dropped = min(EDGE_BYTES, len(self.head)) + min(EDGE_BYTES, len(self.tail))
        self._release(min(self._taken_bytes, dropped))
        self.missing += dropped
        del self.head[-EDGE_BYTES:]
        del self.tail[:EDGE_BYTES]

    def drop_tail(self) -> None:
        """Drop what is kept of the end."""
        self._release(min(self._taken_bytes, len(self.tail)))
        self.missing += len(self.tail)
        self.tail = bytearray()

    def drop_content(self) -> None:
        """Drop what is kept of the body; the sizes and times of its pieces stay."""
        self._release(max(0, self._taken_bytes - PIECE_BYTES * len(self.sizes)))
        self.missing = self.size
        self.head, self.tail = bytearray(), bytearray()

    def release(self) -> None:
        """Drop everything."""
        self._release(self._taken_bytes)
        self._is_closed = True
        self.missing = self.size
        self.head, self.tail, self.times, self.sizes = bytearray(), bytearray(), array("d"), array("L")

    @property
    def stored_bytes(self) -> int:
        """The bytes that are counted."""
        return self._taken_bytes


class CapturedResponse:
    """The head of a response, and its body. `begun_s` and `ended_s` are -1.0 if it has not begun or ended."""

    __slots__ = ("begun_s", "body", "ended_s", "fields", "reason", "status", "trailers")

    def __init__(self, body: BodyCopy) -> None:
        self.status, self.reason = 0, b""
        self.fields: list[bytes] = []
        self.trailers: list[bytes] = []
        self.body = body
        self.begun_s = self.ended_s = -1.0


class CapturedAttempt:
    """One attempt. `request_is_forwarded`: its body is that of the client, as it arrived. `fault` and `detail` say how
    it failed, empty if it did not. `blame` is the party to which its end is attributed. `source` is the attempt itself,
    until the exchange has ended."""

    __slots__ = (
        "blame",
        "body",
        "detail",
        "ended_s",
        "endpoint",
        "fault",
        "fields",
        "interim",
        "is_tunnel",
        "method",
        "request_is_forwarded",
        "response",
        "source",
        "started_s",
        "translated",
        "upstream",
        "url",
    )

    def __init__(self, upstream: str, endpoint: str, started_s: float, body: BodyCopy, answer: BodyCopy) -> None:
        self.upstream, self.endpoint, self.started_s, self.ended_s = upstream, endpoint, started_s, -1.0
        self.method = self.url = b""
        self.fields: list[bytes] = []
        self.body, self.response = body, CapturedResponse(answer)
        self.request_is_forwarded = self.translated = self.is_tunnel = False
        self.interim: list[int] = []
        self.fault = self.detail = self.blame = ""
        self.source: Attempt | None = None

    def finish(self, ended_s: float, record: Record, *, is_last: bool) -> None:
        """The exchange has ended after `ended_s`, with this record."""
        source, self.source = self.source, None
        if source is not None and source.classification is not None:
            self.blame = source.classification.blame.value
        if self.ended_s < 0:
            self.ended_s = ended_s if self.response.ended_s < 0 else self.response.ended_s
        if is_last and record.code and not self.fault:
            self.fault, self.detail = record.code, record.detail or self.detail


class CapturedExchange:
    """One exchange; owned by the capture. `record` is its access record, empty until it has ended. `version` is 10 or
    11. `is_tls`: the client's connection is encrypted. `dialect` is the name of the client's dialect, empty without
    one. `expires_s` is a time of the monotonic clock."""

    __slots__ = (
        "allowance",
        "attempts",
        "body",
        "body_bytes",
        "dialect",
        "expires_s",
        "fields",
        "head_bytes",
        "id",
        "is_dropped",
        "is_tls",
        "method",
        "record",
        "replay_of",
        "response",
        "started_s",
        "target",
        "version",
    )

    def __init__(self, allowance: Allowance, body_bytes: int, started_s: float) -> None:
        self.allowance, self.body_bytes, self.started_s = allowance, body_bytes, started_s
        self.id = self.dialect = ""
        self.method = self.target = b""
        self.version = 11
        self.fields: list[bytes] = []
        self.record: JsonRecord = {}
        self.body = self.new_body()
        self.response = CapturedResponse(self.new_body())
        self.attempts: list[CapturedAttempt] = []
        self.is_dropped = self.is_tls = False
        self.head_bytes = 0
        self.expires_s = 0.0
        allowance.count(EXCHANGE_BYTES)

    def new_body(self) -> BodyCopy:
        """The copy of a further body of this exchange."""
        return BodyCopy(self.allowance, self.body_bytes)

    def bodies(self) -> list[BodyCopy]:
        """All bodies."""
        return [self.body, self.response.body,
                *(body for one in self.attempts for body in (one.body, one.response.body))]

    def count_heads(self) -> None:
        """Count the heads, which are complete."""
        heads = [self.fields, self.response.fields, self.response.trailers]
        for one in self.attempts:
            heads += [one.fields, one.response.fields, one.response.trailers]
        self.head_bytes = sum(len(line) for lines in heads for line in lines)
        self.allowance.count(self.head_bytes)

    @property
    def size_bytes(self) -> int:
        """The bytes that are counted."""
        return EXCHANGE_BYTES + self.head_bytes + sum(body.stored_bytes for body in self.bodies())

    def drop(self) -> None:
        """Keep nothing of it."""
        if self.is_dropped:
            return
        self.is_dropped = True
        for body in self.bodies():
            body.release()
        self.allowance.give_back(EXCHANGE_BYTES + self.head_bytes)
        self.attempts = []
