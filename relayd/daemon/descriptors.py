"""File descriptors passed between processes: inherit, renumber, identify, close."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping, Sequence

FIRST = 3


def inherited_descriptors(environment: MutableMapping[str, str]) -> dict[str, list[int]]:
    """The descriptors passed by the service manager, by name. They are made close-on-exec."""
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdigit() or pid != str(os.getpid()):
        return {}
    held: dict[str, list[int]] = {}
    for index in range(int(count)):
        os.set_inheritable(FIRST + index, False)
        held.setdefault(names[index] if index < len(names) and names[index] else "unknown", []).append(FIRST + index)
    return held


def connect_manager(address: str) -> socket.socket | None:
    """Connect to the notify socket of the service manager. None without one."""
    if address[:1] not in ("/", "@"):
        return None
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        manager.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        manager.close()
        return None
    return manager


def renumbered(numbers: list[int]) -> list[int]:
    """Duplicate descriptors to 3, 4, 5 ..., inheritable. Only for a child process: existing ones are replaced."""
    high = FIRST + len(numbers) + max([0, *numbers])
    moved = [os.dup2(number, high + index, inheritable=False) for index, number in enumerate(numbers)]
    return [os.dup2(number, FIRST + index, inheritable=True) for index, number in enumerate(moved)]


def identity(number: int) -> tuple[int, int]:
    found = os.fstat(number)
    return found.st_dev, found.st_ino


def close_all(numbers: Sequence[int]) -> None:
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)
