"""What happened recently, for the dashboard: rates over the last hour, latencies by endpoint, and the last failures.

1. A record costs a few additions. Percentiles are computed when they are read, and only after a change.
2. Memory is bounded: BUCKETS intervals, MAX_ENDPOINTS endpoints with SAMPLES records each, and MAX_FAILURES failures of
   each of two kinds: of the client, and all others. So a client that causes many failures hides none of an endpoint.
"""

from __future__ import annotations

import itertools
from collections import deque

from relayd import clock
from relayd.dataclass import dataclass
from relayd.telemetry.outcome import Record

INTERVAL_S = 10
BUCKETS = 360
MAX_ENDPOINTS = 1000
MAX_OUTCOMES = 12
MAX_FAILURES = 100
SAMPLES = 200
LONGEST_TEXT = 300


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """One failed exchange. `number` counts failures from 1, `wall_s` is the time of its end, in seconds since 1970."""

    number: int
    wall_s: float
    record: tuple[str, ...]  # the texts of FAILURE_FIELDS
    status: int
    total_s: float


FAILURE_FIELDS = (
    "id", "method", "path", "route", "consumer", "model", "upstream", "endpoint", "code", "outcome", "detail",
)


class EndpointStatistics:
    """The last exchanges of one endpoint, and its outcomes since the start of the process. Times are in seconds."""

    __slots__ = ("_percentiles", "first_bytes_s", "outcomes", "totals_s")

    def __init__(self) -> None:
        self.totals_s: deque[float] = deque(maxlen=SAMPLES)
        self.first_bytes_s: deque[float] = deque(maxlen=SAMPLES)
        self.outcomes: dict[str, int] = {}
        self._percentiles: tuple[float, ...] | None = None

    def add(self, record: Record) -> None:
        """Count one exchange."""
        name = record.code or (f"status_{record.status}" if record.status >= 400 else "complete")
        if name not in self.outcomes and len(self.outcomes) >= MAX_OUTCOMES:
            name = "other"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1
        if record.first_byte_s >= 0:
            self.first_bytes_s.append(first_token_s(record))
            self.totals_s.append(record.total_s)
            self._percentiles = None

    def percentiles(self) -> tuple[float, ...]:
        """The 50th, 90th and 99th percentile of the total time, then of the time to the first byte or token, over the
        last SAMPLES responses; empty without any."""
        if self._percentiles is None:
            found = [_percentile(sorted(of), share) for of in (self.totals_s, self.first_bytes_s)
                     for share in (0.5, 0.9, 0.99)] if self.totals_s else []
            self._percentiles = tuple(found)
        return self._percentiles


class Recent:
    """One per process; owned by telemetry."""

    __slots__ = ("_buckets", "_first", "_number", "client_failures", "currency", "endpoints", "failures")

    def __init__(self) -> None:
        self._buckets: deque[list[int]] = deque(maxlen=BUCKETS)
        self._first = 0  # the number of the first bucket: seconds since 1970 by INTERVAL_S
        self._number = 0
        self.currency = ""
        self.endpoints: dict[tuple[str, str], EndpointStatistics] = {}
        self.failures: deque[RecentFailure] = deque(maxlen=MAX_FAILURES)
        self.client_failures: deque[RecentFailure] = deque(maxlen=MAX_FAILURES)

    def add(self, record: Record) -> None:
        """Count one finished exchange."""
        bucket, usage = self._current(), record.usage
        bucket[0] += 1
        if usage is not None:
            bucket[2] += usage.input or 0
            bucket[3] += usage.output or 0
        if record.cost_nano:
            bucket[4] += record.cost_nano
            self.currency = record.currency
        if record.endpoint:
            key = record.upstream, record.endpoint
            statistics = self.endpoints.get(key)
            if statistics is None:
                while len(self.endpoints) >= MAX_ENDPOINTS:
                    del self.endpoints[next(iter(self.endpoints))]
                statistics = self.endpoints[key] = EndpointStatistics()
            statistics.add(record)
        if record.code or record.status >= 500:
            if record.ended_by != "client" or record.status >= 500:
                bucket[1] += 1
            self._add_failure(record)

    def history(self, most: int = BUCKETS) -> tuple[int, list[list[int]]]:
        """The last `most` intervals, up to the current one: the number of the first, and of each the requests, the
        failures that are not the client's, the tokens of input and output, and the cost in nano-units."""
        self._current()
        skipped = max(0, len(self._buckets) - most)
        return self._first + skipped, list(itertools.islice(self._buckets, skipped, None))

    def _current(self) -> list[int]:
        now = int(clock.wall()) // INTERVAL_S
        buckets = self._buckets
        if not buckets or now - self._first >= len(buckets) + BUCKETS:
            buckets.clear()
            self._first = now
            buckets.append([0, 0, 0, 0, 0])
        while now - self._first >= len(buckets):
            self._first += len(buckets) == BUCKETS
            buckets.append([0, 0, 0, 0, 0])
        self._first -= self._first + len(buckets) - 1 - now  # the clock was set back, and so is the history
        return buckets[-1]

    def _add_failure(self, record: Record) -> None:
        self._number += 1
        model = "" if record.more is None else str(record.more.get("model", ""))
        texts = tuple(str(getattr(record, name))[:LONGEST_TEXT] if name != "model" else model[:LONGEST_TEXT]
                      for name in FAILURE_FIELDS)
        kept = self.client_failures if record.ended_by == "client" else self.failures
        kept.append(RecentFailure(self._number, clock.wall(), texts, record.status, record.total_s))


def first_token_s(record: Record) -> float:
    """The time to the first token of a stream, else to the first byte."""
    more = record.more
    if more is not None and "first_token_ms" in more:
        return float(more["first_token_ms"]) / 1000
    return record.first_byte_s


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
