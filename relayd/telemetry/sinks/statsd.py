"""Metrics sent to a statsd daemon over UDP in batches; never blocks.

Batches of datagrams of at most 1400 bytes are sent every `interval`. Sending never blocks and never fails; datagrams
that the kernel rejects are counted in `relayd.telemetry.statsd_failed`. A numeric address is never resolved. A host
name is resolved at the start and then every minute, so that a new address of a container is found.

The configured `prefix` replaces the first part of a name, `relayd`. The values of labels follow the name in the
documented order, each after a dot; characters other than letters, digits, `_` and `-` become `_`, and an empty value
becomes `-`. With `tags: true` labels are sent as DogStatsD tags instead.

Counters are sent as differences, gauges when they change and every 10 seconds. Timers are sent in milliseconds, at most
100 samples per series and batch; if there were more, the sampling rate is sent too.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable
from typing import ClassVar

from statsd import StatsClient

from relayd import clock
from relayd.errors import OptionError
from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, section, setting
from relayd.telemetry.metrics import SAMPLES, Histogram, Labels, Metrics
from relayd.telemetry.names import Metric
from relayd.wire.json_steps import Steps

DATAGRAM = 1400
MOST_VALUES = 256  # that are sent in one step
RESOLVE_S = 60.0
RETRY_S = 5.0  # while the name has never been resolved
GAUGES_S = 10.0
ADDRESS = lazy_regex(r"([A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", re.ASCII)
INVALID = lazy_regex(r"[^A-Za-z0-9_\-]")
INVALID_IN_TAG = lazy_regex(r"[^A-Za-z0-9_\-./]")


def split(address: str) -> tuple[str, int]:
    """Split host:port or [v6]:port. Raises ValueError."""
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ValueError("must have the form host:port, with a port from 1 to 65535")
    return found[1].strip("[]"), int(found[2])


def resolve(host: str, port: int, flags: int = 0) -> tuple[str, bool]:
    """The first address of a host, and True if it is IPv6. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)[0]
    return str(address[0]), family == socket.AF_INET6


class Client(StatsClient):  # type: ignore[misc]  # the library has no types
    """The client of the library with a non-blocking socket; failures are counted instead of ignored."""

    def __init__(self, host: str, port: int, prefix: str | None, ipv6: bool, on_failure: Callable[[], None]) -> None:
        super().__init__(host, port, prefix=prefix, maxudpsize=DATAGRAM, ipv6=ipv6)
        self._sock.setblocking(False)
        self._on_failure = on_failure

    def _send(self, data: str) -> None:
        try:
            self._sock.sendto(data.encode("ascii", "replace"), self._addr)
        except OSError:
            self._on_failure()


@section()
class Options:
    """Metrics sent to a statsd daemon over UDP in batches."""

    address: str = setting(doc="Address of the daemon as host:port.", example="127.0.0.1:8125")
    prefix: str = setting(default="relayd", doc="First part of every metric name.", pattern=r"[A-Za-z0-9_.\-]*")
    interval: Duration = setting(default=Duration(1), doc="Interval between batches.", minimum=0.1, maximum=60)
    tags: bool = setting(default=False, doc="Send labels as DogStatsD tags instead of parts of the name.")

    def check(self) -> Iterable[tuple[str, str]]:
        try:
            split(self.address)
        except ValueError as fault:
            yield "address", str(fault)


