"""The addresses of endpoints' host names: resolved again after each TTL, so that connections follow the name.

Laws:
1. A lookup runs in a daemon thread: an unresponsive resolver delays neither the loop nor the end of the process.
2. Connections belong to a route: an artificial host name to which libcurl connects (CONNECT_TO) with given addresses
   (RESOLVE). libcurl caches connections by that host name, so that a new route means new connections.
3. The removal of an address creates a new route. Transfers finish on the old route, and its connections are closed when
   they are idle. Additional addresses and another order change no route.
4. A failed lookup changes nothing; until the first lookup succeeds, libcurl resolves the name by itself.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from tornado.ioloop import IOLoop

from relayd import clock
from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

LOG = logging.getLogger("relayd.transport")
SHORTEST_S = 1.0
LONGEST_NAME = 230  # libcurl accepts 255 bytes, including the suffix of a route
_ADDRESS = lazy_regex(r"[0-9.]+|\[?[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(%[^\]]*)?\]?")
_ROUTE = lazy_regex(r"\.[0-9]+\.relayd\.invalid\b")  # RFC 2606: no such name exists


@dataclass(frozen=True, slots=True)
class Route:
    """The libcurl options for one set of addresses: values of CONNECT_TO and RESOLVE."""

    host: str
    connect_to: list[str]
    resolve: list[str]


class ConnectionOwner(Protocol):
    """The owner of the connections: the driver."""

    def retire(self, name: Name) -> None:
        """Prevent new transfers from using a connection opened for this name."""


class Name:
    """A host name with a port, shared by the pools that use it. Owned by Names."""

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
    """The host names of all pools; each is looked up once for all its pools. Owned by the driver."""

    def __init__(self, loop: IOLoop, retirer: ConnectionOwner) -> None:
        self._loop, self._retirer = loop, retirer
        self._names: dict[tuple[str, int, float], Name] = {}
        self._routes = 0
        self._closed = False

    def join(self, host: str, port: int, ttl_s: float) -> Name | None:
        """Start using a name. Returns None for an address and for names of this machine (RFC 6761 6.3)."""
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
        """End the use of a name by one pool."""
        name.users -= 1
        if not name.users:
            self._names = {key: one for key, one in self._names.items() if one is not name}
            self._stop(name)

    def close(self) -> None:
        """Stop all lookups."""
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
            call_soon = self._loop.add_callback
            work = threading.Thread(target=_resolve, args=(name, call_soon, self._found), name="lookup", daemon=True)
            try:
                work.start()
            except RuntimeError as error:  # the thread limit is reached: try again after the TTL
                self._found(name, (), str(error))

    def _found(self, name: Name, addresses: tuple[str, ...], fault: str) -> None:
        """Store the result of a lookup; `addresses` is empty if it failed."""
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
            self._apply(name, addresses)

    def _apply(self, name: Name, addresses: tuple[str, ...]) -> None:
        before, old = name.addresses, name.route
        gone = set(before) - set(addresses)
        is_new = old is None or bool(gone)
        if is_new:
            self._routes += 1
        host = f"{name.host}.{self._routes}.relayd.invalid" if is_new or old is None else old.host
        entries = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
        resolve = [f"{host}:{name.port}:{entries}"]
        if is_new and old is not None:
            # No new transfer renews the old route's entry in libcurl's cache; "+" lets it expire. Running transfers may
            # still need the entry, if their keep-alive connection breaks.
            resolve.append("+" + old.resolve[0])
        name.addresses = addresses
        name.route = Route(host, [f"::{host}:{name.port}"], resolve)
        if gone:
            LOG.info("%s resolves to %s, no longer to %s: new requests use new connections",
                     name.host, ", ".join(addresses), ", ".join(sorted(gone)))  # fmt: skip
        if is_new:
            self._retirer.retire(name)


def lookup(host: str, port: int) -> tuple[tuple[str, ...], str]:
    """The addresses of a host that libcurl can use, and the cause if there are none. Blocks: call it in a thread."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return (), (error.strerror if isinstance(error, OSError) else None) or str(error)
    # A scope (fe80::1%eth0) cannot be given to libcurl.
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries if "%" not in str(entry[4][0])))
    return addresses, "" if addresses else "no usable address"


def _resolve(name: Name, call_soon: Callable[..., None], found: Callable[[Name, tuple[str, ...], str], None]) -> None:
    """Look up the name; runs in its own thread."""
    addresses, fault = lookup(name.host, name.port)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        call_soon(found, name, addresses, fault)


def without_route(message: str) -> str:
    """An error text of libcurl with the endpoint's own host name instead of the route's."""
    return _ROUTE.sub("", message)
