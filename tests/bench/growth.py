"""How the CPU of one request grows with what is configured, what is open, and what is in the request.

1. Each row is one dimension, measured at several sizes of a relayd of its own, interleaved. The figure is the scheduler's
   CPU time of relayd per request, of the quickest round.
2. `slope` is the exponent between the smallest and the largest size: 0 is constant, 1 linear. `bound` is the largest
   ratio of the largest to the smallest size that is accepted; a row above it says `grows`.
3. For `history` the size is the number of turns, and the figure is divided by the bytes of the request: 0 is linear.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.instructions import HEAD, Both
from tests.bench.rig import ANSWER, PROXY_CORE, Rig, Running, cpu_ns, free_port, start

PART = 2_500  # entries of each section in one file: a file has at most 1 MiB
REQUESTS = 100  # rounds of requests on all connections of the load
WHOLE = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER.encode())
FRONTS = {"openai_chat": ("/v1/chat/completions", WHOLE[-10:]), "anthropic_messages": ("/v1/messages", b"}}")}
MARK = b"The end."
MESSAGE = '{"model":"%s","messages":[{"role":"user","content":"Say hello to the bench, please, in one sentence. %s"}]}'

CONFIG = """
listeners:
  public: {{address: "127.0.0.1:{port}", limits: {{connections_per_peer: 0, connections: 19000, requests: 0}}}}
admin: {{address: "unix:{folder}/{name}.sock"}}
upstreams:
  bench: {{protocol: openai_chat, balance: {balance}, hash: {{by: [client]}}, endpoints: [{endpoints}]}}
include: ["{folder}/{name}.d/*.yaml"]
telemetry:
  access_log: {{format: json, file: "{folder}/{name}.log"}}
