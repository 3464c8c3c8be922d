"""Counters, gauges and timers in memory: exchanges update cells, sinks read them.

1. `count_exchange` runs for every request: it looks up one cell and adds to it; readers compute the sums over cells.
2. A metric must be declared in names.py; an unknown name or label raises KeyError.
3. Cardinality is bounded: at most SERIES label sets per metric; further values are counted under `other`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from relayd import clock
from relayd.telemetry.names import BUCKETS_S, METRICS, Metric
from relayd.telemetry.outcome import More, Record

SERIES = 1000
BATCH = 256  # exchanges of a cell after which their durations are added to its timers
SAMPLES = 100  # per series and interval; with more, statsd gets the sampling rate
OTHER = "other"
CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")

Labels = tuple[str, ...]
Exemplar = tuple[str, float, float]


class Histogram:
    """One timer: counts per bucket (the last is +Inf) and the sum since the start; samples since `pop_samples`.

    `pending` are durations that `add_pending` adds all at once, which costs much less than to observe each of them.
    `exemplars` has the last traced duration by the index of its bucket: trace id, seconds, and time since 1970."""

    __slots__ = ("_popped", "buckets", "count", "exemplars", "pending", "samples", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.count = 0
        self.sum_s = 0.0
        self.samples: list[float] = []
        self.pending: list[float] = []
        self.exemplars: dict[int, Exemplar] | None = None
        self._popped = 0

    def add_exemplar(self, trace_id: str, span_s: float, wall_s: float) -> None:
        """Keep a traced duration as the example of its bucket."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(BUCKETS_S, span_s)] = trace_id, span_s, wall_s

    def observe(self, span_s: float, keep: int) -> None:
        """Add a duration; at most `keep` samples are buffered for a sink."""
        self.buckets[bisect_left(BUCKETS_S, span_s)] += 1
        self.count += 1
        self.sum_s += span_s
        if len(self.samples) < keep:
            self.samples.append(span_s)

    def add_pending(self, keep: int) -> None:
        """Add the pending durations; at most `keep` samples are buffered for a sink."""
        spans_s, self.pending = self.pending, []
        if not spans_s:
            return
        self.count += len(spans_s)
        self.sum_s += sum(spans_s)
        self.samples += spans_s[: max(0, keep - len(self.samples))]
        spans_s.sort()
        below = 0
        for index, bound_s in enumerate(BUCKETS_S):
            within = bisect_right(spans_s, bound_s)
            self.buckets[index] += within - below
            below = within
        self.buckets[-1] += len(spans_s) - below

    def pop_samples(self) -> tuple[list[float], int]:
        """The samples since the last call, and the number of durations that they represent."""
        samples, seen = self.samples, self.count - self._popped
        self.samples, self._popped = [], self.count
        return samples, seen


# Metrics that are stored in cells, and the attribute of the cell; all other metrics have their own series.
CELL_COUNTERS = {
    "relayd.proxy.bytes_in": "bytes_in", "relayd.proxy.bytes_out": "bytes_out", "relayd.upstream.attempts": "attempts",
}
CELL_TOKENS = {  # by the label `direction` of relayd.proxy.tokens
    "input": "input_tokens", "output": "output_tokens", "cached": "cached_tokens", "cache_creation": "creation_tokens",
}
CELL_TIMERS = {
    "relayd.proxy.total": "total", "relayd.proxy.first_byte": "first_byte", "relayd.proxy.queue": "queue",
    "relayd.upstream.connect": "connect",
}


class Cell:
    """The counts of one combination of route, upstream, status class and outcome."""

    __slots__ = (
        "attempts", "bytes_in", "bytes_out", "cached_tokens", "connect", "creation_tokens", "first_byte",
        "input_tokens", "output_tokens", "queue", "requests", "total",
    )

    def __init__(self) -> None:
        self.requests = self.bytes_in = self.bytes_out = self.attempts = 0
        self.input_tokens = self.output_tokens = self.cached_tokens = self.creation_tokens = 0
        self.total, self.first_byte, self.queue, self.connect = Histogram(), Histogram(), Histogram(), Histogram()


