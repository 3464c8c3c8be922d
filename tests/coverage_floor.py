"""The floor of coverage of each file by the unit tests, in percent: names every file below its own.

`make cover` writes the report that is read here. A file with a floor of its own is reached by tests with real processes
(tests/functional), which are not counted; a floor only rises.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FLOOR = 84
OWN_FLOORS = {
    "relayd/__main__.py": 0,
    "relayd/cli/commands/run.py": 70,
    "relayd/daemon/descriptors.py": 70,
    "relayd/daemon/keeper.py": 62,
    "relayd/daemon/lifecycle.py": 74,
    "relayd/daemon/notify.py": 72,
    "relayd/daemon/maintenance.py": 78,
    "relayd/proxy/mirror.py": 74,
    "relayd/server/sockets.py": 80,
    "relayd/server/stream.py": 80,
    "relayd/server/unix_socket.py": 70,
    "relayd/upstream/transport/client.py": 78,
}


def below(report: dict[str, float]) -> list[str]:
    """A line for each file that is below its floor, and for each floor that no file stands on."""
    lines = [
        f"{path}: {percent:.1f} % of it are reached by the unit tests, the floor is {OWN_FLOORS.get(path, FLOOR)} %"
        for path, percent in sorted(report.items()) if percent < OWN_FLOORS.get(path, FLOOR)
    ]
    return lines + [f"{path}: has a floor and is not there" for path in OWN_FLOORS if path not in report]


def main(file: str) -> int:
    files = json.loads(Path(file).read_text(encoding="utf-8"))["files"]
    lines = below({path: one["summary"]["percent_covered"] for path, one in files.items()})
    print("\n".join(lines) or f"every file is covered to its floor, {FLOOR} % for most")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
