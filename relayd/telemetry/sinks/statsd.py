"""Metrics to a statsd daemon: what changed since the last batch, in a few UDP datagrams.

1. Nothing here raises or waits: the socket does not block, what it refuses is counted and forgotten. An address given
   in numbers is never looked up; a name is looked up once by `prepare` and then again every RESOLVE_S seconds by a
   thread of its own, so that a container that moved is found.
2. Counters are sent as differences, timers as samples in milliseconds (at most SAMPLES per series and batch, with
   their rate), gauges when they changed and every GAUGES_S seconds for a daemon that was started anew.
3. Without tags the values of labels are parts of the name; `-` stands for an empty one. With tags they follow in
   DogStatsD's form.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

from statsd import StatsClient

from relayd import clock
from relayd.telemetry.metrics import SAMPLES, Histogram, Labels, Metrics
from relayd.telemetry.names import Metric

DATAGRAM = 1400
RESOLVE_S = 60.0
RETRY_S = 5.0  # as long as the name was never found
GAUGES_S = 10.0
UNFIT = re.compile(r"[^A-Za-z0-9_\-]")
UNFIT_IN_TAG = re.compile(r"[^A-Za-z0-9_\-./]")


def split(address: str) -> tuple[str, int]:
    """host:port or [v6]:port. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]") or "localhost", int(port)


def looked_up(host: str, port: int, flags: int = 0) -> tuple[str, bool]:
    """The first address of a host, and whether it is IPv6. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)[0]
    return str(address[0]), family == socket.AF_INET6


class Client(StatsClient):  # type: ignore[misc]  # the library has no types
    """The library's client with a socket that never blocks, and failures that are counted instead of hidden."""

    def __init__(self, host: str, port: int, prefix: str | None, ipv6: bool, on_failure: Callable[[], None]) -> None:
        super().__init__(host, port, prefix=prefix, maxudpsize=DATAGRAM, ipv6=ipv6)
        self._sock.setblocking(False)
        self._on_failure = on_failure

    def _send(self, data: str) -> None:
        try:
            self._sock.sendto(data.encode("ascii", "replace"), self._addr)
        except OSError:
            self._on_failure()


class StatsdSink:
    """Sends one process's metrics to one daemon. Owned by telemetry; `flush` is called once per interval."""

    def __init__(self, address: str, prefix: str, tags: bool, metrics: Metrics) -> None:
        """Raises ValueError for an address that is not host:port. Opens nothing: `prepare` does."""
        self._host, self._port = split(address)
        self._prefix = prefix.strip(".") or None
        self._tags = tags
        self._metrics = metrics
        self._client: Client | None = None
        self._sent: dict[tuple[str, Labels], float] = {}
        self._names: dict[tuple[str, Labels], str] = {}
        self._named = False
        self._next_lookup = 0.0
        self._next_gauges = 0.0
        self._lookup: threading.Thread | None = None
        self._found: tuple[str, bool] | None = None
        self._at: tuple[str, bool] | None = None

    def prepare(self) -> bool:
        """Find the daemon's address; may wait for a name server, so it is called at start and reload only.

        False when the name is unknown now: it is looked up again later, and nothing is sent until then.
        """
        try:
            self._use(looked_up(self._host, self._port, socket.AI_NUMERICHOST))
            return True
        except OSError:
            self._named = True
        self._next_lookup = clock.monotonic() + RESOLVE_S
        try:
            self._use(looked_up(self._host, self._port))
        except OSError:
            self._next_lookup = clock.monotonic() + RETRY_S
            return False
        return True

    def _use(self, found: tuple[str, bool]) -> None:
        if found == self._at and self._client is not None:
            return
        if self._client is not None:
            self._client.close()
        address, ipv6 = found
        self._client = Client(address, self._port, self._prefix, ipv6, self._failed)
        self._at = found

    def _failed(self) -> None:
        self._metrics.add("relayd.telemetry.statsd_failed")

    def _look_up(self) -> None:
        """In a thread: the answer is left for the next flush."""
        try:
            self._found = looked_up(self._host, self._port)
        except OSError:
            self._found = None

    def _follow_name(self, now: float) -> None:
        if self._lookup is not None and not self._lookup.is_alive():
            self._lookup = None
            if self._found is not None:
                self._use(self._found)
        elif self._lookup is None and now >= self._next_lookup:
            self._next_lookup = now + (RESOLVE_S if self._client is not None else RETRY_S)
            self._lookup = threading.Thread(target=self._look_up, name="statsd address", daemon=True)
            self._lookup.start()

    def flush(self) -> None:
        """Send what changed since the last call. Never raises, never waits."""
        try:
            now = clock.monotonic()
            if self._named:
                self._follow_name(now)
            if self._client is None:
                return
            again = now >= self._next_gauges
            if again:
                self._next_gauges = now + GAUGES_S
            with self._client.pipeline() as pipe:
                for metric in self._metrics.declared:
                    self._send(pipe, metric, again)
        except OSError:  # a socket for a new address could not be made: the next flush tries again
            self._failed()

    def _send(self, pipe: StatsClient, metric: Metric, again: bool) -> None:
        if metric.kind == "timer":
            for labels, parts in self._metrics.timers(metric):
                self._send_timer(pipe, self._name(metric, labels), parts, self._tail(metric, labels))
            return
        pairs = self._metrics.counters(metric) if metric.kind == "counter" else self._metrics.gauges(metric)
        for labels, value in pairs:
            key = (metric.name, labels)
            before = self._sent.get(key)
            if value == before and not (again and metric.kind == "gauge"):
                continue
            self._sent[key] = value
            name, tail = self._name(metric, labels), self._tail(metric, labels)
            if metric.kind == "counter":
                pipe._send_stat(name, f"{shown(value - (before or 0))}|c{tail}", 1)
            else:
                if value < 0:  # a signed number would be taken for a change
                    pipe._send_stat(name, f"0|g{tail}", 1)
                pipe._send_stat(name, f"{shown(value)}|g{tail}", 1)

    @staticmethod
    def _send_timer(pipe: StatsClient, name: str, parts: list[Histogram], tail: str) -> None:
        for part in parts:
            samples, seen = part.take()
            rate = f"|@{len(samples) / seen:.4g}" if 0 < len(samples) < seen and seen > SAMPLES else ""
            for span_s in samples:
                pipe._send_stat(name, f"{span_s * 1e3:.3f}|ms{rate}{tail}", 1)

    def _name(self, metric: Metric, labels: Labels) -> str:
        """The name behind the prefix, which stands in the place of `relayd`."""
        key = (metric.name, labels)
        name = self._names.get(key)
        if name is None:
            name = metric.name.removeprefix("relayd.")
            if not self._tags:
                name = ".".join([name, *(UNFIT.sub("_", label) or "-" for label in labels)])
            self._names[key] = name
        return name

    def _tail(self, metric: Metric, labels: Labels) -> str:
        if not self._tags or not labels:
            return ""
        pairs = zip(metric.labels, labels, strict=True)
        tags = ",".join(f"{name}:{UNFIT_IN_TAG.sub('_', label)}" for name, label in pairs if label)
        return f"|#{tags}" if tags else ""

    def close(self) -> None:
        """Send the last batch and let go."""
        self.flush()
        if self._client is not None:
            self._client.close()
            self._client = None


def shown(value: float) -> str:
    """A number without a needless fraction or exponent."""
    return str(int(value)) if value == int(value) else f"{value:.6f}"