class Metrics:
    """All counters, timers and gauges of the process. Owned by telemetry; lives through reloads. Counters and timers
    count from `started_wall`, in seconds since 1970."""

    __slots__ = ("_by_name", "_cells", "_counters", "_errors", "_gauges", "_timers", "declared", "keep", "started_wall")

    def __init__(self, declared: Sequence[Metric] = METRICS) -> None:
        self.started_wall = clock.wall()
        self.declared = tuple(declared)
        self._by_name = {metric.name: metric for metric in declared}
        self.keep = 0  # samples per series and interval: SAMPLES while a sink needs them, else 0
        self._cells: dict[tuple[str, str, int, str], Cell] = {}
        self._errors: dict[str, int] = {}
        self._counters: dict[str, dict[Labels, float]] = {m.name: {} for m in declared if m.kind == "counter"}
        self._gauges: dict[str, dict[Labels, float]] = {m.name: {} for m in declared if m.kind == "gauge"}
        self._timers: dict[str, dict[Labels, Histogram]] = {m.name: {} for m in declared if m.kind == "timer"}

    def count_exchange(self, record: Record) -> None:
        """Count one finished exchange."""
        code, keep = record.code, self.keep
        outcome = f"{record.ended_by}.{record.phase}" if code else "complete"
        key = (record.route, record.upstream, record.status // 100, outcome)
        cell = self._cells.get(key) or self._new_cell(key)
        cell.requests += 1
        cell.attempts += record.attempts
        cell.bytes_in += record.bytes_in
        cell.bytes_out += record.bytes_out
        if record.total_s >= 0.0:
            cell.total.pending.append(record.total_s)
        if record.first_byte_s >= 0.0:
            cell.first_byte.pending.append(record.first_byte_s)
        if not cell.requests % BATCH:
            cell.total.add_pending(keep)
            cell.first_byte.add_pending(keep)
        if record.connect_s > 0.0:
            cell.connect.observe(record.connect_s, keep)
        if record.queue_s > 0.0:
            cell.queue.observe(record.queue_s, keep)
        if code:
            self._errors[code] = self._errors.get(code, 0) + 1
        if (usage := record.usage) is not None:
            cell.input_tokens += usage.input
            cell.output_tokens += usage.output
            if usage.cached_read or usage.cache_creation:
                cell.cached_tokens += usage.cached_read
                cell.creation_tokens += usage.cache_creation
        if record.currency:
            self._cost(record)
        if (trace := record.trace) is not None and trace.sampled and record.total_s >= 0.0:
            end_s = record.started_wall + record.total_s
            cell.total.add_exemplar(trace.id, record.total_s, end_s)
            if record.first_byte_s >= 0.0:
                cell.first_byte.add_exemplar(trace.id, record.first_byte_s, end_s)
        if record.more is not None and "unknown_types" in record.more:
            self._unknown(record, record.more)

    def _cost(self, record: Record) -> None:
        if record.cost_nano is not None:
            consumer, costs = record.consumer, self._counters["relayd.proxy.cost"]
            entry = consumer.partition("/")[0] if "/" in consumer else consumer  # what follows it has no bound
            if (key := (record.upstream, entry)) in costs:
                costs[key] += record.cost_nano
            else:
                self.add("relayd.proxy.cost", record.cost_nano, upstream=record.upstream, consumer=entry)
            if record.cost_estimated:
                self.add("relayd.proxy.estimated_costs", route=record.route, upstream=record.upstream)
        else:
            self.add("relayd.proxy.unpriced", route=record.route, upstream=record.upstream)

    def _unknown(self, record: Record, more: More) -> None:
        for fate in ("carried", "left_out"):
            count = more.get(f"unknown_{fate}", 0)
            if isinstance(count, int) and count:
                self.add("relayd.proxy.unknown_items", count, route=record.route, upstream=record.upstream, fate=fate)

    def _new_cell(self, key: tuple[str, str, int, str]) -> Cell:
        if len(self._cells) >= SERIES:
            self.add("relayd.telemetry.overflowed")
            key = (OTHER, OTHER, key[2], key[3] if key[3] == "complete" else OTHER)
            found = self._cells.get(key)
            if found is not None:
                return found
        cell = self._cells[key] = Cell()
        return cell

    def add(self, name: str, n: float = 1, **labels: str) -> None:
        """Add to a counter."""
        series = self._counters[name]
        key = self._key(name, labels, series)
        series[key] = series.get(key, 0) + n

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        series = self._gauges[name]
        series[self._key(name, labels, series)] = value

    def set_gauges(self, name: str, values: Mapping[Labels, float]) -> None:
        """Set all series of a gauge, by the values of their labels. Other series are removed, for example that of a
        removed upstream: a series that is not set any more would show its last value for ever."""
        if len(values) > SERIES:
            self.add("relayd.telemetry.overflowed")
        self._gauges[name] = dict(islice(values.items(), SERIES))

    def observe(self, name: str, span_s: float, **labels: str) -> None:
        """Add a duration to a timer."""
        series = self._timers[name]
        key = self._key(name, labels, series)
        timer = series.get(key)
        if timer is None:
            timer = series[key] = Histogram()
        timer.observe(span_s, self.keep)

    def _key(self, name: str, labels: dict[str, str], series: dict[Labels, float] | dict[Labels, Histogram]) -> Labels:
        declared = self._by_name[name].labels
        if len(labels) != len(declared):
            raise KeyError(f"{name} takes the labels {declared}, not {tuple(labels)}")
        key = tuple(labels[label] for label in declared)
        if key in series or len(series) < SERIES:
            return key
        self.add("relayd.telemetry.overflowed")
        return (OTHER,) * len(declared)

    def value(self, name: str, **labels: str) -> float:
        """The current value of a counter or gauge, summed over the labels not given; for status pages and tests."""
        metric = self._by_name[name]
        wanted = [(metric.labels.index(label), text) for label, text in labels.items()]
        pairs = self.counters(metric) if metric.kind == "counter" else self.gauges(metric)
        return sum(value for key, value in pairs if all(key[at] == text for at, text in wanted))

    def counters(self, metric: Metric) -> Iterator[tuple[Labels, float]]:
        """All series of a counter, with their values since the start. Other work may go on between two of them, as
        with `gauges` and `timers`."""
        yield from tuple(self._counters[metric.name].items())
        if metric.name == "relayd.proxy.errors":
            for code, count in tuple(self._errors.items()):
                yield (code,), count
        elif metric.name == "relayd.proxy.requests":
            merged: dict[Labels, float] = {}
            for (route, upstream, status, outcome), cell in self._cells.items():
                key = (route, upstream, class_name(status), outcome)
                merged[key] = merged.get(key, 0) + cell.requests
            yield from merged.items()
        elif metric.name == "relayd.proxy.tokens":
            merged = {}
            for (route, upstream, _, _), cell in self._cells.items():
                for direction, its_attribute in CELL_TOKENS.items():
                    if count := getattr(cell, its_attribute):
                        merged[route, upstream, direction] = merged.get((route, upstream, direction), 0) + count
            yield from merged.items()
        elif (attribute := CELL_COUNTERS.get(metric.name)) is not None:
            merged = {}
            for (route, upstream, _, _), cell in self._cells.items():
                merged[route, upstream] = merged.get((route, upstream), 0) + getattr(cell, attribute)
            yield from merged.items()

    def gauges(self, metric: Metric) -> Iterator[tuple[Labels, float]]:
        """All series of a gauge."""
        yield from tuple(self._gauges[metric.name].items())

    def timers(self, metric: Metric) -> Iterator[tuple[Labels, list[Histogram]]]:
        """All series of a timer; the value of a series is the sum of its histograms."""
        for key, timer in tuple(self._timers[metric.name].items()):
            yield key, [timer]
        if (attribute := CELL_TIMERS.get(metric.name)) is not None:
            merged: dict[Labels, list[Histogram]] = {}
            for (route, upstream, _, _), cell in self._cells.items():
                part: Histogram = getattr(cell, attribute)
                if part.count or part.pending:
                    merged.setdefault((route, upstream), []).append(part)
            for key, parts in merged.items():
                for part in parts:
                    part.add_pending(self.keep)
                yield key, parts


def class_name(hundreds: int) -> str:
    """The status class: 2 is `2xx`, an invalid number is `none`."""
    return CLASSES[hundreds] if 0 <= hundreds < len(CLASSES) else CLASSES[0]


