"""Ends a program that relayd has started, with all processes that it has started, also those in sessions of their own.

A process can leave the group of its parent (setsid) and outlive it. Then nothing in the process table connects the two,
but it keeps its environment. Therefore each program gets a mark in its environment, and the processes whose environment
contains the mark are killed. A process that has cleared its environment and has left the group is not found.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading

VARIABLE = "RELAYD_RUN"
ROUNDS = 20  # a process can start another one while the list is read


def new_mark() -> dict[str, str]:
    """The variable that marks the environment of one program."""
    return {VARIABLE: secrets.token_hex(16)}


def kill(pid: int, mark: dict[str, str]) -> None:
    """Kill the group of a program that leads one now, and in a thread the processes that have left the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    # Not a daemon thread: the end of relayd waits for it.
    threading.Thread(target=kill_marked, args=(mark,), name="kill").start()


def kill_marked(mark: dict[str, str]) -> None:
    """Kill the processes whose environment contains the mark. Blocks for as long as the process table takes to read."""
    (wanted,) = (f"{name}={value}".encode() for name, value in mark.items())
    for _ in range(ROUNDS):
        found = [pid for name in os.listdir("/proc") if name.isdecimal() and _kill_if(pid := int(name), wanted)]
        if not found:
            return


def _kill_if(pid: int, wanted: bytes) -> bool:
    """Kill a process whose environment contains this entry. Returns True if it was there."""
    try:
        handle = os.pidfd_open(pid)  # the process itself, also if its number is used again meanwhile
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if wanted not in file.read().split(b"\0"):
                return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    except OSError:  # it has ended, or belongs to another user
        return False
    finally:
        os.close(handle)