"""
ROUTE = "  - {{name: r{0}, match: {{{1}}}, strip_prefix: /r{0}, protocol: {3}, upstream: by_model, allow: [c{2}]}}\n"


@dataclass
class Case:
    """One relayd: what it is configured with, and what is sent to it."""

    routes: int = 1
    models: int = 1
    consumers: int = 1
    endpoints: int = 1
    idle: int = 0
    turns: int = 0
    match: str = 'prefix: "/r%d/"'
    balance: str = "round_robin"
    front: str = "openai_chat"

    def body(self) -> bytes:
        """The request: for the last model, or a history of so many turns."""
        model = f"m{self.models - 1}"
        if not self.turns:
            return (MESSAGE % (model, MARK.decode())).encode()
        turns = [
            {"role": ("user", "assistant")[number % 2], "content": f"Turn {number}: " + "a few words of it. " * 6}
            for number in range(self.turns)
        ]
        turns[-1]["content"] += MARK.decode()
        return json.dumps({"model": model, "max_tokens": 9, "messages": turns}).encode()

    def write(self, name: str, folder: Path, port: int, upstream: int) -> Path:
        """Write the configuration and its key files."""
        keys = folder / "growth-keys"
        keys.mkdir(exist_ok=True)
        for number in range(self.consumers):
            if not (file := keys / f"c{number}").exists():
                file.touch(0o600)
                file.write_text(f"bench-key-{number:016d}")
        addresses = ", ".join(
            f'"http://127.0.{number // 250}.{number % 250 + 1}:{upstream}/v1"'
            for number in range(self.endpoints)
        )
        path = folder / f"{name}.yaml"
        path.write_text(CONFIG.format(
            port=port, folder=folder, name=name, balance=self.balance, endpoints=addresses,
        ))
        last = self.consumers - 1
        parts = folder / f"{name}.d"
        parts.mkdir()
        for first in range(0, max(self.routes, self.models, self.consumers), PART):
            numbers = range(first, first + PART)
            (parts / f"{first:05d}.yaml").write_text("".join([
                "models:\n", *[f"  m{number}: bench\n" for number in numbers if number < self.models],
                "consumers:\n",
                *[f'  c{number}: {{bearer: {{file: "{keys}/c{number}"}}}}\n' for number in numbers if number < self.consumers],
                "routes:\n", *[ROUTE.format(number, self.match % number, last, self.front) for number in numbers if number < self.routes],
            ]))
        return path


@dataclass
class Dimension:
    """`sizes` are those of `vary`, `growth` is the stated one; `bound` is the accepted ratio of the last to the first."""

    sizes: tuple[int, ...]
    vary: Callable[[int], Case]
    growth: str = "constant"
    bound: float = 1.25
    per_byte: bool = False


DIMENSIONS = {
    "connections": Dimension((0, 1_000, 8_000), lambda size: Case(idle=size)),
    "routes, prefix": Dimension((1, 100, 10_000), lambda size: Case(routes=size)),
    "routes, path": Dimension((1, 100, 10_000), lambda size: Case(routes=size, match='path: "/r%d/v1/chat/completions"')),
    "models": Dimension((1, 100, 10_000), lambda size: Case(models=size)),
    "consumers": Dimension((1, 100, 10_000), lambda size: Case(consumers=size)),
    "endpoints, hashed": Dimension(
        (1, 100, 10_000), lambda size: Case(endpoints=size, balance="consistent_hash"), "linear", 6.0
    ),
    "history, passing": Dimension((10, 50, 500), lambda size: Case(turns=size), "linear", per_byte=True),
    "history, translated": Dimension(
        (10, 50, 500), lambda size: Case(turns=size, front="anthropic_messages"), "linear", per_byte=True
    ),
}


class Load:
    """A relayd with its clients and its endpoint, which are in this process."""

    def __init__(self, rig: Rig, name: str, case: Case) -> None:
        self.case, self.both, self.port = case, Both(), free_port()
        path = case.write(name, rig.folder, self.port, self.both.port)
        command = [rig.python, "-m", "relayd", "run", "-c", str(path)]
        self.relayd: Running = start(name, command, self.port, PROXY_CORE, rig.folder, patience_s=300)
        self.idle = [socket.create_connection(("127.0.0.1", self.port), 60) for _ in range(case.idle)]
        self.both.connect(self.port)
        self.request = self._request()

    def _request(self) -> bytes:
        body = self.case.body()
        path, self.end = FRONTS[self.case.front]
        return (
            f"POST /r{self.case.routes - 1}{path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer bench-key-{self.case.consumers - 1:016d}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def round(self, requests: int) -> float:
        """CPU time of relayd per request, in microseconds."""
        before = cpu_ns(self.relayd.pid)
        for _ in range(requests):
            self.both.exchange(self.request, MARK, WHOLE, self.end)
        return (cpu_ns(self.relayd.pid) - before) / 1000 / requests / len(self.both.clients)

    def close(self) -> None:
        for one in (*self.idle, *self.both.clients, *self.both.endpoints, self.both.listener):
            one.close()
        self.relayd.stop()


def measure(rig: Rig, rounds: int) -> list[dict[str, Any]]:
    """A row for each dimension."""
    rows: list[dict[str, Any]] = []
    for name, dimension in DIMENSIONS.items():
        loads: list[Load] = []
        try:
            for size in dimension.sizes:
                loads.append(Load(rig, f"growth-{len(rows)}-{size}", dimension.vary(size)))
            for load in loads:
                load.round(3)
            best = [math.inf] * len(loads)
            for _ in range(rounds):
                for place, load in enumerate(loads):
                    best[place] = min(best[place], load.round(REQUESTS))
            rows.append(row_of(name, dimension, best, [len(load.request) for load in loads]))
        finally:
            for load in loads:
                load.close()
    return rows


def row_of(name: str, dimension: Dimension, cost_us: list[float], request_bytes: list[int]) -> dict[str, Any]:
    """The figures of one dimension."""
    weights = request_bytes if dimension.per_byte else [1] * len(cost_us)
    ratio = cost_us[-1] / weights[-1] / (cost_us[0] / weights[0])
    steps = max(1, dimension.sizes[-1]) / max(1, dimension.sizes[0])
    return {
        "peer": name, "sizes": "/".join(map(str, dimension.sizes)), "cpu_us": "/".join(f"{one:.0f}" for one in cost_us),
        "per": "byte" if dimension.per_byte else "request", "growth": dimension.growth, "ratio": round(ratio, 2),
        "slope": round(math.log(ratio) / math.log(steps), 3), "bound": dimension.bound,
        "verdict": "holds" if ratio <= dimension.bound else "grows",
    }
