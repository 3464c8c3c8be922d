"""Generated files against the declarations they are made from: names what differs, or writes it anew with --write."""

from __future__ import annotations

import difflib
import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent

# File, and the command that prints it.
GENERATED: dict[str, tuple[str, ...]] = {
    "conf/relayd.schema.json": ("relayd", "schema", "--json"),
    "conf/relayd.full.yaml": ("relayd", "schema", "--sample"),
    "debian/man/relayd.yaml.5": ("relayd", "schema", "--man"),
    "debian/man/relayd-metrics.7": ("tests.docs.metrics_page",),
    "debian/man/relayd-protocols.7": ("tests.docs.protocols_page",),
    "debian/man/relayd-migration.7": ("tests.docs.migration_page",),
    "debian/man/relayd.8": ("tests.docs.commands_page",),
    "conf/monitoring/statsd_exporter.yml": ("tests.docs.statsd_mapping",),
    "conf/monitoring/grafana-board.json": ("tests.docs.board",),
    "relayd/server/pages/fronts.json": ("tests.docs.fronts",),
    "debian/completion/relayd": ("tests.docs.completion", "bash"),
    "debian/completion/_relayd": ("tests.docs.completion", "zsh"),
}


def printed(command: tuple[str, ...]) -> str:
    return subprocess.run([sys.executable, "-m", *command], cwd=TOP, check=True, capture_output=True, text=True).stdout


def main(write: bool) -> int:
    stale = []
    for name, command in GENERATED.items():
        path = TOP / name
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        made = printed(command)
        if made == there:
            continue
        stale.append(name)
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8")
            print(f"written: {name}")
        else:
            print("".join(difflib.unified_diff(there.splitlines(True), made.splitlines(True), name, "as declared")))
    if stale and not write:
        print(f"out of date: {', '.join(stale)}; make docs writes them", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