class Sink:
    """Sends the metrics of the process to one daemon. Owned by telemetry; `flush` is called once per interval."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("relayd.telemetry.statsd_failed", "counter", "", (), "Datagrams that could not be sent to statsd."),
    )
    takes_samples: ClassVar[bool] = True

    def __init__(self, options: Options, metrics: Metrics) -> None:
        try:
            self._host, self._port = split(options.address)
        except ValueError as fault:
            raise OptionError("address", str(fault)) from fault
        self._prefix = options.prefix.strip(".") or None
        self._tags = options.tags
        self.interval_s = float(options.interval)
        self._metrics = metrics
        self._client: Client | None = None
        self._running: Steps[None] = ended()
        self._sent: dict[tuple[str, Labels], float] = {
            (metric.name, labels): value  # counts from before this sink are not sent
            for metric in metrics.declared if metric.kind == "counter"
            for labels, value in metrics.counters(metric)
        }
        self._names: dict[tuple[str, Labels], str] = {}
        self._is_hostname = False
        self._next_lookup = 0.0
        self._next_gauges = 0.0
        self._lookup: threading.Thread | None = None
        self._found: tuple[str, bool] | None = None
        self._address: tuple[str, bool] | None = None

    @staticmethod
    def name_of(metric: Metric) -> str:
        """The metric's own name."""
        return ""

    def prepare(self) -> tuple[str, str] | None:
        """Resolve the address of the daemon; may block on a name server, so it is called only at start and reload.

        If the name cannot be resolved, this is retried later, and nothing is sent until then.
        """
        try:
            self._connect(resolve(self._host, self._port, socket.AI_NUMERICHOST))
            return None
        except OSError:
            self._is_hostname = True
        self._next_lookup = clock.monotonic() + RESOLVE_S
        try:
            self._connect(resolve(self._host, self._port))
        except OSError:
            self._next_lookup = clock.monotonic() + RETRY_S
            return "statsd_not_found", "The address of statsd cannot be resolved; resolution is retried."
        return None

    def _connect(self, found: tuple[str, bool]) -> None:
        if found == self._address and self._client is not None:
            return
        if self._client is not None:
            self._client.close()
        address, ipv6 = found
        self._client = Client(address, self._port, self._prefix, ipv6, self._failed)
        self._address = found

    def _failed(self) -> None:
        self._metrics.add("relayd.telemetry.statsd_failed")

    def _resolve(self) -> None:
        """Resolve the address; runs in a thread. The next flush uses the result."""
        try:
            self._found = resolve(self._host, self._port)
        except OSError:
            self._found = None

    def _update_address(self, now: float) -> None:
        if self._lookup is not None and not self._lookup.is_alive():
            self._lookup = None
            if self._found is not None:
                self._connect(self._found)
        elif self._lookup is None and now >= self._next_lookup:
            self._next_lookup = now + (RESOLVE_S if self._client is not None else RETRY_S)
            self._lookup = threading.Thread(target=self._resolve, name="statsd address", daemon=True)
            self._lookup.start()

    def flush(self) -> Steps[None]:
        """Send the changes since the last call, in steps. Never raises, never blocks."""
        self._running = self._flush_steps()
        return self._running

    def _flush_steps(self) -> Steps[None]:
        try:
            now = clock.monotonic()
            if self._is_hostname:
                self._update_address(now)
            if self._client is None:
                return
            with_gauges = now >= self._next_gauges
            if with_gauges:
                self._next_gauges = now + GAUGES_S
            with self._client.pipeline() as pipe:
                for metric in self._metrics.declared:
                    for _ in self._send(pipe, metric, with_gauges):
                        send_if_many(pipe)
                        yield
                    send_if_many(pipe)
                    yield
        except OSError:  # no socket for a new address: the next flush retries
            self._failed()

    def _send(self, pipe: StatsClient, metric: Metric, with_gauges: bool) -> Steps[None]:
        if metric.kind == "timer":
            weight = 0
            for labels, parts in self._metrics.timers(metric):
                weight += 1 + self._send_timer(pipe, self._name(metric, labels), parts, self._tail(metric, labels))
                if weight >= MOST_VALUES:
                    weight = 0
                    yield
            return
        pairs = self._metrics.counters(metric) if metric.kind == "counter" else self._metrics.gauges(metric)
        for number, (labels, value) in enumerate(pairs, 1):
            if not number % MOST_VALUES:
                yield
            key = (metric.name, labels)
            before = self._sent.get(key)
            if value == before and not (with_gauges and metric.kind == "gauge"):
                continue
            self._sent[key] = value
            name, tail = self._name(metric, labels), self._tail(metric, labels)
            if metric.kind == "counter":
                pipe._send_stat(name, f"{shown(value - (before or 0))}|c{tail}", 1)
            else:
                if value < 0:  # statsd interprets a signed number as a change
                    pipe._send_stat(name, f"0|g{tail}", 1)
                pipe._send_stat(name, f"{shown(value)}|g{tail}", 1)

    @staticmethod
    def _send_timer(pipe: StatsClient, name: str, parts: list[Histogram], tail: str) -> int:
        """Send the samples of a series. Returns their number."""
        sent = 0
        for part in parts:
            samples, seen = part.pop_samples()
            rate = f"|@{len(samples) / seen:.4g}" if 0 < len(samples) < seen and seen > SAMPLES else ""
            for span_s in samples:
                pipe._send_stat(name, f"{span_s * 1e3:.3f}|ms{rate}{tail}", 1)
            sent += len(samples)
        return sent

    def _name(self, metric: Metric, labels: Labels) -> str:
        """The name of a metric without the prefix."""
        key = (metric.name, labels)
        name = self._names.get(key)
        if name is None:
            name = metric.name.removeprefix("relayd.")
            if not self._tags:
                name = ".".join([name, *(INVALID.sub("_", label) or "-" for label in labels)])
            self._names[key] = name
        return name

    def _tail(self, metric: Metric, labels: Labels) -> str:
        if not self._tags or not labels:
            return ""
        pairs = zip(metric.labels, labels, strict=True)
        tags = ",".join(f"{name}:{INVALID_IN_TAG.sub('_', label)}" for name, label in pairs if label)
        return f"|#{tags}" if tags else ""

    def page(self, accept: str = "") -> None:
        """No page: this sink pushes."""
        return None

    def close(self) -> None:
        """Send the last batch and close."""
        for _ in self._running:  # a flush that has not ended
            pass
        for _ in self.flush():
            pass
        if self._client is not None:
            self._client.close()
            self._client = None


def send_if_many(pipe: StatsClient) -> None:
    """Send the values that the pipeline has collected. Few of them wait for more, so that datagrams are full."""
    if len(pipe._stats) >= MOST_VALUES:
        pipe.send()


def ended() -> Steps[None]:
    """The steps of a flush that has ended."""
    yield from ()


def shown(value: float) -> str:
    """Format a number without an exponent, an integer without a fraction."""
    return str(int(value)) if value == int(value) else f"{value:.6f}"
