"""Runs the bench: relayd beside nginx, stock Tornado and aiohttp, interleaved, with a table of figures and ratios.

    python tests/bench/run.py [--quick] [--only small] [--python /usr/bin/python3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.bench import growth, nasty, nasty_answers, scale, small, streams, translate
from tests.bench.rig import AI_VARIANTS, LOAD_CORE, VARIANTS, Rig, has

Row = dict[str, Any]
CORES = len(os.sched_getaffinity(0))  # before this process binds itself to one of them


def run_small(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """Peers, and relayd with a plain route, an AI route, and one whose consumer has a rate and a budget."""
    seconds = 2 if options.quick else 4
    more = [*AI_VARIANTS, *(peer for peer in ("haproxy", "caddy") if shutil.which(peer))]
    own = peers if options.peer else [*peers, *more]
    return small.measure(rig, own, options.rounds or (2 if options.quick else 4), seconds)


def run_resilience(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """The same route with and without limits, breaker and retries: what they cost per request."""
    seconds = 2 if options.quick else 4
    rows = small.measure(rig, list(VARIANTS), options.rounds or (3 if options.quick else 6), seconds)
    for row in rows:
        for column in ("cpu_us_c1", "cpu_us_c64"):
            row[f"added_{column}"] = round(row[column] - rows[0][column], 1)
    return rows


def run_burst(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """Each peer takes 32 streams at once, again and again, so that a run is long enough to be measured."""
    return streams.measure_chunks(
        rig, peers, options.rounds or (1 if options.quick else 3), streams=32, number=100, gap_ms=0, repeat=6
    )


def run_paced(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    number = 60 if options.quick else 150
    return streams.measure_chunks(
        rig, peers, options.rounds or (1 if options.quick else 3), streams=200, number=number, gap_ms=20
    )


def run_memory(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 2000) // 2
    wanted = options.streams or (1000 if options.quick else 9000)
    return streams.measure_memory(rig, peers, min(most, wanted), 2 if options.quick else 5)


def run_slow_reader(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    return streams.measure_slow_reader(rig, peers, 2 if options.quick else 5)


def run_hang_up(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    # Stock Tornado never lets go: two looks are enough to say so.
    return [
        row for peer in peers
        for row in streams.measure_hang_up(rig, [peer], 2 if peer == "tornado" else 5 if options.quick else 20)
    ]


def run_transfer(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    return streams.measure_transfer(rig, peers, 100 << 20)


def run_start(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    return streams.measure_start(rig, peers, 2 if options.quick else 5)


def run_dialects(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """Ways through one relayd: plain, passing in a dialect, translated."""
    quick = options.quick
    return translate.measure(rig, options.rounds or (2 if quick else 4), 2 if quick else 4, 60 if quick else 150)


def run_halves(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """Translation without a process around it."""
    return translate.measure_halves(options.rounds or (3 if options.quick else 8))


def run_nasty(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """What one nasty body costs everybody else."""
    return nasty.measure(rig, options.quick)


def run_nasty_answers(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """What one nasty answer, or one large stored response, costs everybody else."""
    return nasty_answers.measure(rig, options.quick)


def run_scale(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """Two instances on one port, on two cores, beside one."""
    if len(scale.CORES) > CORES:
        sys.stderr.write(f"scale: {scale.remark(CORES)}\n")
        return []
    rows = scale.measure(rig, options.rounds or (2 if options.quick else 6), 2 if options.quick else 4, CORES)
    if said := scale.remark(CORES, max(row["waited"] for row in rows)):
        sys.stderr.write(f"scale: {said}\n")
    return rows


def run_growth(rig: Rig, peers: list[str], options: argparse.Namespace) -> list[Row]:
    """How the CPU of a request grows with routes, models, consumers, endpoints, connections and the history."""
    return growth.measure(rig, options.rounds or (2 if options.quick else 5))


SCENARIOS: dict[str, tuple[Callable[[Rig, list[str], argparse.Namespace], list[Row]], str]] = {
    "small": (run_small, "cpu_us_c64"),
    "resilience": (run_resilience, "cpu_us_c64"),
    "burst": (run_burst, "cpu_us_chunk"),
    "paced": (run_paced, "cpu_us_chunk"),
    "memory": (run_memory, "kib_per_stream"),
    "slow_reader": (run_slow_reader, "growth_mib_stream"),
    "hang_up": (run_hang_up, "mid_stream_p50_ms"),
    "transfer": (run_transfer, "down_cpu_ms"),
    "start": (run_start, "first_answer_cpu_ms"),
    "dialects": (run_dialects, "us_small"),
    "halves": (run_halves, "us_chunk"),
    "nasty": (run_nasty, "worst_ms"),
    "nasty_answers": (run_nasty_answers, "worst_ms"),
    "scale": (run_scale, "cpu_us"),
    "growth": (run_growth, "ratio"),
}


def show(name: str, rows: list[Row], ratio_of: str) -> None:
    out = sys.stdout
    base = next((row for row in rows if row["peer"] in ("nginx", "plain")), None)
    for row in rows:
        if base and isinstance(row.get(ratio_of), (int, float)) and base.get(ratio_of):
            row[f"/{base['peer']}"] = round(row[ratio_of] / base[ratio_of], 2)
    columns = list(dict.fromkeys(key for row in rows for key in row if not key.endswith("_all")))
    cells = [columns, *[[str(row.get(column, "-")) for column in columns] for row in rows]]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    out.write(f"\n{name} (ratio of {ratio_of})\n")
    for line in cells:
        out.write("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + "\n")
    out.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), help="run only this scenario; repeatable")
    parser.add_argument("--peer", action="append", help="measure only these; repeatable")
    parser.add_argument("--python", default=sys.executable, help="interpreter of relayd and of stock Tornado")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has aiohttp and uvloop")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--streams", type=int, default=0, help="open streams of the memory scenario")
    parser.add_argument("--keep", action="store_true", help="keep the working folder")
    options = parser.parse_args()
    for tool in ("wrk", "nginx", "taskset"):
        if shutil.which(tool) is None:
            sys.stderr.write(f"the bench needs {tool}\n")
            return 2
    os.sched_setaffinity(0, {LOAD_CORE})
    peers = options.peer or ["nginx", "relayd", "tornado", "aiohttp"]
    if "aiohttp" in peers and not has(options.peer_python, "aiohttp", "uvloop"):
        sys.stderr.write("aiohttp or uvloop is not installed: this peer is left out\n")
        peers.remove("aiohttp")
    folder = Path(tempfile.mkdtemp(prefix="relayd-bench-"))
    rig = Rig(folder, options.python, options.peer_python)
    figures: dict[str, list[Row]] = {}
    try:
        if "relayd" in peers:
            probe = rig.upstream()
            try:
                with rig.running("relayd", probe.port):
                    pass
            except RuntimeError as fault:
                sys.stderr.write(f"relayd is left out: {fault}\n")
                peers.remove("relayd")
            finally:
                probe.stop()
        for name in options.only or list(SCENARIOS):
            work, ratio_of = SCENARIOS[name]
            figures[name] = work(rig, peers, options)
            show(name, figures[name], ratio_of)
        if options.json:
            Path(options.json).write_text(json.dumps({"python": options.python, "figures": figures}, indent=1) + "\n")
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
