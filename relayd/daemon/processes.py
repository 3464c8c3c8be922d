"""Helpers of the keeper for processes: list those of the service, describe an exit, end by a signal, log a line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping


def service_processes(self_cgroup: str = "/proc/self/cgroup", top: str = "/sys/fs/cgroup") -> list[int]:
    """The processes in the control group of this service; empty if unknown."""
    try:
        with open(self_cgroup, encoding="utf-8") as file:
            paths = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")]
    except OSError:
        return []
    for path in paths:
        if not path.endswith(".service"):
            continue
        for folder in (f"{top}{path}", f"{top}/unified{path}"):
            with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", encoding="ascii") as file:
                return [int(line) for line in file if line.strip() not in ("", "0")]
    return []


def describe_exit(status: int) -> str:
    """A wait status as text."""
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def exit_by_signal(number: int) -> None:
    """End this process by the signal, so that the service manager sees the reason."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def log(level: str, text: str, environment: Mapping[str, str] | None = None) -> None:
    """Write one line to standard error, with the level prefix of sd-daemon(3) if the journal reads it."""
    environment = os.environ if environment is None else environment
    prefix = {"error": "<3>", "warning": "<4>", "info": "<6>"}[level] if environment.get("JOURNAL_STREAM") else ""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{prefix}relayd keeper: {text}\n")
        sys.stderr.flush()
