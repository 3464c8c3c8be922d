"""Socket activation: listening sockets passed by the service manager (sd_listen_fds(3)), matched by name.

1. Only sockets for this process (LISTEN_PID) are used. The variables are removed from the environment.
2. The sockets are made non-blocking: systemd passes blocking ones, on which one accept would block the event loop.
3. The lifecycle closes sockets that no listener names, so that no client waits on an unserved socket.
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
    """The passed sockets, by name. A socket without a name is called `unknown`, as in systemd."""
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
            continue  # not a socket: a stored descriptor of another kind, or closed
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
        found.setdefault(name, []).append(sock)
    return found


def named(addresses: Iterable[str]) -> frozenset[str]:
    """The names in listener addresses of the form `systemd:NAME`."""
    return frozenset(address.removeprefix(PREFIX) for address in addresses if address.startswith(PREFIX))


def close_unnamed(sockets: Mapping[str, list[socket.socket]], wanted: frozenset[str]) -> list[str]:
    """Close the sockets that no listener names. Returns their names."""
    unnamed = [name for name in sockets if name not in wanted]
    for name in unnamed:
        for one in sockets[name]:
            one.close()
    return unnamed
