"""Two instances on one port beside one, interleaved: throughput, CPU per request, and how the kernel distributes.

1. Both instances have a core of their own, 0 and 1. A single one is measured on each of these cores, because they are
   seldom equal. The load is a process group of its own, on the last core.
2. `scale_cpu` is what two instances could serve, relative to one, if nothing but their CPU limits them: the CPU of a
   request with one instance, on both cores together, divided by that with two. It shows what they cost each other.
3. `scale_req_s` is the measured throughput, for which load and upstream need cores of their own: with fewer than four
   cores the load competes with the second instance. Then it is not stated, and `remark` says why.
4. `waited` is the time in which an instance could run and had no processor, relative to the time that it ran. Above 0.1
   the machine was busy with other things: `scale_req_s` then says nothing, and `scale_cpu` little.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relayd.cli.admin_client import UnixConnection
from tests.bench.rig import LOAD_CORE, PROXY_CORE, Rig, Running, cpu_ns, free_port, pinned, waited_ns
from tests.bench.small import Shot, wrk

CONNECTIONS = 256  # the kernel distributes connections: with so many, both instances have about the same number
CORES = (PROXY_CORE, PROXY_CORE + 1)
PLACES = {"one_first": CORES[:1], "one_second": CORES[1:], "two": CORES}
GOAL = 1.9
MOST_WAITED = 0.1
NEEDED = len(CORES) + 2  # one for the load, and one for the upstream


def remark(cores: int, waited: float = 0.0) -> str:
    """What the figures do not say on a machine with so many cores, whose instances have waited so long; empty if they are
    sound."""
    if cores < len(CORES):
        return f"not measured: two instances need two cores, and there is {cores}"
    if waited > MOST_WAITED:
        return f"the machine was busy: the instances waited {waited:.2f} of their time for a core; repeat it when it is idle"
    if cores < NEEDED:
        return f"{cores} cores: load and upstream run beside the instances, so throughput says nothing (it needs {NEEDED}); scale_cpu does"
    return ""


def is_ready(socket_path: str) -> bool:
    """True if the instance of this admin socket serves; another one may accept at its port."""
    connection = UnixConnection(socket_path, 2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def instances(rig: Rig, name: str, upstream: int, cores: Sequence[int]) -> list[Running]:
    """An instance for each core, all on one port."""
    port, found = free_port(), []
    for core in cores:
        label = f"{name}-{core}"
        command = rig.relayd(label, port, upstream, sharing="reuse_port: true, ")
        with open(rig.folder / f"{label}.out", "ab") as log:
            process = subprocess.Popen(pinned(command, core), stdout=log, stderr=log, cwd=rig.folder.parent)
        found.append(Running(label, port, process, time.monotonic(), folder=rig.folder))
        while not is_ready(f"{rig.folder}/{label}.sock"):
            if process.poll() is not None or time.monotonic() - found[-1].started_s > 60:
                raise RuntimeError(f"{label} does not serve:\n" + (rig.folder / f"{label}.out").read_text()[-2000:])
            time.sleep(0.01)
    return found


@dataclass
class Run:
    """One run of the load: what it showed, the share of CPU of the busier instance, and their time without a core."""

    shot: Shot
    busier_share: float
    waited: float


def shoot(rig: Rig, running: list[Running], seconds: float) -> Run:
    before, waited = [cpu_ns(one.pid) for one in running], sum(waited_ns(one.pid) for one in running)
    shot = wrk(rig.folder, running[0].port, CONNECTIONS, seconds)
    used = [cpu_ns(one.pid) - start for one, start in zip(running, before, strict=True)]
    waited = sum(waited_ns(one.pid) for one in running) - waited
    shot.cpu_us = sum(used) / 1000 / max(1, shot.requests)
    return Run(shot, max(used) / max(1, sum(used)), waited / max(1, sum(used)))


def measure(rig: Rig, rounds: int, seconds: float, cores: int) -> list[dict[str, Any]]:
    upstream = rig.upstream()
    groups: dict[str, list[Running]] = {}
    runs: dict[str, list[Run]] = {name: [] for name in PLACES}
    try:
        for name, places in PLACES.items():
            groups[name] = instances(rig, name, upstream.port, places)
            shoot(rig, groups[name], 1)
        for _ in range(rounds):
            for name, running in groups.items():
                runs[name].append(shoot(rig, running, seconds))
    finally:
        for group in (*groups.values(), [upstream]):
            for member in group:
                member.stop()
    rows: list[dict[str, Any]] = []
    for name, found in runs.items():
        costs = [run.shot.cpu_us for run in found]
        rows.append({
            "peer": name,
            "req_s": round(statistics.median(run.shot.rate for run in found)),
            "cpu_us": round(min(costs), 1),
            "cpu_us_all": [round(cost, 1) for cost in costs],
            "spread_%": round(100 * (max(costs) - min(costs)) / min(costs)),
            "waited": round(statistics.median(run.waited for run in found), 2),
            "busier_share": round(statistics.median(run.busier_share for run in found), 2),
            "errors": sum(run.shot.errors for run in found),
        })
    *ones, two = rows
    two["scale_cpu"] = round(sum(one["cpu_us"] for one in ones) / two["cpu_us"], 2)
    if cores >= NEEDED:
        two["scale_req_s"] = round(2 * two["req_s"] / sum(one["req_s"] for one in ones), 2)
    two["goal"] = GOAL
    two["own_load_core"] = LOAD_CORE not in CORES
    return rows
