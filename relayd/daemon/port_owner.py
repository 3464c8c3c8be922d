"""Finds the process that listens on a port, by /proc, or on a Unix socket, for the message of a failed start."""

from __future__ import annotations

import os
import socket
import struct

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
    """The owner of a port, as in `nginx (pid 812)`; empty if it is unknown. systemd also holds the sockets that
    it passes to a service or keeps for it: it is named only if no other process has the socket."""
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
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=lambda pid: (pid == "1", int(pid))):
        try:
            if wanted.isdisjoint(descriptor_targets(pid)):
                continue
            return named(pid)
        except OSError:
            continue  # no permission, or the process has ended
    return ""


def named(pid: str) -> str:
    """The name and the number of a process. Raises OSError if it has ended."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return f"{file.read().strip()} (pid {pid})"


def socket_owner(path: str) -> str:
    """The process that listens at a Unix socket, as in `port_owner`; empty if it is unknown."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.connect(path)
            peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", peer)[0]
        return named(str(pid)) if pid > 0 else ""
    except OSError:
        return ""
