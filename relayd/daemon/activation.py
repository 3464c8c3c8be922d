"""Listening sockets that the service manager hands over (sd_listen_fds(3)), matched by name.

1. Only sockets meant for this process are taken (LISTEN_PID), and the variables are taken out of the environment.
2. They are made non-blocking: systemd hands over blocking ones, on which one accept would stop the whole loop.
3. What no listener names is closed by whoever asked, so that no client waits on a socket that nobody serves.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping

FIRST = 3
PREFIX = "systemd:"


def inherited_sockets(
    environment: MutableMapping[str, str] | None = None, first: int = FIRST
) -> dict[str, list[socket.socket]]:
    """The sockets handed over, by name. One that has no name is called `unknown`, as systemd does."""
    environment = os.environ if environment is None else environment
    count = environment.pop("LISTEN_FDS", "")
    pid = environment.pop("LISTEN_PID", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdigit() or pid != str(os.getpid()):
        return {}
    found: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        name = names[number] if number < len(names) and names[number] else "unknown"
        try:
            sock = socket.socket(fileno=first + number)
        except OSError:
            continue  # no socket: a stored descriptor of another kind, or closed
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
        found.setdefault(name, []).append(sock)
    return found


def named(addresses: Iterable[str]) -> frozenset[str]:
    """The names that listeners ask for by `systemd:NAME`."""
    return frozenset(address.removeprefix(PREFIX) for address in addresses if address.startswith(PREFIX))


def close_unnamed(sockets: Mapping[str, list[socket.socket]], wanted: frozenset[str]) -> list[str]:
    """Close what no listener names. Returns the names of what was closed."""
    unnamed = [name for name in sockets if name not in wanted]
    for name in unnamed:
        for one in sockets[name]:
            one.close()
    return unnamed
