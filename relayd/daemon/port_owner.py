"""Finds the process that listens on a port, by /proc, for the message of a failed start."""

from __future__ import annotations

import os

LISTEN = "0A"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def listening_inodes(table: str, port: int) -> set[str]:
    """The inodes of the sockets that listen on a port, from the text of /proc/net/tcp."""
    found = set()
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 9 and columns[3] == LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
            found.add(columns[9])
    return found


def descriptor_targets(pid: str) -> set[str]:
    """The link targets of a process's descriptors. Descriptors closed meanwhile are skipped."""
    links = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            continue
    return links


def port_owner(port: int) -> str:
    """The owner of a port, as in `nginx (pid 812)`; empty if it is unknown."""
    inodes: set[str] = set()
    for name in TABLES:
        try:
            with open(name, encoding="ascii") as file:
                inodes |= listening_inodes(file.read(), port)
        except (OSError, ValueError):
            continue
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if wanted.isdisjoint(descriptor_targets(pid)):
                continue
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue  # no permission, or the process has ended
    return ""
