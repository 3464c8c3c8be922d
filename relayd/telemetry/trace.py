"""The trace of one exchange: its ids, and the times of its attempts and waits, from which a sink builds spans.

An exchange has a Trace only if a sink takes traces. Times are on the monotonic clock, in seconds. Lists are filled only
if the trace is sampled, and are bounded by MAX_CHILDREN.
"""

from __future__ import annotations

import random

from relayd.dataclass import dataclass
from relayd.wire.trace_context import RANDOM, SAMPLED, TraceParent

MAX_CHILDREN = 64  # attempts, and waits; further ones are only counted
_RATIO_BITS = 64


@dataclass(frozen=True, slots=True)
class Sampler:
    """Decides which exchanges are traced: as the caller decided if there is one and `follows_parent`, else the share
    `ratio` (0 to 1) of trace ids. The comparison is that of OpenTelemetry's TraceIdRatioBased, so services that use the
    same ratio sample the same traces."""

    ratio: float
    follows_parent: bool = True

    def samples(self, trace_id: str, parent: TraceParent | None) -> bool:
        """True if the exchange with this trace id is traced."""
        if parent is not None and self.follows_parent:
            return parent.sampled
        return self.takes(trace_id)

    def takes(self, trace_id: str) -> bool:
        """True if a trace with this id that begins here is traced."""
        return self.ratio > 0.0 and int(trace_id[16:], 16) < round(self.ratio * (1 << _RATIO_BITS))


@dataclass(slots=True)
class Tracing:
    """The decision in force, which a reload may replace; None if no sink takes traces. Owned by telemetry."""

    sampler: Sampler | None = None


class AttemptTimes:
    """One attempt of a sampled trace. `status` is the status of its response, 0 without one; `code` the error code, ""
    for a success. `prepared_s` is the time of the beginning of its translation, -1.0 without one. `provider` is the
    GenAI provider name of the endpoint's dialect, `model` the model's name there; both may be empty."""

    __slots__ = (
        "code", "end_s", "endpoint", "model", "prepared_s", "provider", "span_id", "start_s", "status", "upstream",
    )

    def __init__(
        self, span_id: str, upstream: str, endpoint: str, provider: str, model: str, start_s: float, prepared_s: float
    ) -> None:
        self.span_id, self.upstream, self.endpoint = span_id, upstream, endpoint
        self.provider, self.model = provider, model
        self.start_s, self.prepared_s, self.end_s = start_s, prepared_s, -1.0
        self.status, self.code = 0, ""

    def end(self, now_s: float, status: int, code: str) -> None:
        """Note the result; only the first one counts."""
        if self.end_s < 0:
            self.end_s, self.status, self.code = now_s, status, code


class Trace:
    """Owned by the record of its exchange. `span_id` is that of the exchange itself, `parent_id` that of the caller,
    empty without one. `state` is the value of tracestate. `operation` is the GenAI operation, empty if unknown.
    `tls` is true if the client's connection is encrypted. `passes_context` is true if the caller's context is passed on
    unchanged."""

    __slots__ = (
        "attempts", "flags", "id", "operation", "parent_id", "passes_context", "prepared_s", "sampled", "span_id",
        "state", "stream", "tls", "waits",
    )

    def __init__(self, trace_id: str, parent: TraceParent | None, state: str, sampled: bool, tls: bool = False) -> None:
        self.tls = tls
        self.id, self.state, self.sampled = trace_id, state, sampled
        self.span_id = new_span_id()
        self.parent_id = "" if parent is None else parent.parent_id
        self.passes_context = parent is not None and not sampled and not parent.sampled
        self.flags = (RANDOM if parent is None else parent.flags & RANDOM) | (SAMPLED if sampled else 0)
        self.operation = ""
        self.stream = False
        self.prepared_s = -1.0
        self.attempts: list[AttemptTimes] = []
        self.waits: list[tuple[float, float]] = []

    def add_wait(self, start_s: float, end_s: float) -> None:
        """Note a wait in a queue."""
        if self.sampled and len(self.waits) < MAX_CHILDREN:
            self.waits.append((start_s, end_s))

    def add_attempt(self, attempt: AttemptTimes) -> None:
        """Note that an attempt starts."""
        if len(self.attempts) < MAX_CHILDREN:
            self.attempts.append(attempt)

    def end_attempt(self, now_s: float, status: int, code: str) -> None:
        """Note the end of the last attempt, if there is one that has not ended."""
        if self.attempts:
            self.attempts[-1].end(now_s, status, code)


def new_trace_id() -> str:
    """A random trace id; never zero in practice."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """A random span id."""
    return f"{random.getrandbits(64) or 1:016x}"


UNSAMPLED = Trace("", None, "", sampled=False)
"""The trace of every exchange that begins one and is not sampled, which keeps nothing of it. Its trace id is the id of
its record, and its span id the end of that."""
