"""Streams: chunks in a burst, chunks paced like tokens, thousands that hardly move, readers and leavers."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

from tests.bench.rig import Rig, Running, all_rss_kib, cpu_ns, rss_kib

SETTLE_S = 0.5  # after the first answer, before the memory is read
STAMP = re.compile(rb'"t":(\d{20})')


def open_stream(port: int, target: str, *, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b'{"model":"demo","stream":true}'
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                 % (target.encode(), len(body), body))
    return sock


@dataclass
class Tally:
    """What the clients of one run received; `mark` stands once in every chunk."""

    mark: bytes = b'"t":'
    chunks: int = 0
    done: int = 0
    broken: int = 0
    delays_ms: list[float] = field(default_factory=list)

    def percentile(self, part: float) -> float:
        ordered = sorted(self.delays_ms)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 2) if ordered else -1.0


def receive(socks: list[socket.socket], until: float, tally: Tally, *, sample: int = 1) -> None:
    """Read every stream until its end or until the time has come; all streams in one epoll."""
    with selectors.EpollSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, bytearray())
        by_descriptor = {sock.fileno(): sock for sock in socks}
        open_ones, turn = len(socks), 0
        while open_ones and time.monotonic() < until:
            for key, _ in selector.select(max(0.0, until - time.monotonic())):
                sock = by_descriptor[key.fd]
                try:
                    data = sock.recv(262144)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                now = time.monotonic_ns()
                turn += 1
                tally.chunks += data.count(tally.mark)
                if turn % sample == 0 and (found := STAMP.search(data)):
                    tally.delays_ms.append((now - int(found[1])) / 1e6)
                tail: bytearray = key.data
                tail += data[-8:]
                del tail[:-8]
                if not data or tail.endswith(b"0\r\n\r\n"):
                    tally.done += bool(data)
                    tally.broken += not data
                    open_ones -= 1
                    selector.unregister(sock)


def one_run(proxy: Running, streams: int, target: str, limit_s: float, sample: int) -> tuple[Tally, float, float]:
    tally = Tally()
    before, begun = cpu_ns(proxy.pid), time.monotonic()
    socks = [open_stream(proxy.port, target) for _ in range(streams)]
    receive(socks, begun + limit_s, tally, sample=sample)
    spent, took = cpu_ns(proxy.pid) - before, time.monotonic() - begun
    for sock in socks:
        sock.close()
    return tally, spent / 1000 / max(1, tally.chunks), took


def measure_chunks(
    rig: Rig, peers: list[str], rounds: int, *, streams: int, number: int, gap_ms: int, repeat: int = 1
) -> list[dict[str, object]]:
    upstream = rig.streamer()
    target = f"/stream?n={number}&gap_ms={gap_ms}"
    found: dict[str, list[tuple[Tally, float, float]]] = {peer: [] for peer in peers}
    proxies: dict[str, Running] = {}
    try:
        for peer in peers:
            proxies[peer] = rig.proxy(peer, upstream.port, max_clients=streams + 10)
            one_run(proxies[peer], streams, "/stream?n=5&gap_ms=5", 20, 1)
        limit_s = number * gap_ms / 1000 + 30
        for _ in range(rounds * repeat):
            for peer in peers:
                found[peer].append(one_run(proxies[peer], streams, target, limit_s, 5))
    finally:
        for running in (*proxies.values(), upstream):
            running.stop()
    rows: list[dict[str, object]] = []
    for peer in peers:
        shots = found[peer]
        best = min(shots, key=lambda shot: shot[1])
        rows.append({
            "peer": peer, "cpu_us_chunk": round(best[1], 2), "cpu_us_chunk_all": [round(shot[1], 2) for shot in shots],
            "chunks_s": round(max(shot[0].chunks / shot[2] for shot in shots)),
            "delay_p50_ms": min(shot[0].percentile(0.5) for shot in shots),
            "delay_p99_ms": min(shot[0].percentile(0.99) for shot in shots),
            "streams_done": f"{sum(shot[0].done for shot in shots)}/{streams * len(shots)}",
        })
    return rows


def measure_memory(rig: Rig, peers: list[str], streams: int, hold_s: float) -> list[dict[str, object]]:
    """Memory of an open stream that gets one chunk a second, and what is left when all have gone."""
    rows: list[dict[str, object]] = []
    for peer in peers:
        upstream = rig.streamer()
        socks: list[socket.socket] = []
        try:
            with rig.running(peer, upstream.port, max_clients=streams + 10) as proxy:
                tally = Tally()
                one_run(proxy, 20, "/stream?n=3&gap_ms=5", 10, 1)
                before, cpu = rss_kib(proxy.pid), cpu_ns(proxy.pid)
                target = f"/stream?n={int(hold_s) + 3600}&gap_ms=1000"
                with contextlib.suppress(OSError):
                    while len(socks) < streams:
                        socks.append(open_stream(proxy.port, target))
                        if len(socks) % 500 == 0:
                            receive(socks[-500:], time.monotonic() + 0.05, tally)
                opened = cpu_ns(proxy.pid) - cpu
                receive(socks, time.monotonic() + 2.5, Tally())
                tally, cpu = Tally(), cpu_ns(proxy.pid)
                receive(socks, time.monotonic() + hold_s, tally, sample=10)
                held, spent = rss_kib(proxy.pid), cpu_ns(proxy.pid) - cpu
                for sock in socks:
                    sock.close()
                left = settle(proxy.pid)
                rows.append({
                    "peer": peer, "streams": len(socks), "broken": tally.broken,
                    "kib_per_stream": round((held - before) / max(1, len(socks)), 1),
                    "open_cpu_us": round(opened / 1000 / max(1, len(socks))),
                    "cpu_us_chunk": round(spent / 1000 / max(1, tally.chunks), 1),
                    "delay_p99_ms": tally.percentile(0.99), "left_mib": round((left - before) / 1024, 1),
                })
        finally:
            for sock in socks:
                sock.close()
            upstream.stop()
    return rows


def settle(pid: int) -> int:
    """Memory when it no longer falls."""
    last = rss_kib(pid)
    for _ in range(20):
        time.sleep(0.25)
        now = rss_kib(pid)
        if now >= last and _ > 6:
            return now
        last = now
    return last


def measure_slow_reader(rig: Rig, peers: list[str], hold_s: float) -> list[dict[str, object]]:
    """A client that reads 256 KiB/s of 64 MiB: what the proxy keeps in memory for it."""
    rows: list[dict[str, object]] = []
    for peer in peers:
        upstream = rig.streamer()
        try:
            with rig.running(peer, upstream.port, max_clients=100) as proxy:
                one_run(proxy, 4, "/stream?n=3&gap_ms=5", 10, 1)
                before = peak = rss_kib(proxy.pid)
                cpu = cpu_ns(proxy.pid)
                socks = [open_stream(proxy.port, "/endless", receive_buffer=65536) for _ in range(4)]
                end = time.monotonic() + hold_s
                while time.monotonic() < end:
                    time.sleep(0.1)
                    for sock in socks:
                        sock.recv(26214)
                    peak = max(peak, rss_kib(proxy.pid))
                spent = cpu_ns(proxy.pid) - cpu
                for sock in socks:
                    sock.close()
                rows.append({"peer": peer, "growth_mib_stream": round((peak - before) / 1024 / 4, 2), "cpu_ms": round(spent / 1e6)})
        finally:
            upstream.stop()
    return rows


def measure_hang_up(rig: Rig, peers: list[str], count: int) -> list[dict[str, object]]:
    """From the close of the client to the end of the upstream's connection, both seen in this process."""
    rows: list[dict[str, object]] = []
    for peer in peers:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
            answer_ready(server)
            with rig.running(peer, server.getsockname()[1], max_clients=100) as proxy:
                row: dict[str, object] = {"peer": peer}
                for name in ("mid_stream", "silent"):
                    times = [found for _ in range(count) if (found := hang_up(server, proxy.port, name)) is not None]
                    row[f"{name}_seen"] = f"{len(times)}/{count}"
                    row[f"{name}_ms"] = round(max(times) * 1000, 2) if times else "never"
                    row[f"{name}_p50_ms"] = round(sorted(times)[len(times) // 2] * 1000, 2) if times else "never"
                rows.append(row)
    return rows


def answer_ready(server: socket.socket) -> None:
    """Nothing is asked of this upstream at start; the probe of the rig goes to the proxy and gets what it gets."""
    def serve() -> None:
        with contextlib.suppress(OSError):
            server.settimeout(15)
            link, _ = server.accept()
            with link:
                link.recv(65536)
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    threading.Thread(target=serve, daemon=True).start()


def hang_up(server: socket.socket, port: int, kind: str) -> float | None:
    with open_stream(port, "/hang") as client:
        server.settimeout(5)
        link, _ = server.accept()
        with link:
            link.settimeout(5)
            seen = b""
            while b"true}" not in seen:
                seen += link.recv(65536)
            if kind == "mid_stream":
                link.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                got = b""
                client.settimeout(5)
                while b"hello" not in got:
                    got += client.recv(65536)
            else:
                time.sleep(0.02)
            begun = time.monotonic()
            client.close()
            link.settimeout(3)
            with contextlib.suppress(ConnectionError):
                try:
                    while link.recv(65536):
                        pass
                except TimeoutError:
                    return None
            return time.monotonic() - begun


def measure_transfer(rig: Rig, peers: list[str], size: int) -> list[dict[str, object]]:
    """One large body down and one up: rate, CPU, and how far memory rises."""
    rows: list[dict[str, object]] = []
    for peer in peers:
        upstream = rig.streamer()
        try:
            with rig.running(peer, upstream.port, max_clients=100) as proxy:
                row: dict[str, object] = {"peer": peer}
                for way in ("down", "up"):
                    transfer(proxy, way, 1 << 20)
                    before, cpu = rss_kib(proxy.pid), cpu_ns(proxy.pid)
                    took, peak = transfer(proxy, way, size)
                    row[f"{way}_mib_s"] = round(size / (1 << 20) / took)
                    row[f"{way}_cpu_ms"] = round((cpu_ns(proxy.pid) - cpu) / 1e6)
                    row[f"{way}_growth_mib"] = round((peak - before) / 1024, 1)
                rows.append(row)
        finally:
            upstream.stop()
    return rows


def transfer(proxy: Running, way: str, size: int) -> tuple[float, int]:
    peak, begun, moved, looked = 0, time.monotonic(), 0, 0
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as sock:
        if way == "down":
            sock.sendall(b"GET /down?bytes=%d HTTP/1.1\r\nHost: bench\r\n\r\n" % size)
            into = memoryview(bytearray(1 << 20))
            while moved < size:
                count = sock.recv_into(into)
                if not count:
                    raise ConnectionError("the download broke off")
                moved += count
                if moved - looked > 16 << 20:
                    looked, peak = moved, max(peak, rss_kib(proxy.pid))
        else:
            sock.sendall(b"POST /up HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % size)
            block = b"x" * (1 << 18)
            while moved < size:
                sock.sendall(block[: size - moved])
                moved += min(len(block), size - moved)
                if moved - looked > 16 << 20:
                    looked, peak = moved, max(peak, rss_kib(proxy.pid))
            if not sock.recv(65536).startswith(b"HTTP/1.1 200"):
                raise ConnectionError("the upload was refused")
    return time.monotonic() - begun, max(peak, rss_kib(proxy.pid))


def measure_start(rig: Rig, peers: list[str], count: int) -> list[dict[str, object]]:
    """From the start of the process to its first answer, and what it costs to be there.

    A first start of each peer is not measured: it compiles the modules. The CPU is that of all threads and children of
    the process. relayd runs as `relayd run`; the keeper of a packaged service is not counted.
    """
    upstream = rig.upstream()
    found: dict[str, list[tuple[float, float, int]]] = {peer: [] for peer in peers}
    try:
        for peer in peers:
            with rig.running(peer, upstream.port, max_clients=1000):
                pass
        for _ in range(count):
            for peer in peers:
                with rig.running(peer, upstream.port, max_clients=1000) as proxy:
                    used_ms = cpu_ns(proxy.pid) / 1e6
                    time.sleep(SETTLE_S)
                    found[peer].append((proxy.ready_s, used_ms, all_rss_kib(proxy.pid)))
    finally:
        upstream.stop()
    return [
        {
            "peer": peer, "first_answer_ms": round(min(shot[0] for shot in shots) * 1000),
            "first_answer_cpu_ms": round(min(shot[1] for shot in shots)), "cpu_ms_all": [round(shot[1]) for shot in shots],
            "idle_pss_mib": round(min(shot[2] for shot in shots) / 1024, 1),
        }
        for peer, shots in found.items()
    ]
