"""Small JSON POST, one answer: CPU per request at 1 and at 64 connections, and the latency that the proxy adds."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rig import LOAD_CORE, Rig, Running, cpu_ns, pinned

SCRIPT = """
wrk.method = "POST"
wrk.body = '{"model":"demo","temperature":0.2,"messages":[{"role":"system","content":"Be brief."},' ..
  '{"role":"user","content":"Say hello to the bench, please, in one sentence."}]}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer bench-0123456789abcdef"
wrk.headers["User-Agent"] = "bench/1"
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.connect + summary.errors.read +
    summary.errors.write + summary.errors.timeout + summary.errors.status))
end
"""


@dataclass
class Shot:
    """What one run of wrk showed."""

    requests: int
    rate: float
    p50_us: int
    p99_us: int
    errors: int
    cpu_us: float = 0.0
    busy: float = 0.0


def wrk(folder: Path, port: int, connections: int, seconds: float, path: str = "/v1/chat/completions") -> Shot:
    script = folder / "post.lua"
    if not script.exists():
        script.write_text(SCRIPT)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(script), f"http://127.0.0.1:{port}{path}"]
    out = subprocess.run(pinned(command, LOAD_CORE), capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", out)
    if found is None:
        raise RuntimeError(out)
    requests, duration, p50, p99, errors = map(int, found.groups())
    return Shot(requests, requests / (duration / 1e6), p50, p99, errors)


def shoot(rig: Rig, proxy: Running, connections: int, seconds: float) -> Shot:
    before = cpu_ns(proxy.pid)
    shot = wrk(rig.folder, proxy.port, connections, seconds)
    used = cpu_ns(proxy.pid) - before
    shot.cpu_us = used / 1000 / max(1, shot.requests)
    shot.busy = used / 1e9 / seconds
    return shot


def measure(rig: Rig, peers: list[str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    upstream = rig.upstream()
    rows: dict[str, dict[str, list[Shot]]] = {peer: {"1": [], "64": []} for peer in peers}
    direct: list[Shot] = []
    proxies: dict[str, Running] = {}
    try:
        for peer in peers:
            proxies[peer] = rig.proxy(peer, upstream.port)
            wrk(rig.folder, proxies[peer].port, 16, 1)
        for _ in range(rounds):
            direct.append(wrk(rig.folder, upstream.port, 1, max(1, seconds / 2)))
            for connections in ("1", "64"):
                for peer in peers:
                    rows[peer][connections].append(shoot(rig, proxies[peer], int(connections), seconds))
    finally:
        for running in (*proxies.values(), upstream):
            running.stop()
    base = min(shot.p50_us for shot in direct)
    result: list[dict[str, Any]] = []
    for peer in peers:
        one, many = rows[peer]["1"], rows[peer]["64"]
        result.append({
            "peer": peer,
            "cpu_us_c1": round(min(shot.cpu_us for shot in one), 1),
            "added_p50_us_c1": min(shot.p50_us for shot in one) - base,
            "cpu_us_c64": round(min(shot.cpu_us for shot in many), 1),
            "cpu_us_c64_all": [round(shot.cpu_us, 1) for shot in many],
            "req_s_c64": round(max(shot.rate for shot in many)),
            "p99_us_c64": min(shot.p99_us for shot in many),
            "busy_c64": round(max(shot.busy for shot in many), 2),
            "errors": sum(shot.errors for shot in (*one, *many)),
        })
    return result
