"""The addresses of endpoints' host names: resolved again after each TTL, so that kept connections follow the name.

Laws:
1. A lookup runs in a daemon thread: a resolver that does not answer delays neither the loop nor the end of the process.
2. Connections belong to a route: a made-up host name that libcurl connects to (CONNECT_TO) and whose addresses it is
   given (RESOLVE). libcurl keeps connections by that host, so that a new route means new connections.
3. An address that is gone makes a new route. Transfers finish on the old one, whose connections are closed when they
   are idle. Addresses that are added, and those that come in another order, change no route.
4. A failed lookup changes nothing; until the first one succeeds libcurl resolves the name by itself.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tornado.ioloop import IOLoop

from relayd import clock

LOG = logging.getLogger("relayd.transport")
SHORTEST_S = 1.0
LONGEST_NAME = 230  # with what a route adds to it, libcurl takes 255 bytes
_ADDRESS = re.compile(r"[0-9.]+|\[?[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(%[^\]]*)?\]?")
_ROUTE = re.compile(r"\.[0-9]+\.relayd\.invalid\b")  # RFC 2606: no such name exists


@dataclass(frozen=True, slots=True)
class Route:
    """What libcurl is told of one set of addresses; the two lists are values of its options."""

    host: str
    connect_to: list[str]
    resolve: list[str]


class Retirer(Protocol):
    """Who holds the connections: the driver."""

    def retire(self, name: Name) -> None:
        """Let no new transfer use a connection that was made for this name."""


class Name:
    """A host name with a port, as the pools that use it see it. Owned by Names."""

    __slots__ = ("addresses", "fault", "host", "port", "resolved_s", "route", "timer", "ttl_s", "users")

    def __init__(self, host: str, port: int, ttl_s: float) -> None:
        self.host, self.port, self.ttl_s = host, port, ttl_s
        self.addresses: tuple[str, ...] = ()
        self.resolved_s = 0.0
        self.fault = ""
        self.route: Route | None = None
        self.timer: object | None = None
        self.users = 0

    def describe(self, now_s: float) -> dict[str, object]:
        """For status."""
        age_s = round(now_s - self.resolved_s, 1) if self.addresses else None
        return {"addresses": list(self.addresses), "addresses_age_s": age_s, "lookup_fault": self.fault}


class Names:
    """The names that pools use, each looked up once for all of them. Owned by the driver."""

    def __init__(self, loop: IOLoop, retirer: Retirer) -> None:
        self._loop, self._retirer = loop, retirer
        self._names: dict[tuple[str, int, float], Name] = {}
        self._routes = 0
        self._closed = False

    def join(self, host: str, port: int, ttl_s: float) -> Name | None:
        """The name, looked up from now on; None for what is no name, or never means another machine (RFC 6761 6.3)."""
        low = host.lower().rstrip(".")
        if _ADDRESS.fullmatch(host) or low == "localhost" or low.endswith(".localhost") or len(host) > LONGEST_NAME:
            return None
        key = host, port, max(ttl_s, SHORTEST_S)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = Name(*key)
            self._loop.add_callback(self._look_up, name)
        name.users += 1
        return name

    def leave(self, name: Name) -> None:
        """A pool uses the name no longer."""
        name.users -= 1
        if not name.users:
            self._names = {key: one for key, one in self._names.items() if one is not name}
            self._stop(name)

    def close(self) -> None:
        """Look nothing up any more."""
        self._closed = True
        for name in self._names.values():
            self._stop(name)

    def _stop(self, name: Name) -> None:
        if name.timer is not None:
            self._loop.remove_timeout(name.timer)
            name.timer = None

    def _look_up(self, name: Name) -> None:
        name.timer = None
        if name.users and not self._closed:
            told = self._loop.add_callback
            work = threading.Thread(target=_resolve, args=(name, told, self._found), name="lookup", daemon=True)
            try:
                work.start()
            except RuntimeError as error:  # no more threads: try again after the TTL
                self._found(name, (), str(error))

    def _found(self, name: Name, addresses: tuple[str, ...], fault: str) -> None:
        """The outcome of a lookup; `addresses` is empty where it failed."""
        if not name.users or self._closed:
            return
        name.timer = self._loop.call_later(name.ttl_s, self._look_up, name)
        if fault and fault != name.fault and name.addresses:
            LOG.warning("%s cannot be resolved, and stays at %s: %s", name.host, ", ".join(name.addresses), fault)
        name.fault = fault
        if not addresses:
            return
        name.resolved_s = clock.monotonic()
        if addresses != name.addresses:
            self._move(name, addresses)

    def _move(self, name: Name, addresses: tuple[str, ...]) -> None:
        before, old = name.addresses, name.route
        gone = set(before) - set(addresses)
        is_new = old is None or bool(gone)
        if is_new:
            self._routes += 1
        host = f"{name.host}.{self._routes}.relayd.invalid" if is_new or old is None else old.host
        entries = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
        resolve = [f"{host}:{name.port}:{entries}"]
        if is_new and old is not None:
            # Its entry in libcurl's cache is renewed with no new transfer: it must not stay there for ever. Transfers
            # that have begun may still need it, if their kept connection dies under them.
            resolve.append("+" + old.resolve[0])
        name.addresses = addresses
        name.route = Route(host, [f"::{host}:{name.port}"], resolve)
        if gone:
            LOG.info("%s resolves to %s, no longer to %s: new requests use new connections",
                     name.host, ", ".join(addresses), ", ".join(sorted(gone)))  # fmt: skip
        if is_new:
            self._retirer.retire(name)


def _resolve(name: Name, told: Callable[..., None], found: Callable[[Name, tuple[str, ...], str], None]) -> None:
    """In a thread of its own."""
    addresses: tuple[str, ...] = ()
    fault = ""
    try:
        entries = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        # A scope (fe80::1%eth0) cannot be given to libcurl.
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries if "%" not in str(entry[4][0])))
        fault = "" if addresses else "no usable address"
    except (OSError, UnicodeError) as error:
        fault = (error.strerror if isinstance(error, OSError) else None) or str(error)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        told(found, name, addresses, fault)


def without_route(message: str) -> str:
    """What libcurl says of a host, in terms of the endpoint's own name."""
    return _ROUTE.sub("", message)
