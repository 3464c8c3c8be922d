"""Batches to statsd, read by a socket of the test: right, small, never waiting, never raising."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from relayd import clock
from relayd.protocols.dialect import run_steps
from relayd.telemetry.metrics import SAMPLES, Metrics
from relayd.telemetry.sink import declared
from relayd.telemetry.sinks import statsd
from relayd.telemetry.sinks.statsd import DATAGRAM, Options, Sink, split
from tests.unit.telemetry.record import record


class Daemon:
    """A socket that is sent to, and the sink that sends there."""

    def __init__(self, tags: bool = False, prefix: str = "relayd") -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.setblocking(False)
        self.metrics = Metrics(declared())
        self.metrics.keep = SAMPLES
        self.sink = Sink(Options(address=f"127.0.0.1:{self.socket.getsockname()[1]}", prefix=prefix, tags=tags), self.metrics)
        assert self.sink.prepare() is None

    def datagrams(self) -> list[str]:
        """What arrived; on loopback a datagram is there when sendto returns."""
        run_steps(self.sink.flush())
        got = []
        try:
            while True:
                got.append(self.socket.recv(65536).decode("ascii"))
        except BlockingIOError:
            return got

    def lines(self) -> list[str]:
        return "\n".join(self.datagrams()).split("\n")

    def close(self) -> None:
        self.sink.close()
        self.socket.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.close()


def test_counters_are_sent_as_differences(daemon: Daemon) -> None:
    daemon.metrics.count_exchange(record())
    daemon.metrics.count_exchange(record())
    assert "relayd.proxy.requests.llm.chutes.2xx.complete:2|c" in daemon.lines()
    daemon.metrics.count_exchange(record())
    assert "relayd.proxy.requests.llm.chutes.2xx.complete:1|c" in daemon.lines()
    assert daemon.datagrams() == []


def test_timers_are_sent_in_milliseconds(daemon: Daemon) -> None:
    daemon.metrics.count_exchange(record(total_s=0.5, first_byte_s=0.02))
    lines = daemon.lines()
    assert "relayd.proxy.total.llm.chutes:500.000|ms" in lines
    assert "relayd.proxy.first_byte.llm.chutes:20.000|ms" in lines


def test_many_timers_are_sampled_and_tell_their_rate(daemon: Daemon) -> None:
    for _ in range(SAMPLES * 4):
        daemon.metrics.count_exchange(record(total_s=0.5))
    sent = [line for line in daemon.lines() if line.startswith("relayd.proxy.total.")]
    assert len(sent) == SAMPLES
    assert set(sent) == {"relayd.proxy.total.llm.chutes:500.000|ms|@0.25"}


def test_gauges_are_sent_when_they_change_and_now_and_then(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    daemon.metrics.gauge("relayd.config.generation", 3)
    assert daemon.lines() == ["relayd.config.generation:3|g"]
    assert daemon.datagrams() == []
    now += statsd.GAUGES_S + 1
    assert daemon.lines() == ["relayd.config.generation:3|g"]
    daemon.metrics.gauge("relayd.config.generation", -4)
    assert daemon.lines() == ["relayd.config.generation:0|g", "relayd.config.generation:-4|g"]


def test_datagrams_stay_below_what_a_network_carries_whole(daemon: Daemon) -> None:
    for number in range(200):
        daemon.metrics.count_exchange(record(route=f"route{number}"))
    got = daemon.datagrams()
    assert len(got) > 5
    assert all(len(one) <= DATAGRAM for one in got)
    assert sum(line.startswith("relayd.proxy.requests.") for one in got for line in one.split("\n")) == 200


def test_names_that_would_break_a_line_are_made_harmless(daemon: Daemon) -> None:
    daemon.metrics.count_exchange(record(route="a.b:c|d@e\nf é", upstream=""))
    assert "relayd.proxy.requests.a_b_c_d_e_f__.-.2xx.complete:1|c" in daemon.lines()


def test_tags_are_sent_in_the_form_of_dogstatsd() -> None:
    daemon = Daemon(tags=True, prefix="site.relay")
    daemon.metrics.count_exchange(record(route="a|b,c", upstream="", code="no_route", ended_by="client", phase="match", status=404))
    lines = daemon.lines()
    assert "site.relay.proxy.requests:1|c|#route:a_b_c,status:4xx,outcome:client.match" in lines
    assert "site.relay.proxy.total:500.000|ms|#route:a_b_c" in lines
    daemon.close()


def test_without_a_prefix_names_begin_with_the_area() -> None:
    daemon = Daemon(prefix="")
    daemon.metrics.gauge("relayd.config.generation", 1)
    assert daemon.lines() == ["config.generation:1|g"]
    daemon.close()


def test_a_daemon_that_is_away_is_no_error() -> None:
    daemon = Daemon()
    daemon.socket.close()
    for _ in range(3):
        daemon.metrics.count_exchange(record())
        run_steps(daemon.sink.flush())
    daemon.sink.close()
    run_steps(daemon.sink.flush())


def test_a_datagram_that_the_kernel_refuses_is_counted() -> None:
    metrics = Metrics(declared())
    sink = Sink(Options(address="255.255.255.255:8125"), metrics)  # broadcasting needs a permission it has not
    assert sink.prepare() is None
    metrics.count_exchange(record())
    run_steps(sink.flush())
    assert metrics.value("relayd.telemetry.statsd_failed") == 1
    sink.close()


def test_ipv6_is_spoken() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        server.settimeout(60)
        metrics = Metrics()
        sink = Sink(Options(address=f"[::1]:{server.getsockname()[1]}"), metrics)
        assert sink.prepare() is None
        metrics.gauge("relayd.config.generation", 1)
        run_steps(sink.flush())
        assert server.recv(1000) == b"relayd.config.generation:1|g"
        sink.close()


def test_an_unknown_name_is_looked_up_again_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        port = server.getsockname()[1]
        metrics = Metrics()
        sink = Sink(Options(address=f"statsd.invalid:{port}"), metrics)
        known: dict[str, list[object]] = {}

        def look_up(host: str, port: int, *further: object, **options: object) -> list[object]:
            if host not in known:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return known[host]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        assert sink.prepare() == ("statsd_not_found", "The address of statsd cannot be resolved; resolution is retried.")
        metrics.gauge("relayd.config.generation", 1)
        run_steps(sink.flush())
        address = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]
        known["statsd.invalid"] = known["127.0.0.1"] = list(address)
        now += statsd.RETRY_S + 1
        run_steps(sink.flush())
        assert sink._lookup is not None
        sink._lookup.join(60)
        run_steps(sink.flush())
        assert server.recv(1000) == b"relayd.config.generation:1|g"
        sink.close()


def test_addresses_are_host_and_port() -> None:
    assert split("127.0.0.1:8125") == ("127.0.0.1", 8125)
    assert split("[::1]:8125") == ("::1", 8125)
    assert split("statsd.local:1") == ("statsd.local", 1)
    for wrong in ("localhost", "localhost:", "a:b", "a:0", "a:70000", ":8125", "a b:1", "a\n:1", "[a]b:1"):
        with pytest.raises(ValueError, match="host:port"):
            split(wrong)


def test_a_sink_that_is_made_later_sends_nothing_that_was_counted_before(daemon: Daemon) -> None:
    daemon.metrics.count_exchange(record())
    later = Daemon()
    later.sink.close()
    later.sink = Sink(Options(address=f"127.0.0.1:{later.socket.getsockname()[1]}"), daemon.metrics)
    assert later.sink.prepare() is None
    daemon.metrics.count_exchange(record())
    assert "relayd.proxy.requests.llm.chutes.2xx.complete:1|c" in later.lines()
    later.close()
